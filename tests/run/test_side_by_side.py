"""Units in threads: each in order, all results, and an end that waits for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lcbench.run.side_by_side import side_by_side


def counting(unit: str) -> Iterator[str]:
    yield from (f"{unit}{n}" for n in range(3))


@pytest.mark.parametrize("threads", [1, 3])
def test_all_results_and_the_end_of_each_unit(threads: int) -> None:
    found = list(side_by_side("abcdefg", counting, threads))
    for unit in "abcdefg":
        assert [result for one, result in found if one == unit] == [f"{unit}0", f"{unit}1", f"{unit}2", None]


def test_units_are_taken_when_a_thread_is_free() -> None:
    taken: list[int] = []

    def units() -> Iterator[int]:
        for n in range(10):
            taken.append(n)
            yield n

    finished = 0
    for _, result in side_by_side(units(), lambda n: iter([n]), 2):
        assert len(taken) <= finished + 2
        finished += result is None


def test_an_error_is_raised_and_a_thread_that_waits_is_left_alone() -> None:
    never = threading.Event()

    def work(unit: str) -> Iterator[str]:
        if unit == "bad":
            raise ValueError("boom")
        never.wait(30)
        yield unit

    started = time.perf_counter()
    with pytest.raises(ValueError, match="boom"):
        list(side_by_side(["slow", "bad"], work, 2))
    assert time.perf_counter() - started < 5
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("request-"))
    never.set()
