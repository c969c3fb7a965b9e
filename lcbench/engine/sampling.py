"""Sampling of the next token: temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lcbench.core.errors import UserError
from lcbench.core.specs import convert_options, split_spec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Sample from softmax(logits / temperature), restricted to the `top_k` most likely tokens (0: all), then to the
    fewest with a total probability of `top_p`, then to those with at least `min_p` times the largest probability."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`temperature=0.6,top_p=0.95`. Raises: UserError."""
        chosen = cls(**convert_options("--sampling", cls, split_spec(f"sampling:{text}")[1]))
        if chosen.temperature <= 0:
            raise UserError("--sampling: temperature must be above 0; leave --sampling out for greedy answers.")
        if not (0 < chosen.top_p <= 1 and chosen.top_k >= 0 and 0 <= chosen.min_p <= 1):
            raise UserError("--sampling: top_p and min_p must be between 0 and 1, and top_k 0 or more.")
        return chosen

    def probabilities(self, logits_V: Tensor) -> Tensor:
        """The distribution [V] that tokens are drawn from, float64, on the CPU."""
        import torch

        wide_V = logits_V.detach().to("cpu", torch.float64) / self.temperature
        if self.top_k:
            least = wide_V.topk(min(self.top_k, len(wide_V))).values[-1]
            wide_V = wide_V.masked_fill(wide_V < least, float("-inf"))
        p_V = wide_V.softmax(-1)
        if self.top_p < 1:
            sorted_V, order_V = p_V.sort(descending=True, stable=True)
            beyond_V = sorted_V.cumsum(-1) - sorted_V >= self.top_p
            p_V = p_V.masked_fill(beyond_V[order_V.argsort()], 0.0)
        p_V = p_V.masked_fill(p_V < self.min_p * p_V.max(), 0.0)
        return p_V / p_V.sum()

    def chooser(self, seed: int) -> Callable[[Tensor], int]:
        """A function from the logits [V] of the next token to that token; its draws depend on the seed alone, so that
        an output does not depend on what else is generated beside or before it."""
        import torch

        generator = torch.Generator().manual_seed(seed)

        def choose(logits_V: Tensor) -> int:
            sums_V = self.probabilities(logits_V).cumsum(-1)
            drawn = torch.rand(1, generator=generator, dtype=torch.float64) * sums_V[-1]
            return int(torch.searchsorted(sums_V, drawn, right=True).clamp(max=len(sums_V) - 1))

        return choose
