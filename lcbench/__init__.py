"""lcbench: long-context evaluation of any Hugging Face rotary model, with any context-extension method.

import lcbench
with lcbench.extend(model, "dca+yarn:factor=4", length=16384):
    model.generate(...)
frame = lcbench.load_run("results/some-run")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcbench.errors import UnsupportedModelError, UserError

if TYPE_CHECKING:
    from lcbench.attention.steering import extend
    from lcbench.export import load_run

__version__ = "0.1.0"
__all__ = ["UnsupportedModelError", "UserError", "__version__", "extend", "load_run"]


def __getattr__(name: str) -> Any:
    """`extend` and `load_run` on first use: importing lcbench imports neither torch nor pandas."""
    if name == "extend":
        from lcbench.attention.steering import extend

        return extend
    if name == "load_run":
        from lcbench.export import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
