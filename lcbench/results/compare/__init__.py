"""Did anything truly get worse? Two runs, compared on the same samples, cell by cell.

A cell is a (task, method, length), over all its depths. The runs may differ in the model, the code or the machine; the
prompts must be the same, token by token, or else the cell is not comparable. Scores of 0 and 1 are compared by
McNemar's exact test, all others by a paired bootstrap, and Holm's correction over all cells keeps the family-wise error
rate at or below alpha. A cell or depth that only BASE has, and a sample that newly fails, is a regression.

With a tolerance, drops that are certainly smaller do not count: a cell is non-inferior if the one-sided test of "worse
by the tolerance or more" rejects (Tango's score test, or a one-sided bootstrap), and equivalent if that of "better by
the tolerance or more" rejects, too (TOST); Holm's correction is applied to each of the two tests separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lcbench.core.stats import holm
from lcbench.results.compare.cells import LOWER_IS_BETTER, Key, Level, Records, compare_cell
from lcbench.results.compare.pairs import paired
from lcbench.results.compare.result import VERDICTS, CellResult, Comparison, Effect, Limits, Ratios, Side
from lcbench.results.manifest import Git, Hardware, Manifest, Session
from lcbench.results.records import read_manifest, read_records
from lcbench.results.schema import Record

__all__ = ["VERDICTS", "CellResult", "Comparison", "Effect", "Limits", "Ratios", "Side", "compare", "compare_records"]

NO_LIMITS = Limits()


def compare(
    base: Path,
    new: Path,
    alpha: float = 0.05,
    limits: Limits = NO_LIMITS,
    pairs: Sequence[str] = (),
    tolerance: float | None = None,
) -> Comparison:
    """Compare the runs in two folders; with `pairs` (`A=B`) method A of BASE with method B of NEW, and nothing else.
    `tolerance`: a share of the full score; for likelihoods, nats per token.

    Raises: UserError for a folder without records, a field that is wrong, or a pair of unknown methods.
    """
    manifests = [read_manifest(folder) for folder in (base, new)]
    before, after = read_records(base), read_records(new)
    sides = _side(base, manifests[0], before), _side(new, manifests[1], after)
    if pairs:
        before, after = paired(before, after, pairs)
    cells = compare_records(before, after, alpha, limits, tolerance)
    return Comparison(*sides, alpha, limits, cells, tolerance)


def compare_records(
    base: Sequence[Record],
    new: Sequence[Record],
    alpha: float = 0.05,
    limits: Limits = NO_LIMITS,
    tolerance: float | None = None,
) -> list[CellResult]:
    """The results of the cells of BASE in its order, then of those that only NEW has."""
    before, after = _by_cell(base), _by_cell(new)
    keys = list(dict.fromkeys([*before, *after]))
    level = Level(alpha, len(keys), tolerance)
    cells = [compare_cell(key, before.get(key, {}), after.get(key, {}), level) for key in keys]
    return [_judge(cell, alpha, limits) for cell in _corrected(cells)]


def _by_cell(records: Sequence[Record]) -> dict[Key, Records]:
    cells: dict[Key, Records] = {}
    for record in records:
        one = record.identity
        cells.setdefault((one.task, one.method, one.seq_len), {})[one.id] = record
    return cells


def _corrected(cells: list[CellResult]) -> list[CellResult]:
    adjusted = iter(holm([cell.effect.p for cell in cells if cell.effect]))
    worse = iter(holm([cell.tolerated.worse for cell in cells if cell.tolerated]))
    apart = iter(holm([cell.tolerated.apart for cell in cells if cell.tolerated]))
    found = []
    for cell in cells:
        if cell.effect:
            cell = replace(cell, effect=replace(cell.effect, p_adjusted=next(adjusted)))
        if cell.tolerated:
            both = {"worse_adjusted": next(worse), "apart_adjusted": next(apart)}
            cell = replace(cell, tolerated=replace(cell.tolerated, **both))
        found.append(cell)
    return found


def _judge(cell: CellResult, alpha: float, limits: Limits) -> CellResult:
    """The cell with its verdict: regressed by lost samples, by scores or by cost limits, each with its reason. Worse
    scores are excused only if the drop is certainly within the tolerance."""
    effect = cell.effect
    if effect is None or effect.p_adjusted is None:
        return cell
    gain = -effect.difference if cell.metric in LOWER_IS_BETTER else effect.difference
    changed = effect.p_adjusted <= alpha
    within = cell.tolerated is not None and cell.tolerated.worse_adjusted <= alpha
    reasons = [cell.why] if cell.why else []
    if changed and gain < 0 and not within:
        reasons.append("worse scores")
    reasons += limits.exceeded(cell.ratios)
    if reasons:
        return replace(cell, verdict="regressed", why="; ".join(reasons))
    if changed and gain > 0:
        return replace(cell, verdict="improved", why="better scores")
    if within:
        return replace(cell, verdict="non-inferior", why="worse scores, by less than the tolerance" if changed else "")
    return cell


def _side(folder: Path, manifest: Manifest, records: Sequence[Record]) -> Side:
    identity = manifest.identity
    session = manifest.sessions[-1] if manifest.sessions else Session()
    versions, hardware, git = session.versions or {}, session.hardware or Hardware(), session.git or Git()
    commit = f" ({git.commit[:9]}{', changed since' if git.changed else ''})" if git.commit else ""
    threads = "?" if hardware.threads is None else hardware.threads
    facts = {
        "model": manifest.model_name or "",
        "weights": (identity.model_fingerprint or "")[:12],
        "dtype": identity.dtype or "",
        "device": identity.device or "",
        "lcbench": f"{versions.get('lcbench', '')}{commit}",
        "torch": versions.get("torch", ""),
        "transformers": versions.get("transformers", ""),
        "hardware": "; ".join([*hardware.gpus, f"{hardware.cpu or ''}, {threads} threads"]),
        "started": session.started_at or "",
    }
    return Side(str(folder), facts, manifest.missing(records))
