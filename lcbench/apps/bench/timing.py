"""How something is timed: variants in turns, the median of the rounds, and the ratio to another within each round.

A machine that is busy with other things is so for all variants of a round, and a ratio within a round hardly sees it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lcbench.core.lazy import torch

T = TypeVar("T")

TURN = 0.25  # seconds that a turn lasts at least: what is shorter is called several times
MOST_CALLS = 100


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds. A single round has no quartiles: None."""

    median: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], None, None)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def ratios(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Of the ratios within each round."""
    return Spread.of([value / other for value, other in zip(values, others, strict=True)])


@dataclass(frozen=True)
class Clock:
    """Seconds of work on a device.

    On a CPU with one thread this is the CPU time of the process, which other processes on the machine do not enter;
    with more threads, whose sum tells nothing, and on a GPU it is wall time.
    """

    device: torch.device
    of_process: bool

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        return cls(device, device.type == "cpu" and torch.get_num_threads() == 1)

    @property
    def name(self) -> str:
        return "CPU time of the process" if self.of_process else "wall time"

    def seconds(self, work: Callable[[], object]) -> float:
        """One call of `work`, to its end on the device."""
        self._wait()
        read = time.process_time if self.of_process else time.perf_counter
        started = read()
        work()
        self._wait()
        return read() - started

    def turn(self, work: Callable[[], object]) -> float:
        """Seconds a call of `work`, over as many calls as fill a turn. The first call of several is not counted: it
        makes the tables of sines and cosines, say."""
        first = self.seconds(work)
        if first >= TURN:
            return first
        calls = min(MOST_CALLS, math.ceil(TURN / max(first, 1e-9)))
        return self.seconds(lambda: [work() for _ in range(calls)]) / calls

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def interleaved(
    turns: dict[str, Callable[[], T]], rounds: int, failed: Callable[[str, Exception], bool], warm_up: int = 1
) -> dict[str, list[T]]:
    """What each turn returned in each round, every round beginning with the next one; `warm_up` rounds before them are
    not counted.

    A turn that raises an error which `failed` (name, error) answers True to is left out from then on.
    """
    answers: dict[str, list[T]] = {name: [] for name in turns}
    for number in range(-warm_up, rounds):
        names = list(answers)
        start = max(number, 0) % max(len(names), 1)
        for name in names[start:] + names[:start]:
            try:
                answer = turns[name]()
            except Exception as error:
                if not failed(name, error):
                    raise
                del answers[name]
                continue
            if number >= 0:
                answers[name].append(answer)
    return answers
