"""PyTorch and its compiler, imported on first use: either import takes longer than the rest of `lcbench list`.

    from lcbench.core.lazy import torch

replaces `import torch` in modules that are often imported for their names and options only, such as the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

__all__ = ["not_compiled", "torch"]

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    import torch
else:

    class _LazyModule:
        """A proxy of a module, which is imported when an attribute is first looked up."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    torch = _LazyModule("torch")


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`torch.compiler.disable` as a decorator; the compiler is imported by the first call of the function."""
    disabled: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    return call
