"""The answer that a model generates to a prompt, scored as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from lcbench.engine.generate import Generation, Prompt, generate_together, never, stop_tokens
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.prefix_cache import PrefixCache
from lcbench.results.schema import Cost
from lcbench.run.batches import AT_ONCE
from lcbench.run.measures.base import Measure, Measured, SampleRequest
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example
from lcbench.tasks.chat import end_of_turn

BEFORE = 8  # tokens of a prompt that are decoded with the answer
TOKENS_TOGETHER = 16_384  # in the KV cache of a batch, prompts and answers: a longer prompt is answered alone


class Answer(Measure):
    """Greedy generation; prompts with a common prefix share its prefill, and short ones are decoded as a batch."""

    def __init__(self, plan: Plan, model: PreTrainedModel, folder: Path, *, shares: bool) -> None:
        super().__init__(plan, model, folder, shares=shares)
        self._prefixes = PrefixCache(model.config) if shares else None
        self._stop_tokens = stop_tokens(model, plan.tokenizer) | end_of_turn(plan.tokenizer)
        self._at_once: dict[int, int] = {}  # largest batch by length, where AT_ONCE ran out of memory

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        reset_peak_memory(self.device)
        answers = [[one] for one in self._generate([one.example.prompt for one in requests], requests, self._prefixes)]
        again = [n for n, one in enumerate(requests) if one.example.follow_up]
        follow_ups = self._generate([requests[n].example.follow_up for n in again], [requests[n] for n in again])
        for n, follow_up in zip(again, follow_ups):
            answers[n].append(follow_up)
        peak = peak_memory(self.device)
        return [self._measured(one.job, one.example, answer, peak) for one, answer in zip(requests, answers)]

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """Batches of as many requests as fit into TOKENS_TOGETHER, padding included."""
        while requests:
            count, longest, most = 0, 0, AT_ONCE
            for one in requests:
                longest = max(longest, len(one.example.prompt) + one.example.max_new_tokens)
                most = min(most, self._at_once.get(one.job.cell.seq_len, AT_ONCE))
                if count and (count == most or (count + 1) * longest > TOKENS_TOGETHER):
                    break
                count += 1
            yield requests[:count]
            requests = requests[count:]

    def take_less_memory(self, requests: Sequence[SampleRequest]) -> str | None:
        if len(requests) == 1:
            return super().take_less_memory(requests)
        half = self._at_once[max(one.job.cell.seq_len for one in requests)] = len(requests) // 2
        return f"{half} prompts at once" if half > 1 else "one prompt at a time"

    def _measured(self, job: Job, example: Example, generations: Sequence[Generation], peak: int) -> Measured:
        prompts = [example.prompt, example.follow_up]
        texts = [cut(self._text(one.tokens, prompt), example.stop) for one, prompt in zip(generations, prompts)]
        return Measured(
            prediction=job.task.joined(texts),
            output_tokens=sum(len(one.tokens) for one in generations),
            finish_reason=generations[-1].finish_reason,
            cost=Cost(
                prefill_seconds=round(sum(one.prefill_seconds for one in generations), 6),
                decode_seconds=round(sum(one.decode_seconds for one in generations), 6),
                peak_memory_bytes=peak,
                reused_tokens=generations[0].reused,
                decoded_together=generations[0].together,
            ),
        )

    def _generate(
        self, prompts: list[list[int]], requests: Sequence[SampleRequest], prefixes: PrefixCache | None = None
    ) -> list[Generation]:
        given = [
            Prompt(
                prompt,
                example.max_new_tokens,
                self._watch(prompt, example),
                self.chunk_size(job),
                self._on_prefill(job, prompt),
            )
            for prompt, (job, _, example) in zip(prompts, requests)
        ]
        return generate_together(self.model, given, self._stop_tokens, prefixes) if given else []

    def _on_prefill(self, job: Job, prompt: list[int]) -> Callable[[int], None] | None:
        report = self.on_prefill
        return None if report is None else lambda tokens: report(job, tokens, len(prompt))

    def _watch(self, prompt: list[int], example: Example) -> Callable[[list[int]], bool]:
        """A function of the answer's tokens that ends the answer at one of the task's stop strings."""

        def ended(tokens: list[int]) -> bool:
            # Each token decodes to at least one byte, so a stop string of n bytes lies within the last n + 1 tokens.
            text = self._text(tokens[-longest - 1 :], prompt)
            return any(stop in text for stop in example.stop)

        longest = max((len(stop.encode()) for stop in example.stop), default=0)
        return ended if example.stop else never

    def _text(self, tokens: list[int], prompt: list[int]) -> str:
        """The text of tokens that follow a prompt; decoded alone, SentencePiece tokenizers lose a leading space."""

        def decode(ids: list[int]) -> str:
            return str(self.plan.tokenizer.decode(ids))  # with special tokens: one of them may be the answer

        before, both = decode(prompt[-BEFORE:]), decode(prompt[-BEFORE:] + tokens)
        return both[len(before) :] if both.startswith(before) else decode(tokens)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string, which is left out."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
