"""Which scores of a column of a table are bold.

A bold score says "better than others", so it must not be noise. All pairs of scores in a column are compared on the
same samples, as in `lcbench compare`, with Holm's correction over the pairs: the probability of any wrong difference is
at most 5 %. A score is bold if none is significantly better and at least one comparable score is significantly worse;
so the best score and all that cannot be distinguished from it are bold, and if nothing can be distinguished, none is.
Methods that ran on different prompts (other seeds, another tokenizer) are not comparable: neither affects the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from lcbench.core.stats import holm
from lcbench.results.compare.cells import LOWER_IS_BETTER, paired_effect
from lcbench.results.compare.result import Effect
from lcbench.results.schema import Record

ALPHA = 0.05
RULE = (  # after the name of the mark
    "no score of that length is significantly better, and at least one is worse (paired tests on the same samples, "
    "5 % per column by Holm's correction over all pairs)."
)


def best(column: Mapping[int, list[Record]], metric: str) -> set[int]:
    """Keys of the bold members of a column, which maps each key to the records that its score averages."""
    pairs = list(combinations(column, 2))
    samples = {key: by_sample(records) for key, records in column.items()}
    tried = {pair: _effect(samples[pair[0]], samples[pair[1]], ALPHA / len(pairs)) for pair in pairs}
    effects = {pair: effect for pair, effect in tried.items() if effect}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    worse = {
        pair[0] if sign * effect.difference > 0 else pair[1]
        for (pair, effect), p in zip(effects.items(), holm([effect.p for effect in effects.values()]), strict=True)
        if p <= ALPHA
    }
    return {key for pair in effects for key in pair if worse & set(pair)} - worse


def by_sample(records: Iterable[Record]) -> dict[str, Record]:
    """The records by their places."""
    return {place_of(record): record for record in records}


def place_of(record: Record) -> str:
    """Depth, number and repeat of a sample, which are the same for all methods."""
    return f"{record.identity.cell_depth}/{record.identity.sample}/{record.identity.repeat}"


def _effect(base: dict[str, Record], new: dict[str, Record], smallest_p: float) -> Effect | None:
    """The effect on the samples in common; None without any."""
    one, other = (next(iter(side.values())).identity for side in (base, new))
    key = (one.task, f"{one.method} {other.method}", one.seq_len)
    return paired_effect(key, base, new, smallest_p)
