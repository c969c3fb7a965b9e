"""ABF: another base of RoPE, whatever the length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method
from lcbench.methods.scaling import rope_theta

if TYPE_CHECKING:
    from torch import Tensor


def rebase(inv_freq: Tensor, base: float) -> Tensor:
    """Inverse frequencies [M] of another base; a scaling of the model's own is kept, channel by channel."""
    m = torch.arange(len(inv_freq), device=inv_freq.device, dtype=inv_freq.dtype)
    return inv_freq * (rope_theta(inv_freq) / base) ** (m / len(inv_freq))


def require_base(method: str, base: float) -> None:
    """Raises: UserError unless the base is above 1."""
    if not base > 1:
        raise UserError(f"{method}: base must be above 1, not {base:g}.")


@dataclass(frozen=True)
class AdjustedBaseFrequency(Method):
    """f_m -> base^(-m / M).

    `base`: default 500,000, the paper's for Llama 2, which has 10,000 and is tuned further at that base.
    Xiong et al., https://arxiv.org/abs/2309.16039. `ntk` chooses a base by the length of the run.
    """

    name: ClassVar[str] = "abf"
    base: float = 500_000.0

    def resolve(self, lengths: Lengths) -> AdjustedBaseFrequency:
        require_base(self.name, self.base)
        return self

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        return {"base": tuple(mantissa * 10.0**power for power in (4, 5, 6) for mantissa in (1, 2, 5))}

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return rebase(inv_freq, self.base), 1.0
