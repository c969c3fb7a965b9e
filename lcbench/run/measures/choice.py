"""Multiple choice: the most likely of the allowed answers."""

from __future__ import annotations

from collections.abc import Sequence

from lcbench.run.measures.base import Measure, Measured, SampleRequest, cost_of


class Choice(Measure):
    """The choice with the highest log-likelihood, summed over its tokens as in lm-evaluation-harness's `acc`. A record
    has the log-likelihoods of the choices that had to be scored. Prompts with a common prefix share its prefill."""

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        return [self._measured(one) for one in requests]

    def _measured(self, one: SampleRequest) -> Measured:
        found = self.engine.continuations(self.request(one), one.example.choices)
        return Measured(
            prediction=max(found.logs, key=found.logs.__getitem__),
            choices={choice: round(log, 4) for choice, log in found.logs.items()},
            cost=cost_of([found.cost]),
        )
