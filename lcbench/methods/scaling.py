"""What the RoPE scalings have in common: a factor, and the base of the frequencies that they start from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lcbench.core.errors import UserError
from lcbench.methods.base import Lengths, Method, at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scaling(Method):
    """Base of the RoPE scalings: `factor`, by default run length / pretraining length, is at least 1."""

    factor: float | None = None

    def resolve(self, lengths: Lengths) -> Self:
        factor = lengths.stretch(self.name) if self.factor is None else self.factor
        at_least(self.name, "factor", factor, 1)
        return dataclasses.replace(self, factor=factor)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        stretch = lengths.stretch(self.name)
        return {"factor": tuple(times * stretch for times in (0.5, 0.75, 1.25, 1.5, 2.0, 3.0, 4.0))}

    @property
    def resolved_factor(self) -> float:
        """The factor after `resolve`."""
        assert self.factor is not None
        return self.factor


def rope_theta(inv_freq: Tensor) -> float:
    """The base of the geometric series [M] of inverse frequencies, from its first two terms.

    Those two rotate fastest; the scalings in the configs of models (linear, llama3, yarn) keep their ratio.
    Raises: UserError for a single frequency, which has no base.
    """
    if len(inv_freq) < 2:
        raise UserError("this RoPE has a single frequency; a scaling needs at least two.")
    return float(inv_freq[0].double() / inv_freq[1].double()) ** len(inv_freq)
