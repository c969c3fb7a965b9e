"""Python's garbage collector, switched off where scanning for garbage takes longer than the work."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Switch the garbage collector off inside the block, or inside a function that this decorates.

    For work that allocates many objects and little garbage: with ten thousand parsed records in memory the collector
    takes as long as the parsing.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
