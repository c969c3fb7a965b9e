"""One thread, nothing from the network, the same examples every time."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here needs the network


@functools.cache
def prepare() -> None:
    """Import what all tests use, and settle it for them."""
    import hypothesis
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton in Python; said before transformers imports it

    import transformers

    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background, where programs inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    transformers.logging.set_verbosity_error()
    hypothesis.settings.register_profile("lcbench", derandomize=True, deadline=None, max_examples=60)
    hypothesis.settings.load_profile("lcbench")


def pytest_collection() -> None:
    prepare()


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: no collection of garbage need look through them again."""
    gc.collect()
    gc.freeze()


# Not where xdist hands the tests out to others (there pytest_collection is not called either).
if "PYTEST_XDIST_WORKER" in os.environ or not any(word.startswith("-n") for word in sys.argv):
    prepare()
