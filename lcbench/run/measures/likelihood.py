"""The per-token likelihood of a text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from lcbench.results.nll import TokenNll, added
from lcbench.results.schema import Likelihood as LikelihoodPart
from lcbench.run.measures.base import Measure, Measured, SampleRequest, cost_of
from lcbench.run.pace import work
from lcbench.run.plan import Job

Tell = Callable[[float], None] | None


class Likelihood(Measure):
    """Scores every window of a text separately, without the text before it."""

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        return [self._measured(one) for one in requests]

    def _measured(self, one: SampleRequest) -> Measured:
        job, example = one.job, one.example
        reading, head = example.reading, example.head
        assert reading is not None, f"{job.task.name} gives no text to read"
        scored = []
        for number, window in enumerate(reading.windows):
            tokens = head + example.context[window.start : window.stop]
            first, tell = len(head) + window.first - window.start, self._tell(job, number, len(reading.windows))
            scored.append(self.engine.read(tokens, first, job.cell.seq_len, tell))
        result = TokenNll(
            nll=np.concatenate([each.nll for each in scored]),
            start=np.array([window.start for window in reading.windows]),
            first=np.array([window.first for window in reading.windows]),
            stop=np.array([window.stop for window in reading.windows]),
            head=len(head),
            chars=added(reading.ends) if reading.ends else None,
            opening=crc32(reading.opening.encode()) if reading.ends else None,
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

    def _tell(self, job: Job, number: int, windows: int) -> Tell:
        """A callback for the share (0 to 1) of window `number` that is done. It reports the number of tokens of a
        prompt of the cell's length that are the same share of the work, since later tokens cost more than early
        ones."""
        on_prefill, length = self.on_prefill, job.cell.seq_len
        if on_prefill is None:
            return None

        def tell(share: float) -> None:
            done = (number + share) / windows * work(self.plan, job, length)
            on_prefill(job, bisect_left(range(length), done, key=lambda tokens: work(self.plan, job, tokens)), length)

        return tell
