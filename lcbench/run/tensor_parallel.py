"""The process group of a tensor-parallel model, and what its ranks must agree on.

Processes that share a run with a model each need no communication: a process learns its rank from the launcher's
environment (`torchrun`, `accelerate launch`) and claims batches by locks in the run's folder. Only the ranks of one
tensor-parallel model are joined by torch.distributed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lcbench.core.processes import Processes
from lcbench.results.schema import Record


class NullWriter:
    """Replaces `RunWriter` in all ranks but 0 of a tensor-parallel model, and writes nothing.

    `folder` is a temporary folder for the files that a measure writes; it is removed when the process ends.
    """

    def __init__(self, done: set[str], folder: Path) -> None:
        self.done, self.folder = done, folder

    def append(self, record: Record) -> None:
        if record.error is None:
            self.done.add(record.identity.id)

    def news(self) -> list[Record]:
        return []

    def claim(self, part: str) -> bool:
        return True

    def release(self, part: str) -> None: ...


@contextmanager
def process_group(processes: Processes) -> Iterator[None]:
    """The process group of a tensor-parallel model, over this machine's accelerators or else over its CPU."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        torch.accelerator.set_device_index(processes.local_rank)
    torch.distributed.init_process_group(torch.distributed.get_default_backend_for_device(device or "cpu"))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def null_writer() -> Iterator[NullWriter]:
    """The writer of a rank other than 0, with the recorded ids that rank 0 broadcasts by `lead`."""
    import torch

    received: list[set[str] | None] = [None]
    torch.distributed.broadcast_object_list(received, src=0)
    with tempfile.TemporaryDirectory() as folder:
        yield NullWriter(received[0] or set(), Path(folder))


def lead(done: set[str]) -> None:
    """In rank 0: broadcast the recorded ids, so that all ranks do the same work."""
    import torch

    torch.distributed.broadcast_object_list([done], src=0)
