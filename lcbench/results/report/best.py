"""Which scores of a column of a table are bold.

A bold score says "better than others", so it must not come from noise. All pairs of a column are compared on the same
samples, as `lcbench compare` does it, with Holm's correction over the pairs: the chance that any of them is called
different wrongly stays at or under 5 %. A score is bold if none is better for sure and one that it can be compared with
is worse for sure; so the best and all that cannot be told from it share the bold, and where nothing can be told apart
nothing is bold. Methods that ran on other prompts (other seeds, another tokenizer) cannot be compared: neither affects
whether the other is bold.
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
    "no score of that length is better for sure, and at least one is worse (same samples, paired tests, 5 % a column "
    "by Holm's correction over all pairs)."
)


def best(column: Mapping[int, list[Record]], metric: str) -> set[int]:
    """Keys of the bold members of a column, which maps each key to the records that its score is the mean of."""
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
    """Depth, number and repeat, which are the same for all methods."""
    return f"{record.identity.cell_depth}/{record.identity.sample}/{record.identity.repeat}"


def _effect(base: dict[str, Record], new: dict[str, Record], smallest_p: float) -> Effect | None:
    """The effect on the samples that both have; None without any."""
    one, other = (next(iter(side.values())).identity for side in (base, new))
    key = (one.task, f"{one.method} {other.method}", one.seq_len)
    return paired_effect(key, base, new, smallest_p)
