"""The likelihood that a model gives to a text, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcbench.results.nll import TokenNll
from lcbench.results.schema import Likelihood as LikelihoodPart
from lcbench.run.measures.base import Measure, Measured, SampleRequest, cost_of


class Likelihood(Measure):
    """Scores every window of a text by itself, as if nothing stood before it."""

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        return [self._measured(one) for one in requests]

    def _measured(self, one: SampleRequest) -> Measured:
        job, example = one.job, one.example
        reading, head = example.reading, example.head
        assert reading is not None, f"{job.task.name} gives no text to read"
        scored = []
        for window in reading.windows:
            tokens = head + example.context[window.start : window.stop]
            scored.append(self.engine.read(tokens, len(head) + window.first - window.start, job.cell.seq_len))
        result = TokenNll(
            nll=np.concatenate([each.nll for each in scored]),
            start=np.array([window.start for window in reading.windows]),
            first=np.array([window.first for window in reading.windows]),
            stop=np.array([window.stop for window in reading.windows]),
            head=len(head),
        )
        size, words = (sum(getattr(window, unit) for window in reading.windows) for unit in ("bytes", "words"))
        return Measured(
            scores=result.scores(size, words),
            nll=LikelihoodPart(
                file=result.write(self.folder, f"{job.task.name}/{job.method}/{job.cell.key}/{example.seed}"),
                averaging=reading.averaging,
                tokens=len(result.nll),
                bytes=size,
                words=words,
                buckets=result.buckets(),
            ),
            cost=cost_of([each.cost for each in scored]),
        )
