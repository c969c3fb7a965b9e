"""Base of the methods that drop keys after the prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from lcbench.core.errors import UserError
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.content import Content, best

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Eviction(Method):
    """After the prompt, each KV head keeps as many keys with the highest `rate`; what follows is kept whole.

    `budget`: keys that a head keeps. `compression_ratio` r: the share that it drops instead, so that it keeps
    int(n (1 - r)) of n, as in kvpress; default 0.5. Keys that stay keep their positions.
    """

    budget: int | None = None
    compression_ratio: float | None = None

    def resolve(self, lengths: Lengths) -> Self:
        if self.budget is not None and self.compression_ratio is not None:
            raise UserError(f"{self.name}: budget and compression_ratio say the same; give one of them.")
        if self.budget is not None:
            at_least(self.name, "budget", self.budget, 1)
            return self
        ratio = 0.5 if self.compression_ratio is None else self.compression_ratio
        if not 0 <= ratio < 1:
            raise UserError(f"{self.name}: compression_ratio must be from 0 to below 1, not {ratio:g}.")
        return replace(self, compression_ratio=ratio)

    def keys_left(self, layer: int, length: int) -> int:
        return self.count(length)

    def count(self, length: int) -> int:
        """How many of the keys of a prompt of `length` tokens a KV head keeps."""
        if self.budget is not None:
            return min(self.budget, length)
        assert self.compression_ratio is not None
        return max(1, int(length * (1 - self.compression_ratio)))

    def rate(self, content: Content, seen: Any) -> Tensor:
        """A number [K, S] for each key, the higher the better; `seen` is what `observe` returned last."""
        raise NotImplementedError

    def evict(self, content: Content, layer: int, seen: Any) -> Tensor:
        return best(self.rate(content, seen), self.count(content.length))
