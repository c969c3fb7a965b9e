"""One cell of two runs: its samples paired, what is missing on either side, and the test of the paired scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from statistics import fmean, median, pstdev
from typing import Any

from lcbench.core.noninferiority import paired_means, paired_shares
from lcbench.core.stats import mcnemar, paired_bootstrap, paired_interval
from lcbench.results.compare.result import CellResult, Effect, Ratios, Tolerated
from lcbench.results.schema import Record

LOWER_IS_BETTER = frozenset({"nll", "perplexity", "bits_per_byte", "bits_per_word", "longppl"})
TOP = {
    "exact_match": 1.0,
    "recall": 1.0,
    "score": 100.0,
}  # largest values of scores from 0; intervals are clipped there
NAMED = 10  # missing samples that are named; the others are only counted
WHAT_DIFFERS = {  # reasons why two records are not comparable, by the differing field
    "result.scores.metric": "the metric differs ({0} and {1})",
    "identity.seed": "the seeds of {n} differ",
    "prompt.max_new_tokens": "the generation budgets of {n} differ ({0} and {1} tokens)",
    "prompt.references": "the references of {n} differ",
    "prompt.prompt_sha256": "the prompts of {n} differ: the wording, or the tokenizer",
}

Key = tuple[str, str, int]
Records = dict[str, Record]
Pairs = Sequence[tuple[Record, Record]]


@dataclass(frozen=True)
class Level:
    """The test level of a comparison: alpha, over how many cells together, and the tolerance."""

    alpha: float
    cells: int
    tolerance: float | None = None

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that a bootstrap must be able to resolve."""
        return self.alpha / self.cells


def computed_tokens(record: Record) -> int:
    """Prompt tokens that were computed, not reused from the KV cache, for a sample that did not fail."""
    return record.prompt.prompt_tokens - record.measured.cost.reused_tokens


def compare_cell(key: Key, base: Records, new: Records, level: Level) -> CellResult:
    """The result of a cell, without the verdict on its scores, which depends on the other cells too.

    The verdict is "regressed" already if NEW lost what worked in BASE, and "no evidence" where the scores decide.
    """
    scored_base, scored_new = _scored(base), _scored(new)
    pairs = _pairs(scored_base, scored_new)
    metric = next((record.measured.scores.metric for record in [*scored_base.values(), *scored_new.values()]), "")
    cell = CellResult(*key, metric, "not comparable", "", len(_by_question(pairs)[0]), gaps=_gaps(key, base, new))
    lost = _lost(scored_base, new)
    if lost:
        cell = replace(cell, verdict="regressed", why=lost)
    if not pairs:
        return cell if lost else _without_pairs(cell, base, new)
    other = _other_prompts(pairs)
    if other:
        return cell if lost else replace(cell, why=other)
    effect = _effect(key, metric, pairs, level.smallest_p)
    tolerated = _tolerated(key, metric, pairs, level)
    cell = replace(cell, effect=effect, ratios=_ratios(pairs), equals=_equals(pairs), tolerated=tolerated)
    return cell if lost else replace(cell, verdict="no evidence")


def _equals(pairs: Pairs) -> str:
    """The method that all records of both sides equal, or empty."""
    marks = {record.equals for pair in pairs for record in pair}
    return marks.pop() or "" if len(marks) == 1 else ""


def paired_effect(key: Key, base: Records, new: Records, smallest_p: float) -> Effect | None:
    """Only the effect, as in `compare_cell`; None without pairs, or if their prompts differ."""
    pairs = _pairs(_scored(base), _scored(new))
    if not pairs or _other_prompts(pairs):
        return None
    return _effect(key, pairs[0][0].measured.scores.metric, pairs, smallest_p)


def _pairs(scored_base: Records, scored_new: Records) -> Pairs:
    return [(record, scored_new[id]) for id, record in scored_base.items() if id in scored_new]


def _scored(records: Records) -> Records:
    return {id: record for id, record in records.items() if record.failure is None}


def _lost(scored_base: Records, new: Records) -> str:
    """What worked in BASE and does not in NEW: the cell, one of its depths, samples that fail. Empty if nothing."""
    if not scored_base:
        return ""
    if not new:
        return "missing in NEW"
    depths = {record.identity.cell_depth for record in new.values()}
    wanted = dict.fromkeys(record.identity.cell_depth for record in scored_base.values())
    missing = [depth for depth in wanted if depth not in depths]
    reasons = (
        [f"depth {', '.join('random' if d is None else f'{d:g}' for d in missing)} missing in NEW"] if missing else []
    )
    failures = (new[id].failure for id in scored_base if id in new)
    reasons += dict.fromkeys(f"failed in NEW: {reason}" for reason in failures if reason)
    return "; ".join(reasons)


def _without_pairs(cell: CellResult, base: Records, new: Records) -> CellResult:
    """The result of a cell without a sample scored in both runs, in which NEW lost nothing."""
    reasons = {
        side: "missing" if not records else next((record.failure for record in records.values() if record.failure), "")
        for side, records in (("BASE", base), ("NEW", new))
    }
    words = {side: f"{'' if reason == 'missing' else 'failed: '}{reason}" for side, reason in reasons.items() if reason}
    why = "; ".join(f"in {side} {reason}" for side, reason in words.items()) or "no sample in common"
    fixed = bool(base) and bool(_scored(new)) and not _scored(base)
    return replace(cell, verdict="improved" if fixed else "not comparable", why=why)


