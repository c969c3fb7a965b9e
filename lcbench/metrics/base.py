"""What a metric is: an answer against one reference, the best of several references, the average over a corpus.

The three steps stand apart because the official scorers differ in them and nowhere else: ROUGE takes its maxima and its
averages per part and only then a geometric mean, RULER averages over references where others take the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

THINK = ("<think>", "</think>")
DECIMALS = 4  # of every score, as the SCROLLS and L-Eval scorers round


def without_reasoning(prediction: str) -> str:
    """The answer behind the reasoning of a thinking model; empty where the reasoning did not come to its end.

    The opening mark is missing where a chat template has written it at the end of the prompt.
    """
    if THINK[1] in prediction:
        return prediction.rpartition(THINK[1])[2].lstrip()
    return "" if prediction.lstrip().startswith(THINK[0]) else prediction


@dataclass(frozen=True)
class Scored:
    """One answer scored: `numbers` from 0 to 1, to be averaged, and `details`, which belong to this answer alone."""

    numbers: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def best(scored: Sequence[Scored]) -> Scored:
    """The maximum of each number over the references; the details are those of the first best reference."""
    details = max(scored, key=lambda one: sum(one.numbers.values())).details
    return Scored({part: max(one.numbers[part] for one in scored) for part in scored[0].numbers}, details)


def mean(scored: Sequence[Scored]) -> Scored:
    """The mean of each number over the references, for answers that must hold all of them."""
    return Scored({part: sum(one.numbers[part] for one in scored) / len(scored) for part in scored[0].numbers})


def as_it_is(parts: dict[str, float]) -> dict[str, float]:
    """For metrics whose rows have a `score` already."""
    return parts


def headed_by(part: str) -> Callable[[dict[str, float]], dict[str, float]]:
    """The score is this part."""
    return lambda parts: {"score": parts[part], **parts}


@dataclass(frozen=True)
class Metric:
    """How the answers of one task are scored.

    `compare(prediction, reference)` scores an answer against one reference, `over_references` puts several references
    together, `summarize` makes the parts of a corpus (averages, 0 to 100, not rounded) with `score` among them.
    """

    compare: Callable[..., Scored]
    over_references: Callable[[Sequence[Scored]], Scored] = best
    summarize: Callable[[dict[str, float]], dict[str, float]] = as_it_is
    needs_classes: bool = False

    def row(self, prediction: str, references: Sequence[str], **options: Any) -> Scored:
        """One answer against all its references; `options` is what `compare` needs besides."""
        return self.over_references([self.compare(prediction, reference, **options) for reference in references])

    def average(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The parts of these rows on the 0 to 100 scale, rounded."""
        parts = {part: 100.0 * sum(row.numbers[part] for row in rows) / len(rows) for part in rows[0].numbers}
        return {part: round(value, DECIMALS) for part, value in self.summarize(parts).items()}

    def total(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The parts of a corpus, its rows in the order of the data."""
        return self.average(rows)


@dataclass(frozen=True)
class TurnMetric(Metric):
    """A metric for data whose rows go round `turns` kinds of question; each kind counts the same."""

    turns: int = 3

    def total(self, rows: Sequence[Scored]) -> dict[str, float]:
        """`turn_1`, `turn_2`, ... beside the parts, which are the means of the turns' rounded parts."""
        turns = [self.average(rows[turn :: self.turns]) for turn in range(min(self.turns, len(rows)))]
        parts = {part: round(sum(turn[part] for turn in turns) / len(turns), DECIMALS) for part in turns[0]}
        return parts | {f"turn_{number}": turn["score"] for number, turn in enumerate(turns, 1)}
