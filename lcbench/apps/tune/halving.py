"""Successive halving: all candidates get a few samples, the better third gets more, and so on to the best.

Jamieson and Talwalkar, https://arxiv.org/abs/1502.07943, with a third kept instead of a half, as in Hyperband
(https://arxiv.org/abs/1603.06560). What differs: candidates answer the same samples, so that their scores are paired;
the first one, the method as typed, stays to the end; and the best is confirmed on samples that no choice was made by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lcbench.core.errors import UserError

KEPT = 3  # of so many candidates one goes on
CONFIRMED = 4  # one of so many samples is held out for the best and the method as typed
LEAST = 2  # samples of a candidate in the first round


@dataclass(frozen=True)
class Schedule:
    """The rounds of a search: in round r the first `kept[r]` candidates by rank go on to `samples[r]` samples each,
    those of earlier rounds included; then the best and the method as typed get `held_out` more. Samples are those of a
    cell."""

    kept: tuple[int, ...]
    samples: tuple[int, ...]
    held_out: int

    @property
    def all_samples(self) -> int:
        return self.samples[-1] + self.held_out

    def cost(self, cells: int) -> int:
        """Samples in all, where the method as typed is never among the kept, which costs most."""
        rounds = zip(self.kept, self.samples, (0, *self.samples), strict=False)
        search = sum((kept + (number > 0)) * (now - before) for number, (kept, now, before) in enumerate(rounds))
        return cells * (search + 2 * self.held_out)


def schedule(candidates: int, budget: int, cells: int) -> Schedule:
    """Rounds for a number of candidates that answer at most `budget` samples altogether, in so many cells each.

    Raises: UserError for a budget that is too small.
    """
    rounds = max(1, math.ceil(math.log(candidates, KEPT) - 1e-9))
    kept = tuple(math.ceil(candidates / KEPT**number) for number in range(rounds))
    held_out = budget // (2 * CONFIRMED * cells)
    share = (budget - 2 * held_out * cells) // (rounds * cells)
    more = [share // (count + (number > 0)) for number, count in enumerate(kept)]
    if more[0] < LEAST or not held_out:
        least = cells * math.ceil(LEAST * candidates * rounds * CONFIRMED / (CONFIRMED - 1)) + 2 * CONFIRMED * cells
        raise UserError(
            f"--budget {budget} leaves fewer than {LEAST} samples for each of {candidates} candidates; pass --budget "
            f"{least} or more, or type some of the options."
        )
    return Schedule(kept, tuple(sum(more[: number + 1]) for number in range(rounds)), held_out)
