"""lcbench: long-context evaluation of any Hugging Face rotary model, with any context-extension method.

import lcbench
with lcbench.extend(model, "dca+yarn:factor=4", length=16384):
    model.generate(...)
frame = lcbench.load_run("results/some-run")
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.core.moved import MovedFinder

if TYPE_CHECKING:
    from lcbench.attention.steering import extend
    from lcbench.engine.embedded import embedded_models
    from lcbench.results.export import load_run

sys.meta_path.insert(0, MovedFinder())

__version__ = "0.1.0"
__all__ = ["UnsupportedModelError", "UserError", "__version__", "embedded_models", "extend", "load_run"]
_LAZY = {
    "embedded_models": "lcbench.engine.embedded",
    "extend": "lcbench.attention.steering",
    "load_run": "lcbench.results.export",
}


def __getattr__(name: str) -> Any:
    """What imports torch or pandas, on first use: importing lcbench imports neither."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
