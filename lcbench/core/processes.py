"""The processes that a launcher started, and which of them this is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lcbench.core.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among those that were launched together; `local_rank` counts on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether it is the one that talks to the user, and that stays until all is done."""
        return self.rank == 0


def launched() -> Processes:
    """What the launcher's environment says; one process where there is none.

    Raises: UserError for an environment that makes no sense.
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
