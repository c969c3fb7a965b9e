"""lcbench: long-context evaluation of any Hugging Face rotary model, with any context-extension method.

import lcbench
with lcbench.extend(model, "dca+yarn:factor=4", length=16384):
    model.generate(...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcbench.errors import UnsupportedModelError, UserError

if TYPE_CHECKING:
    from lcbench.attention.steering import extend

__version__ = "0.1.0"
__all__ = ["UnsupportedModelError", "UserError", "__version__", "extend"]


def __getattr__(name: str) -> Any:
    """`extend` on first use: importing lcbench does not import torch."""
    if name == "extend":
        from lcbench.attention.steering import extend

        return extend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
