"""STRING: the largest relative positions, which training meets least, are replaced by shifted smaller ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class String(Method):
    """rel(i, j) = i - j if i - j < shift, else i - j - shift + window, over all j <= i.

    `shift` S: default a third of the pretraining length P; the authors suggest 1/4 to 2/5 of the longest input.
    `window` W: default 128, the authors' (128 to 512), and at most S / 4 for models trained at short lengths.
    `attention_factor` a: scores times a^2, as if cos and sin were multiplied by a; the paper has 1, the default.
    An et al., https://arxiv.org/abs/2410.18745, code https://github.com/HKUNLP/STRING (216cc2f). The released code has
    a = 0.1 ln 2 + 1, and its prefill attends to the key at i - j = S twice, at S and at W; its decoding once, as here.
    """

    name: ClassVar[str] = "string"
    shift: int | None = None
    window: int | None = None
    attention_factor: float = 1.0

    def resolve(self, lengths: Lengths) -> String:
        shift = max(1, lengths.pretraining // 3) if self.shift is None else self.shift
        at_least(self.name, "shift", shift, 1)
        window = min(128, shift // 4) if self.window is None else self.window
        at_least(self.name, "window", window, 0)
        if window > shift:
            raise UserError(f"string: window must be at most shift ({shift}), not {window}.")
        if not self.attention_factor > 0:
            raise UserError(f"string: attention_factor must be above 0, not {self.attention_factor:g}.")
        return replace(self, shift=shift, window=window)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        shifts = (max(1, lengths.pretraining * tenths // 10) for tenths in (3, 4, 5, 6, 7))
        return {"shift": tuple(shifts), "window": (16, 32, 64, 128, 256, 512)}

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.shift is not None and self.window is not None
        edge = (i - self.shift + 1).clamp(min=0)
        near = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        # Queries before the shift see no far key, and their position is not to be negative.
        far = Piece((i - self.shift + self.window).clamp(min=0), j, start=torch.zeros_like(i), stop=edge)
        return [near, far]

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        if self.attention_factor == 1:
            return None
        return torch.full(i.shape, self.attention_factor**2, dtype=torch.float64)

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset({"pieces", "score_scale"} if self.attention_factor != 1 else {"pieces"})
