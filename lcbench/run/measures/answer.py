"""The answer that a model generates to a prompt, scored as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lcbench.engine.base import Output, PromptRequest
from lcbench.run.measures.base import Measure, Measured, SampleRequest, cost_of
from lcbench.tasks.chat import end_of_turn


class Answer(Measure):
    """Greedy generation; prompts with a common prefix share its prefill, and short ones are decoded as a batch."""

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        answers = [[output] for output in self.engine.generate([self.request(one) for one in requests])]
        again = [n for n, one in enumerate(requests) if one.example.follow_up]
        if again:
            follow_ups = [self._request(requests[n], requests[n].example.follow_up) for n in again]
            for n, output in zip(again, self.engine.generate(follow_ups, shared=False), strict=True):
                answers[n].append(output)
        return [self._measured(one, outputs) for one, outputs in zip(requests, answers, strict=True)]

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """Batches of as many requests as the engine takes at once."""
        while requests:
            count = self.engine.together(map(self.request, requests))
            yield requests[:count]
            requests = requests[count:]

    def _measured(self, one: SampleRequest, outputs: Sequence[Output]) -> Measured:
        texts = [cut(output.text, one.example.stop) for output in outputs]
        return Measured(
            prediction=one.job.task.joined(texts),
            output_tokens=sum(output.tokens for output in outputs),
            finish_reason=outputs[-1].finish_reason,
            cost=cost_of([output.cost for output in outputs]),
        )

    def _request(self, one: SampleRequest, prompt: list[int]) -> PromptRequest:
        return replace(
            super()._request(one, prompt),
            stop=one.example.stop,
            end_tokens=end_of_turn(self.plan.tokenizer),
        )


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string, which is left out."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
