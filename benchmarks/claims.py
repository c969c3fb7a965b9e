"""What papers claim of methods, and what the records of a run say of it: one statistic for every page.

A verdict is `shows`, `does not show`, `not decided` or `not measured`. Scores that fall or hold with length are shares
with Wilson's interval; two methods at one length are compared on the same samples, by McNemar's exact test or the
paired bootstrap, with Holm's correction over all claims of a kind. TOLERANCE, in scores or in nats a token, is how much
is not worth a claim: what surely differs by less does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lcbench.core.stats import mean_interval, wilson_interval
from lcbench.results.compare import CellResult, compare_records
from lcbench.results.compare.cells import LOWER_IS_BETTER
from lcbench.results.compare.pairs import paired
from lcbench.results.report.runs import Run
from lcbench.results.schema import Record

LEVEL = 0.05
TOLERANCE = 0.15  # which 50 equal pairs of answers show, also after the correction over as many claims as there are
SHOWS, DOES_NOT, OPEN, UNKNOWN = "shows", "does not show", "not decided", "not measured"
LEGEND = f"""*Shows*: the intervals at one and at so many times the trained length are disjoint, or the second method
is better than the first on the same samples (5 % over all claims of a model by Holm's correction); of what holds or
is kept, the loss is surely below {TOLERANCE:g}. *Does not show*: it is the other way round, or what is claimed is
surely below {TOLERANCE:g}. *Not decided*: no evidence either way, whatever the scores look like.
"""


@dataclass(frozen=True)
class Falls:
    """Without help a method scores less at `times` the trained length than within it."""

    text: str
    method: str
    times: int
    source: str = ""
    task: str = "passkey"


@dataclass(frozen=True)
class Holds(Falls):
    """At `times` the trained length a method scores what it does within it, or less by TOLERANCE at most."""


@dataclass(frozen=True)
class Better:
    """At `times` the trained length `new` scores more than `base`."""

    text: str
    base: str
    new: str
    times: int
    source: str = ""
    task: str = "passkey"


@dataclass(frozen=True)
class Keeps(Better):
    """At `times` the trained length `new` scores what `base` does, or less by TOLERANCE at most."""


Claim = Falls | Better


def verdicts(run: Run, claims: Sequence[Claim]) -> list[str]:
    """What a model's records say of each claim, in the order of the claims."""
    trained = run.identity.pretraining_length or 0
    pairs: dict[Claim, str] = {}
    for kind, verdict in ((Better, _better), (Keeps, _keeps)):
        pairs |= _paired([claim for claim in claims if type(claim) is kind], run.records, trained, verdict)
    return [pairs[claim] if isinstance(claim, Better) else _alone(claim, run.records, trained) for claim in claims]


def _alone(claim: Falls, records: Sequence[Record], trained: int) -> str:
    """The verdict on a method at two lengths."""
    about = _of_task(records, claim.task)
    near, far = (_scored(about, claim.method, trained * times) for times in (1, claim.times))
    near = near or _scored(about, "vanilla", trained)  # which a scaling equals within the window
    if not near or not far:
        return UNKNOWN
    if near[0].measured.scores.metric in LOWER_IS_BETTER:
        return _alone_in_nats(claim, near, far)
    shares = [[record.score or 0.0 for record in side] for side in (near, far)]
    before, after = (sum(side) / len(side) for side in shares)
    (least, _), (low, high) = (wilson_interval(sum(side), len(side)) for side in shares)
    holds = low > before - TOLERANCE
    if isinstance(claim, Holds):
        verdict = SHOWS if holds else DOES_NOT if high < before - TOLERANCE else OPEN
    else:
        verdict = SHOWS if high < least else DOES_NOT if holds else OPEN
    return f"{verdict}: {before:.2f} at 1x, {after:.2f} of {len(far)} at {claim.times}x"


def _alone_in_nats(claim: Falls, near: Sequence[Record], far: Sequence[Record]) -> str:
    """The same of the likelihood of the same texts, read to two lengths."""
    sides = [{record.prompt.document: record.score or 0.0 for record in side} for side in (near, far)]
    texts = sorted(sides[0].keys() & sides[1].keys(), key=str)
    low, high = (
        mean_interval([sides[1][text] - sides[0][text] for text in texts], seed=len(texts)) if texts else (None,) * 2
    )
    if low is None or high is None:
        return UNKNOWN
    holds, falls = high < TOLERANCE, low > TOLERANCE
    shown, denied = (holds, falls) if isinstance(claim, Holds) else (falls, holds)
    before, after = (math.exp(sum(side[text] for text in texts) / len(texts)) for side in sides)
    verdict = SHOWS if shown else DOES_NOT if denied else OPEN
    return f"{verdict}: perplexity {before:.2f} at 1x, {after:.2f} at {claim.times}x of {len(texts)} texts"


def _paired(
    claims: Sequence[Better], records: Sequence[Record], trained: int, verdict: Callable[[CellResult], str]
) -> dict[Claim, str]:
    """The verdicts on pairs of methods, by claim, corrected over all of them."""
    about = {claim.task: _of_task(records, claim.task) for claim in claims}
    wanted: tuple[list[Record], list[Record]] = [], []
    for task, own in about.items():
        here = [claim for claim in claims if claim.task == task]
        known = {record.identity.method for record in own}
        names = [f"{claim.base}={claim.new}" for claim in here if {claim.base, claim.new} <= known]
        at = {(f"{claim.base} -> {claim.new}", claim.times * trained) for claim in here}
        for side, found in zip(wanted, paired(own, own, names), strict=True):
            side += [one for one in found if (one.identity.method, one.identity.seq_len) in at]
    cells = {
        (cell.task, cell.method, cell.seq_len): cell for cell in compare_records(*wanted, LEVEL, tolerance=TOLERANCE)
    }
    said: dict[Claim, str] = {}
    for claim in claims:
        task = next((record.identity.task for record in about[claim.task]), claim.task)
        cell = cells.get((task, f"{claim.base} -> {claim.new}", claim.times * trained))
        said[claim] = UNKNOWN if cell is None or cell.effect is None or cell.tolerated is None else verdict(cell)
    return said


def _better(cell: CellResult) -> str:
    effect, (_, most) = cell.effect, _gain(cell)
    assert effect is not None
    p = effect.p if effect.p_adjusted is None else effect.p_adjusted
    gained = effect.difference * _sign(cell)
    denied = (most is not None and most < TOLERANCE) or (p <= LEVEL and gained < 0)
    return f"{SHOWS if p <= LEVEL and gained > 0 else DOES_NOT if denied else OPEN}: {_means(cell)}, p {p:.2g}"


def _keeps(cell: CellResult) -> str:
    _, most = _gain(cell)
    assert cell.tolerated is not None
    lost = most is not None and most < -TOLERANCE
    return f"{SHOWS if cell.tolerated.worse_adjusted <= LEVEL else DOES_NOT if lost else OPEN}: {_means(cell)}"


def _sign(cell: CellResult) -> int:
    return -1 if cell.metric in LOWER_IS_BETTER else 1


def _gain(cell: CellResult) -> tuple[float | None, float | None]:
    """The interval of what the second method gains."""
    assert cell.effect is not None
    low, high = cell.effect.low, cell.effect.high
    if low is None or high is None:
        return None, None
    return (low, high) if _sign(cell) > 0 else (-high, -low)


def _means(cell: CellResult) -> str:
    assert cell.effect is not None
    base, new, what = cell.effect.base, cell.effect.new, ""
    if cell.metric == "nll":
        base, new, what = math.exp(base), math.exp(new), "perplexity "
    return f"{what}{base:.2f} to {new:.2f} of {cell.pairs}"


def _of_task(records: Iterable[Record], task: str) -> list[Record]:
    """The records of a task; if it was asked in other words only, of these."""
    records = list(records)
    own = [record for record in records if record.identity.task == task]
    return own or [record for record in records if record.identity.task.startswith(f"{task}:")]


def _scored(records: Iterable[Record], method: str, seq_len: int) -> list[Record]:
    return [
        record
        for record in records
        if record.failure is None and (record.identity.method, record.identity.seq_len) == (method, seq_len)
    ]


def table(claims: Sequence[Claim], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Claims with their verdicts by model, as lines of Markdown; sources, where a claim has one."""
    sourced = any(claim.source for claim in claims)
    lines = [
        f"| claim | at |{' source |' if sourced else ''} {' | '.join(columns)} |",
        f"| --- | ---: |{' --- |' if sourced else ''}{' --- |' * len(columns)}",
    ]
    for claim, *said in zip(claims, *columns.values(), strict=True):
        source = f" {claim.source} |" if sourced else ""
        lines.append(f"| {claim.text} | {claim.times}x |{source} {' | '.join(said)} |")
    return lines
