"""Work in several threads that wait for a server; results are returned to the calling thread.

The threads are daemons: one that waits for a server does not keep the process alive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def side_by_side(
    units: Iterable[Unit], work: Callable[[Unit], Iterator[Result]], threads: int
) -> Iterator[tuple[Unit, Result | None]]:
    """The results as they arrive, each with its unit; a unit's last result is followed by None.

    A unit is taken only when a thread is free for it. With one thread, units run in the caller's thread, in order. An
    exception of a unit is raised here, and units in progress are abandoned.
    """
    return _in_order(units, work) if threads == 1 else _in_threads(units, work, threads)


def _in_order(units: Iterable[Unit], work: Callable[[Unit], Iterator[Result]]) -> Iterator[tuple[Unit, Result | None]]:
    for unit in units:
        for result in work(unit):
            yield unit, result
        yield unit, None


def _in_threads(
    units: Iterable[Unit], work: Callable[[Unit], Iterator[Result]], threads: int
) -> Iterator[tuple[Unit, Result | None]]:
    pool = _Pool(work, threads)
    coming, open_units, more = iter(units), 0, True
    try:
        while more or open_units:
            while more and open_units < threads:
                following = next(coming, None)
                more = following is not None
                if following is not None:
                    pool.waiting.put(following)
                    open_units += 1
            if open_units:
                unit, found, error = pool.done.get()
                if error is not None:
                    raise error
                open_units -= found is None
                yield unit, found
    finally:
        pool.stop()


class _Pool(Generic[Unit, Result]):
    """Threads that take units from `waiting` and put (unit, result, error) into `done`; result None ends a unit."""

    def __init__(self, work: Callable[[Unit], Iterator[Result]], threads: int) -> None:
        self.waiting: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[Unit, Result | None, BaseException | None]] = queue.SimpleQueue()
        self._work, self._stopped = work, threading.Event()
        self._workers = [threading.Thread(target=self._serve, name=f"request-{n}", daemon=True) for n in range(threads)]
        for worker in self._workers:
            worker.start()

    def _serve(self) -> None:
        while (unit := self.waiting.get()) is not None:
            try:
                for result in self._work(unit):
                    if self._stopped.is_set():
                        return
                    self.done.put((unit, result, None))
                self.done.put((unit, None, None))
            except BaseException as error:
                self.done.put((unit, None, error))

    def stop(self) -> None:
        """End the threads after their current result, without waiting for them."""
        self._stopped.set()
        for _ in self._workers:
            self.waiting.put(None)
