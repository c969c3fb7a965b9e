"""Attacks on the command line: how many of them a run tries, and what every one of them must end in."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest

from tests.helpers import Outcome, cli

HOW_MANY = int(os.environ.get("LCBENCH_ALL_DAMAGE") or 0)  # 1: all of them; more: so many of each kind
SECONDS = 120  # of one command, on a machine however busy; it takes one or two
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ALL = pytest.param(
    HOW_MANY if HOW_MANY > 1 else None,
    id="all",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(not HOW_MANY, reason="set LCBENCH_ALL_DAMAGE=1 for all of them, =1000 for so many"),
    ],
)
Case = TypeVar("Case")


class TooLongError(BaseException):
    """A command that does not end; no handler of errors takes it for one of its own."""


def report(tried: int, found: Mapping[Any, str]) -> None:
    """Print how many attacks there were; fails with those that ended wrongly."""
    print(f"attacks: {tried:,}, wrong: {len(found)}")  # shown with -rP
    assert not found


def some(cases: Sequence[Case], count: int | None) -> list[Case]:
    """So many of the cases, the same ones every time; all for None."""
    return list(cases) if count is None else random.Random(0).sample(cases, min(count, len(cases)))


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raises: TooLongError in what takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(*arguments: str | Path, codes: tuple[int, ...] = (0, 2)) -> str:
    """What is wrong with how a command ends; empty if it did its work, or refused in one sentence."""
    try:
        with limited():
            shown = cli(*arguments)
    except (Exception, TooLongError) as error:
        return f"{type(error).__name__}: {error}"
    return _fault_of(shown, codes)


def _fault_of(shown: Outcome, codes: tuple[int, ...]) -> str:
    if shown.code not in codes:
        return f"exit code {shown.code}: {shown.err}"
    if "Traceback" in shown.err + shown.out:
        return shown.err + shown.out
    if shown.code == 2 and not re.search(r"Usage: |─ Error ─", shown.err):
        if not re.match(r"error: .*[.?]$", shown.error):
            return f"no sentence: {shown.err}"
        if CONTROL.search(shown.error):
            return f"control characters: {shown.error!r}"
    return ""
