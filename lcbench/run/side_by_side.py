"""Work in several threads that wait for a server; results are returned to the calling thread.

The threads are daemons: one that waits for a server does not keep the process alive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def side_by_side(
    units: Iterable[Unit], work: Callable[[Unit], Iterator[Result]], threads: int
) -> Iterator[tuple[Unit, Result | None]]:
    """The results as they arrive, each with its unit; a unit's last result is followed by None.

    A unit is taken only when a thread is free for it. With one thread, units run in the caller's thread, in order. An
    exception of a unit is raised here, and units in progress are abandoned.
    """
    if threads == 1:
        for unit in units:
            for result in work(unit):
                yield unit, result
            yield unit, None
        return
    waiting: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Unit, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def serve() -> None:
        while (unit := waiting.get()) is not None:
            try:
                for result in work(unit):
                    if stopped.is_set():
                        return
                    done.put((unit, result, None))
                done.put((unit, None, None))
            except BaseException as error:
                done.put((unit, None, error))

    coming, open_units = iter(units), 0
    workers = [threading.Thread(target=serve, name=f"request-{n}", daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        more = True
        while more or open_units:
            while more and open_units < threads:
                following = next(coming, None)
                more = following is not None
                if following is not None:
                    waiting.put(following)
                    open_units += 1
            if open_units:
                unit, found, error = done.get()
                if error is not None:
                    raise error
                open_units -= found is None
                yield unit, found
    finally:
        stopped.set()
        for _ in workers:
            waiting.put(None)
