"""The processes that a launcher started, and which of them this is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lcbench.core.errors import UserError


@dataclass(frozen=True)
class Processes:
    """The rank of this process, the world size `count`, and its rank on its own machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which prints for the user and exits last."""
        return self.rank == 0


def launched() -> Processes:
    """Read from RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets them; a single process if they are not set.

    Raises: UserError for inconsistent values.
    """
    try:
        rank, count, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers, by torchrun: {error}.") from error
    if not 0 <= rank < count or local < 0:
        raise UserError(f"RANK={rank}, WORLD_SIZE={count} and LOCAL_RANK={local} do not fit; start all by torchrun.")
    return Processes(rank, count, local)
