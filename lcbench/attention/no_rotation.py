"""cos = 1 and sin = 0 as tensor subclasses that make the rotation in the model's code free.

That code computes `q * cos + rotate_half(q) * sin`; with ones and zeros, this copies its input in three passes over
memory per tensor. These subclasses return the product, and the sum with it, without computing it. To any other
operation they are plain ones and zeros: a model that rotates in another way stays correct, and becomes no faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FEW = 16  # positions; for so few, the product is cheaper than avoiding it

TIMES = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
PLUS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
MINUS = (torch.sub, Tensor.sub, Tensor.__sub__)


def no_rotation(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Ones and zeros in the shape of a rotary module's tables [..., P, D]."""
    ones, zeros = torch.ones_like(cos), torch.zeros_like(sin)
    if cos.shape[-2] < FEW or torch.compiler.is_compiling():
        return ones, zeros
    return ones.as_subclass(_One), zeros.as_subclass(_Zero)


class _Neutral(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if not kwargs and len(args) == 2:
                x, y = args
                if func in (torch.unsqueeze, Tensor.unsqueeze) and isinstance(x, cls):
                    return x.unsqueeze(y).as_subclass(cls)
                known = cls._known(func, x, y)
                if known is not None:
                    return known
            return func(*args, **(kwargs or {}))

    @classmethod
    def _known(cls, func: Any, x: Any, y: Any) -> Tensor | None:
        """The result of a binary operation, None if it has to be computed."""
        raise NotImplementedError


class _One(_Neutral):
    @classmethod
    def _known(cls, func: Any, x: Any, y: Any) -> Tensor | None:
        return x if func in TIMES and _keeps(x, y) else None


class _Zero(_Neutral):
    @classmethod
    def _known(cls, func: Any, x: Any, y: Any) -> Tensor | None:
        if not _keeps(x, y):
            return None
        if func in TIMES:
            nothing: Tensor = x.new_zeros(()).expand(x.shape).as_subclass(cls)
            return nothing
        return x if func in PLUS or func in MINUS else None


def _keeps(x: Any, y: Any) -> bool:
    """Whether x is a plain tensor, y one of these, and x has the dtype and shape of a product."""
    if not (isinstance(x, Tensor) and isinstance(y, _Neutral)) or isinstance(x, _Neutral) or x.dtype != y.dtype:
        return False
    return x.ndim >= y.ndim and all(size in (1, of) for size, of in zip(y.shape[::-1], x.shape[::-1], strict=False))
