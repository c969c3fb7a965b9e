"""`torch`, imported by its first use: importing it takes longer than all else that `lcbench list methods` does.

    from lcbench.core.lazy import torch

stands for `import torch` in modules that are imported to read names and options, such as those of the methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["torch"]

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
