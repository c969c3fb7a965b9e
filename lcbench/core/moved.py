"""Old module names, up to version 0.1, kept importable for packages and notebooks that use them.

`import lcbench.training.books` gives `lcbench.tasks.text.books`, with a DeprecationWarning that names the new module.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

MOVED = {
    "ask": "apps.ask",
    "attention.joint": "attention.backends.matmul",
    "attention.pieces": "methods.pieces",
    "attention.rotation": "attention.rope",
    "batches": "run.batches",
    "bench": "apps.bench",
    "code_execution": "tasks.code_execution",
    "compare": "results.compare",
    "convert": "engine.convert",
    "distributed": "run.tensor_parallel",
    "errors": "core.errors",
    "export": "results.export",
    "haystack": "tasks.text.repeated_filler",
    "haystacks": "tasks.text.running_text",
    "lm_eval_model": "apps.lm_eval",
    "locks": "core.locks",
    "longllama": "engine.longllama",
    "measures": "run.measures",
    "models": "engine.models",
    "nll": "results.nll",
    "options": "core.specs",
    "plan": "run.plan",
    "plugins": "core.plugins",
    "progress": "run.progress",
    "prompts": "core.tokens",
    "provenance": "core.provenance",
    "records": "results.records",
    "report": "results.report",
    "rescore": "results.rescore",
    "runner": "run.runner",
    "slurm": "run.slurm",
    "stats": "core.stats",
    "tally": "run.tally",
    "tasks.needle_facts": "tasks.needle.facts",
    "tasks.needle_wording": "tasks.needle.wording",
    "tasks.perplexity_books": "tasks.perplexity.books",
    "tasks.ruler_cwe": "tasks.ruler.cwe",
    "tasks.ruler_documents": "tasks.ruler.documents",
    "tasks.ruler_fwe": "tasks.ruler.fwe",
    "tasks.ruler_qa": "tasks.ruler.qa",
    "tasks.ruler_vt": "tasks.ruler.vt",
    "tasks.ruler_words": "tasks.text.words",
    "training": "apps.train",
    "training.books": "tasks.text.books",
    "training.texts": "data.texts",
}
PACKAGE = "lcbench."


class MovedFinder:
    """Finds and loads the modules in `MOVED`, and submodules of packages in it. It does without the abstract classes of
    `importlib.abc`, which takes longer to import than the rest of this package.

    It must be the first finder: another one would find `lcbench.training.fot` in the folder of `lcbench.apps.train` and
    load it a second time.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, cast(Any, self)) if _new_address(fullname) else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves it to the import system to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = PACKAGE + _new_address(old)
        warnings.warn(f"{old} is now {new}.", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)  # the import system returns the module found in sys.modules


def _new_address(fullname: str) -> str:
    """The new name of a module without the prefix `lcbench.`; empty if it has not moved."""
    name = fullname.removeprefix(PACKAGE)
    if name == fullname:
        return ""
    if name in MOVED:
        return MOVED[name]
    package, _, rest = name.partition(".")
    return f"{MOVED[package]}.{rest}" if rest and package in MOVED else ""
