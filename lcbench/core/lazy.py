"""PyTorch and its compiler, imported by their first use: each takes longer than all else that `lcbench list` does.

    from lcbench.core.lazy import torch

stands for `import torch` in modules that are read for names and options alone, such as those of the methods.
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
        """A module by its name; looking up any of its attributes imports it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    torch = _LazyModule("torch")


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`torch.compiler.disable` as a decorator, which imports the compiler when the function is called first."""
    disabled: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    return call
