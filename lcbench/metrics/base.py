"""The interface of a metric: an answer against one reference, aggregation over references, average over a corpus.

The three steps are separate because the official scorers differ in them: ROUGE takes maxima and averages per part and
only then a geometric mean; RULER averages over references where others take the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

DECIMALS = 4  # of every score, as in the SCROLLS and L-Eval scorers


@dataclass(frozen=True)
class Scored:
    """The score of one answer: `numbers` from 0 to 1, which are averaged, and `details` of this answer, which are
    not."""

    numbers: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def best(scored: Sequence[Scored]) -> Scored:
    """The maximum of each number over the references; the details are those of the first best reference."""
    details = max(scored, key=lambda one: sum(one.numbers.values())).details
    return Scored({part: max(one.numbers[part] for one in scored) for part in scored[0].numbers}, details)


def mean(scored: Sequence[Scored]) -> Scored:
    """The mean of each number over the references, for answers that must contain all of them."""
    return Scored({part: sum(one.numbers[part] for one in scored) / len(scored) for part in scored[0].numbers})


def as_it_is(parts: dict[str, float]) -> dict[str, float]:
    """The identity, for metrics whose rows already have a `score`."""
    return parts


def headed_by(part: str) -> Callable[[dict[str, float]], dict[str, float]]:
    """A summary whose `score` is this part."""
    return lambda parts: {"score": parts[part], **parts}


@dataclass(frozen=True)
class Metric:
    """How the answers of one task are scored.

    `compare(prediction, reference)` scores an answer against one reference, `over_references` aggregates over several
    references, `summarize` maps the averages over a corpus (0 to 100, not rounded) to its parts, `score` included.
    """

    compare: Callable[..., Scored]
    over_references: Callable[[Sequence[Scored]], Scored] = best
    summarize: Callable[[dict[str, float]], dict[str, float]] = as_it_is
    needs_classes: bool = False
    numeric: bool = False  # the data set stores its references as numbers, and the rule tells them from texts
    may_be_empty: bool = False  # an answer may have no reference

    def row(self, prediction: str, references: Sequence[Any], **options: Any) -> Scored:
        """One answer against all its references; `options` are further arguments of `compare`."""
        return self.over_references([self.compare(prediction, reference, **options) for reference in references])

    def average(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The parts averaged over these rows, from 0 to 100, rounded."""
        parts = {part: 100.0 * sum(row.numbers[part] for row in rows) / len(rows) for part in rows[0].numbers}
        return {part: round(value, DECIMALS) for part, value in self.summarize(parts).items()}

    def total(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The parts of a corpus, with rows in the order of the data."""
        return self.average(rows)


@dataclass(frozen=True)
class JointMetric(Metric):
    """A metric whose `compare(prediction, references)` takes all references at once: the nodes of a set, or an answer
    and what the rule needs beside it."""

    def row(self, prediction: str, references: Sequence[Any], **options: Any) -> Scored:
        return self.compare(prediction, references, **options)


@dataclass(frozen=True)
class TurnMetric(Metric):
    """A metric for data whose rows cycle through `turns` kinds of question, which have equal weight."""

    turns: int = 3

    def total(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The parts, means of the rounded parts of all turns, with `turn_1`, `turn_2`, ... for the score of each
        turn."""
        turns = [self.average(rows[turn :: self.turns]) for turn in range(min(self.turns, len(rows)))]
        parts = {part: round(sum(turn[part] for turn in turns) / len(turns), DECIMALS) for part in turns[0]}
        return parts | {f"turn_{number}": turn["score"] for number, turn in enumerate(turns, 1)}
