"""The answer that a model generates to a prompt, scored as text; preceded by a thought if the task has a budget for
it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lcbench.core.thinking import require_markers
from lcbench.engine.base import CallCost, Output, PromptRequest
from lcbench.engine.sampling import Sampling
from lcbench.run.measures.base import Measure, Measured, SampleRequest, cost_of
from lcbench.run.measures.thought import Thinking, Thought, cost_of_both, split_answer
from lcbench.tasks import Example, Task
from lcbench.tasks.chat import end_of_turn


@dataclass(frozen=True)
class Reply:
    """The reply to a prompt: the output, the thought before it, and the cost of both."""

    output: Output
    thought: Thought | None
    cost: CallCost


class Answer(Measure):
    """Greedy generation, or sampling; prompts with a common prefix share its prefill, and short ones are decoded as a
    batch."""

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        first = self._replies(requests, [one.example.prompt for one in requests])
        turns = [[(one.example.prompt, reply)] for one, reply in zip(requests, first, strict=True)]
        again = {
            n: one._replace(example=_second(one.example, self._said(one, *turns[n][0])[1]))
            for n, one in enumerate(requests)
            if one.example.follow_up or one.example.follow_up_of
        }
        if again:
            prompts = [one.example.prompt for one in again.values()]
            others = self._replies(list(again.values()), prompts, follow_up=True)
            for n, prompt, reply in zip(again, prompts, others, strict=True):
                turns[n].append((prompt, reply))
        return [self._measured(one, each) for one, each in zip(requests, turns, strict=True)]

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """Batches of the size that the engine takes at once."""
        while requests:
            count = self.engine.together(map(self.request, requests))
            yield requests[:count]
            requests = requests[count:]

    def request(self, one: SampleRequest) -> PromptRequest:
        """The example's prompt, with the budget for everything generated after it."""
        request = super().request(one)
        return replace(request, max_new_tokens=request.max_new_tokens + one.job.task.thought_tokens)

    def _replies(
        self, samples: Sequence[SampleRequest], prompts: list[list[int]], *, follow_up: bool = False
    ) -> list[Reply]:
        part, shared = ("follow_up" if follow_up else "prompt"), not follow_up
        before = [0 if follow_up else one.example.begun for one in samples]
        thoughts = self._thoughts(samples, [p[: len(p) - n] for p, n in zip(prompts, before)], part, shared=shared)
        requests = []
        for one, prompt, n, found in zip(samples, prompts, before, thoughts, strict=True):
            thought = found[0] if found else None
            behind = [*prompt[: len(prompt) - n], *thought.behind, *prompt[len(prompt) - n :]] if thought else prompt
            request = self._ask(one, behind, f"answer to {part}")
            requests.append(replace(request, on_prefill=None) if found else request)
        outputs = self.engine.generate(requests, shared=shared)
        return [
            Reply(output, found[0], cost_of_both(found[1], output.cost)) if found else Reply(output, None, output.cost)
            for found, output in zip(thoughts, outputs, strict=True)
        ]

    def _thoughts(
        self, samples: Sequence[SampleRequest], prompts: list[list[int]], part: str, *, shared: bool
    ) -> list[tuple[Thought | None, CallCost] | None]:
        """The thought before each answer, with its cost; None for a task without thoughts."""
        found: list[tuple[Thought | None, CallCost] | None] = [None] * len(samples)
        task = samples[0].job.task  # the same for all: a group has one task
        if not task.thought_tokens or self._thinks_at_once(task):
            return found
        markers = require_markers(task.name, self.plan.tokenizer, task.think_end)
        thinking = Thinking(self.plan.tokenizer, markers, task.thought_tokens)
        open_ = [n for n, prompt in enumerate(prompts) if not thinking.is_over(prompt)]
        requests = [
            replace(
                self._ask(samples[n], prompts[n], f"thought on {part}"),
                max_new_tokens=thinking.budget,
                stop=(markers.end,),
                end_tokens=frozenset(),  # a turn may end between a thought and its answer
            )
            for n in open_
        ]
        outputs = self.engine.generate(requests, shared=shared) if requests else []
        for n, output in zip(open_, outputs, strict=True):
            found[n] = thinking.thought(prompts[n], output), output.cost
        return found

    def _said(self, one: SampleRequest, prompt: list[int], reply: Reply) -> tuple[str | None, str, bool | None]:
        """The thought in a reply (None without one), its answer, and whether the thought was cut (None: unknown)."""
        task, tokenizer = one.job.task, self.plan.tokenizer
        output, stop = reply.output, one.example.stop
        text = cut(output.text, stop)
        if reply.thought is not None:
            markers = require_markers(task.name, tokenizer, task.think_end)
            return reply.thought.text, markers.unwrapped(text), reply.thought.cut
        if output.thought is not None:
            # Without an answer: a stop string may have ended the thought, or an answer that began with it.
            unfinished = {"length": True, "stop": False}.get(output.finish_reason or "")
            return output.thought.strip(), text, False if text else unfinished
        at_once = self._thinks_at_once(task)  # then stop strings were not sent, and are for the answer alone
        whole, templated = output.text if at_once else text, self.plan.source.own_template
        thought, text, was_cut = split_answer(tokenizer, task.think_end, prompt, whole, templated=templated)
        return thought, cut(text, stop) if at_once else text, was_cut

    def _thinks_at_once(self, task: Task) -> bool:
        """Whether a thought and its answer come from one call: nothing can be put after a thought where the engine puts
        its own template around a prompt."""
        return bool(task.thought_tokens) and self.plan.source.own_template

    def _measured(self, one: SampleRequest, turns: Sequence[tuple[list[int], Reply]]) -> Measured:
        task, replies = one.job.task, [reply for _, reply in turns]
        said = [self._said(one, *turn) for turn in turns]
        texts, thoughts = [text for _, text, _ in said], [thought for thought, _, _ in said if thought is not None]
        budgeted = [reply.thought for reply in replies if reply.thought]
        return Measured(
            prediction=task.joined(texts),
            output_tokens=sum(reply.output.tokens for reply in replies),
            finish_reason=replies[-1].output.finish_reason,
            reasoning="\n\n".join(thoughts) if thoughts else None,
            reasoning_tokens=sum(one.tokens for one in budgeted) if budgeted else None,
            reasoning_cut=_any(cut for thought, _, cut in said if thought is not None),
            cost=cost_of([reply.cost for reply in replies]),
        )

    def _ask(self, one: SampleRequest, prompt: list[int], part: str) -> PromptRequest:
        seed = f"{one.example.seed}|{one.sample % one.job.task.repeats}|{part}"
        request, at_once = self._request(one, prompt), self._thinks_at_once(one.job.task)
        return replace(
            request,
            max_new_tokens=request.max_new_tokens + (one.job.task.thought_tokens if at_once else 0),
            stop=() if at_once else one.example.stop,  # a thought may have them, too
            end_tokens=end_of_turn(self.plan.tokenizer),
            sampling=self._sampling.get(one.job.task.sampling),
            seed=int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]),
        )

    @cached_property
    def _sampling(self) -> dict[str, Sampling]:
        return {text: Sampling.parse(text) for text in {job.task.sampling for job in self.plan.jobs} if text}


def _any(cuts: Iterable[bool | None]) -> bool | None:
    """Whether any is True; None if all are unknown or there are none."""
    found = set(cuts)
    return True if True in found else False if found == {False} else None


def _second(example: Example, said: str) -> Example:
    """The example's second prompt, as an example, given the answer `said` to the first."""
    prompt = example.follow_up_of(said) if example.follow_up_of else example.follow_up
    budget = example.max_new_tokens if example.follow_up_tokens is None else example.follow_up_tokens
    return replace(example, head=[], context=[], tail=prompt, max_new_tokens=budget)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string, which is left out."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