def _gaps(key: Key, base: Records, new: Records) -> tuple[str, ...]:
    """In words, the samples that only one side has a score for."""
    prefix = f"{key[0]}/{key[1]}/"

    def line(what: str, names: Iterable[str]) -> list[str]:
        short = [name.removeprefix(prefix) for name in names]
        more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
        plural = "sample" if len(short) == 1 else "samples"
        return [f"{len(short)} {plural} {what}: {', '.join(short[:NAMED])}{more}"] if short else []

    failed = [
        line(f"failed in {side}", (f"{id} ({why})" for id, record in records.items() if (why := record.failure)))
        for side, records in (("BASE", base), ("NEW", new))
    ]
    return tuple(
        line("missing in NEW", (id for id in base if id not in new))
        + line("missing in BASE", (id for id in new if id not in base))
        + failed[0]
        + failed[1]
    )


def _other_prompts(pairs: Pairs) -> str:
    """Why the pairs are not the same samples, measured the same way; empty if they are."""
    made_of = attrgetter(*WHAT_DIFFERS)
    values = [(made_of(base), made_of(new)) for base, new in pairs]
    unlike = [pair for pair in values if pair[0] != pair[1]]
    for place, words in enumerate(WHAT_DIFFERS.values()):
        differing = [(base[place], new[place]) for base, new in unlike if base[place] != new[place]]
        if differing:
            return words.format(*differing[0], n=f"{len(differing)} of {len(pairs)} samples")
    return ""


def _by_question(pairs: Pairs) -> tuple[list[float], list[float]]:
    """The scores of both sides per question; several answers to one are averaged, since they are not independent."""
    found: dict[object, list[tuple[float, float]]] = {}
    for base, new in pairs:
        found.setdefault(base.question, []).append((base.score or 0.0, new.score or 0.0))
    base_scores, new_scores = ([fmean(pair[side] for pair in one) for one in found.values()] for side in (0, 1))
    return base_scores, new_scores


def _effect(key: Key, metric: str, pairs: Pairs, smallest_p: float) -> Effect:
    base, new = _by_question(pairs)
    means, top = (fmean(base), fmean(new)), TOP.get(metric, 1.0)
    if {*base, *new} <= {0.0, top}:
        both, gained, lost, neither = (
            sum(pair == right for pair in zip(base, new, strict=True))
            for right in ((top, top), (0, top), (top, 0), (0, 0))
        )
        low, high = (top * end for end in paired_interval(both, gained, lost, neither))
        p, churn = mcnemar(gained, lost), min(gained, lost) / len(base)
        return Effect("McNemar", *means, low, high, p, noise=churn, identical=gained == lost == 0)
    differences = [after - before for before, after in zip(base, new, strict=True)]
    p, lowest, highest = paired_bootstrap(differences, _seed(key, metric), smallest_p)
    noise, identical = pstdev(differences), not any(differences)
    return Effect("bootstrap", *means, lowest, highest, p, noise=noise, identical=identical)


def _seed(key: Key, metric: str) -> int:
    return int.from_bytes(hashlib.sha256(repr((*key, metric)).encode()).digest()[:6])


def _tolerated(key: Key, metric: str, pairs: Pairs, level: Level) -> Tolerated | None:
    """The tests against the tolerance; None without one."""
    if level.tolerance is None:
        return None
    base, new = _by_question(pairs)
    lower_is_better = metric in LOWER_IS_BETTER
    full = None if lower_is_better else TOP.get(metric, 1.0)
    top = full or 1.0
    size = level.tolerance * top
    gains = [before - after if lower_is_better else after - before for before, after in zip(base, new, strict=True)]
    if {*base, *new} <= {0.0, top}:
        share = paired_shares(gains.count(top), gains.count(-top), len(gains), level.tolerance, level.alpha)
        found = replace(share, bound=None if share.bound is None else top * share.bound)
    else:
        found = paired_means(gains, size, level.alpha, _seed(key, metric), level.smallest_p, full)
    bound = found.bound if found.bound is None or not lower_is_better else -found.bound
    return Tolerated(size, bound, found.lower, max(found.lower, found.upper))


def _ratios(pairs: Pairs) -> Ratios:
    """Medians over the pairs, which a slow start or a busy moment does not change."""

    def ratio(cost: Callable[[Record], Any]) -> float | None:
        try:
            return float(median(cost(new) / cost(base) for base, new in pairs))
        except (ZeroDivisionError, TypeError):  # not measured by the task, or unknown to the engine
            return None

    return Ratios(
        ratio(lambda record: record.measured.cost.prefill_seconds / computed_tokens(record)),
        ratio(lambda record: record.measured.cost.decode_seconds / record.measured.answer.output_tokens),
        ratio(lambda record: record.measured.cost.peak_memory_bytes),
    )
