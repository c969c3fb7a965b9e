"""Garbage collections, where looking for garbage takes longer than the work."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collections within the block, or within a function that this decorates: for work that makes many
    objects and hardly any garbage. Among the parts of ten thousand records a search takes as long as reading them."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
