"""Self-Extend: exact positions nearby, grouped positions far away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.logn import log_length_scale
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SelfExtend(Method):
    """rel(i, j) = i - j if i - j < W, else i//G - j//G + W - W//G, over all j <= i.

    `group_size` G: default the smallest one with W + (n - W) / G within 2/3 of the pretraining length P, by the rule of
    thumb in the authors' README, 1/2 to 2/3; where W alone takes 2/3, the smallest with every position below P.
    `advice` warns where a group reaches further.
    `neighbor_window` W: default P / 4, the authors' proportion for 4k models.
    `log_scale_base` B: scores of query i times max(1, ln(i + 1) / ln(B)); 0 = off, the default.
    Jin et al., https://arxiv.org/abs/2401.01325, code https://github.com/datamllab/LongLM. Published code for Llama
    and Gemma divides W by G exactly, which gives fractional positions where G does not divide W; this floors, as the
    authors' later fix does.
    """

    name: ClassVar[str] = "self_extend"
    group_size: int | None = None
    neighbor_window: int | None = None
    log_scale_base: float = 0.0

    def resolve(self, lengths: Lengths) -> SelfExtend:
        window = max(1, lengths.pretraining // 4) if self.neighbor_window is None else self.neighbor_window
        at_least(self.name, "neighbor_window", window, 1)
        if 0 < self.log_scale_base <= 1 or self.log_scale_base < 0:
            raise UserError(f"{self.name}: log_scale_base must be above 1, or 0 for off.")
        group = self.group_size
        if group is None:
            run = lengths.need_run(self.name, "group_size", "group_size=... or ")
            group = default_group(run, window, lengths.pretraining)
        at_least(self.name, "group_size", group, 1)
        return replace(self, group_size=group, neighbor_window=window)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        trained, stretch = lengths.pretraining, lengths.stretch(self.name)
        groups = (math.ceil(times * stretch) for times in (1, 4 / 3, 5 / 3, 2, 3, 4))
        return {
            "group_size": tuple(groups),
            "neighbor_window": tuple(max(1, trained // parts) for parts in (8, 4, 2)),
            "log_scale_base": (float(trained),),
        }

    def advice(self, lengths: Lengths) -> str | None:
        g, w, n = self.group_size, self.neighbor_window, lengths.run
        if g is None or w is None or n is None or n <= lengths.pretraining:
            return None
        better = authors_group(n, w, lengths.pretraining)
        if better is None or better <= g:
            return None
        reach = (w + (n - w) / g) / lengths.pretraining
        return (
            f"self_extend at {n} tokens: group_size={g} reaches {reach:.0%} of the pretraining length; the authors' "
            f"rule of thumb is 1/2 to 2/3, from group_size={better}."
        )

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        g, w = self.group_size, self.neighbor_window
        assert g is not None and w is not None
        edge = (i - w + 1).clamp(min=0)
        near = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        far = Piece(q_pos=i // g + w - w // g, k_pos=j // g, start=torch.zeros_like(i), stop=edge)
        return [near, far]

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        return log_length_scale(i, self.log_scale_base) if self.log_scale_base else None

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset({"pieces", "score_scale"} if self.log_scale_base else {"pieces"})


def default_group(run: int, window: int, pretraining: int) -> int:
    """The authors' group where their rule gives one, and never one that leaves a position at or beyond the pretraining
    length; 1 for a run within it, which needs none.

    Raises: UserError if the window alone reaches the pretraining length.
    """
    fits = smallest_group(run, window, pretraining)
    return fits if run <= pretraining else max(fits, authors_group(run, window, pretraining) or 1)


def authors_group(run: int, window: int, pretraining: int) -> int | None:
    """The smallest G with W + (n - W) / G within 2/3 of the pretraining length; None if the window alone is not."""
    budget, need = 2 * pretraining - 3 * window, 3 * (run - window)  # in thirds of a token: exact
    return math.ceil(need / budget) if budget > 0 else None


def smallest_group(run: int, window: int, pretraining: int) -> int:
    """The smallest G whose largest relative position, (run - 1)//G + W - W//G, stays below the pretraining length.

    Raises: UserError if the window alone reaches the pretraining length.
    """
    if run <= pretraining:
        return 1
    if window >= pretraining:
        raise UserError(f"self_extend: neighbor_window={window} must be below the pretraining length {pretraining}.")
    group = max(1, math.ceil((run - window) / (pretraining - window)))
    while (run - 1) // group + window - window // group >= pretraining:
        group += 1
    return group
