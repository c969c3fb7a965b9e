"""Log-length scaling of the scores, to be composed with any plan or RoPE scaling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogN(Method):
    """Scores of query i times max(1, ln(i + 1) / ln(base)).

    `base`: default the pretraining length, within which nothing changes. It is `self_extend`'s `log_scale_base` as a
    method of its own. Su, https://kexue.fm/archives/8823; used by Qwen (https://arxiv.org/abs/2309.16609).
    """

    name: ClassVar[str] = "logn"
    base: float | None = None

    def resolve(self, lengths: Lengths) -> LogN:
        base = float(lengths.pretraining) if self.base is None else self.base
        if base <= 1:
            raise UserError(f"logn: base must be above 1, not {base:g}.")
        return replace(self, base=base)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        return {"base": tuple(max(2.0, times * lengths.pretraining) for times in (0.125, 0.25, 0.5, 2.0, 4.0))}

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        assert self.base is not None
        return log_length_scale(i, self.base)


def log_length_scale(i: Tensor, base: float) -> Tensor:
    """max(1, ln(i + 1) / ln(base)): counteracts the dilution of attention as the number of keys grows.

    Chiang and Cholak, https://arxiv.org/abs/2202.12172; Su, https://kexue.fm/archives/8823.
    """
    return (torch.log(i.double() + 1) / torch.log(torch.tensor(base, dtype=torch.float64))).clamp(min=1.0)
