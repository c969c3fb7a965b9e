"""The result of a comparison of two runs: cells with verdicts, and the settings of the two runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcbench.results.lengths import in_tokens

SETTINGS = ("model", "weights", "dtype", "device", "lcbench", "torch", "transformers", "hardware")
Verdict = Literal["regressed", "improved", "non-inferior", "no evidence", "not comparable"]
VERDICTS: tuple[Verdict, ...] = ("regressed", "improved", "non-inferior", "no evidence", "not comparable")


@dataclass(frozen=True)
class Effect:
    """The difference between the paired samples of a cell.

    Means of both runs, the difference with its 95 % interval (None if too few samples differ to estimate it), and the
    p-value of "no difference", before and after the correction over all cells. `noise`: for scores of 0 and 1 the share
    of pairs that changed against the majority of changes, else the standard deviation of the differences. `identical`:
    all pairs have equal scores.
    """

    test: Literal["McNemar", "bootstrap"]
    base: float
    new: float
    low: float | None
    high: float | None
    p: float
    p_adjusted: float | None = None
    noise: float = 0.0
    identical: bool = False

    @property
    def difference(self) -> float:
        return self.new - self.base


@dataclass(frozen=True)
class Tolerated:
    """The tests of a cell against the tolerance, which is `size` in units of its metric.

    p-values of "it is worse by `size` or more" (`worse`; non-inferiority) and of "it differs by `size` or more, either
    way" (`apart`; equivalence), before and after the correction over all cells. `bound` is the one-sided 1 - alpha
    confidence bound of the difference; None if too few samples differ to estimate it.
    """

    size: float
    bound: float | None
    worse: float
    apart: float
    worse_adjusted: float = 1.0
    apart_adjusted: float = 1.0


@dataclass(frozen=True)
class Ratios:
    """NEW over BASE, median of the paired samples: prefill seconds per computed token, decode seconds per output token,
    peak memory. None where it was not recorded."""

    prefill: float | None = None
    decode: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Limits:
    """Cost ratios beyond which a cell counts as regressed; None: no limit."""

    slowdown: float | None = None
    memory: float | None = None

    def exceeded(self, ratios: Ratios) -> list[str]:
        """Sentences on the ratios that exceed their limit."""
        checks = (
            ("prefill takes {:.2f} times as long", ratios.prefill, self.slowdown),
            ("decoding takes {:.2f} times as long", ratios.decode, self.slowdown),
            ("memory is {:.2f} times as much", ratios.memory, self.memory),
        )
        return [words.format(ratio) for words, ratio, limit in checks if ratio and limit and ratio > limit]


@dataclass(frozen=True)
class CellResult:
    """One (task, method, length) over all its depths: the verdict, the reason, and the effect if there are pairs.

    `pairs` counts the samples scored on both sides, each once, however often it was answered; `gaps` names those that
    are missing or failed on one side. `equals` is the method that both sides are, or equal, at this length, if records
    say so, else empty. `tolerated` is None without a tolerance or an effect.
    """

    task: str
    method: str
    seq_len: int
    metric: str
    verdict: Verdict
    why: str
    pairs: int = 0
    effect: Effect | None = None
    ratios: Ratios = Ratios()
    gaps: tuple[str, ...] = ()
    equals: str = ""
    tolerated: Tolerated | None = None

    @property
    def name(self) -> str:
        return f"{self.task}, {self.method}, {in_tokens(self.seq_len)} tokens"


@dataclass(frozen=True)
class Side:
    """One of the two runs: its folder, its settings as text (model, versions, hardware), and the number of planned
    samples that it lacks."""

    folder: str
    facts: dict[str, str]
    missing: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared cell by cell; `alpha` is the family-wise error rate of the verdicts on scores, `tolerance` the
    drop below which a cell did not regress, as a share of the full score or in nats per token; None: no tolerance."""

    base: Side
    new: Side
    alpha: float
    limits: Limits
    cells: list[CellResult]
    tolerance: float | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All possible verdicts."""
        return tuple(verdict for verdict in VERDICTS if verdict != "non-inferior" or self.tolerance is not None)

    def equivalent(self, cell: CellResult) -> bool:
        """Whether a cell differs with confidence by less than the tolerance, either way."""
        return cell.tolerated is not None and cell.tolerated.apart_adjusted <= self.alpha

    def having(self, verdict: Verdict) -> list[CellResult]:
        return [cell for cell in self.cells if cell.verdict == verdict]

    @property
    def testable(self) -> list[CellResult]:
        """The cells that can differ: within one run, equal methods share their results and cannot."""
        one_run = self.base.folder == self.new.folder
        return [cell for cell in self.cells if not (one_run and cell.equals)]

    @property
    def identical(self) -> bool:
        """Whether every cell has pairs, and all of them equal scores."""
        return bool(self.cells) and all(cell.effect is not None and cell.effect.identical for cell in self.cells)

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """(name, BASE, NEW) of the settings that differ and can change a score or a time."""
        return [fact for fact in self.facts if fact[0] in SETTINGS and fact[1] != fact[2]]

    @property
    def summary(self) -> str:
        """In words: `12 cells: 2 regressed, 1 improved, 9 no evidence, 0 not comparable`."""
        counts = ", ".join(f"{len(self.having(verdict))} {verdict}" for verdict in self.verdicts)
        return f"{len(self.cells)} cell{'' if len(self.cells) == 1 else 's'}: {counts}"

    @property
    def facts(self) -> list[tuple[str, str, str]]:
        """(name, BASE, NEW) of every setting."""
        names = dict.fromkeys([*self.base.facts, *self.new.facts])
        sides = [("run", self.base.folder, self.new.folder)]
        return sides + [(name, self.base.facts.get(name, ""), self.new.facts.get(name, "")) for name in names]
