"""Attacks on the command line: how many of them a run tries, and what every one of them must end in."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest

from tests.helpers import Outcome, cli

SECONDS = 30  # of one command on a busy machine; it takes one or two
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ALL = pytest.param(
    None,
    id="all",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif("LCBENCH_ALL_DAMAGE" not in os.environ, reason="set LCBENCH_ALL_DAMAGE for all of them"),
    ],
)
Case = TypeVar("Case")
# What is not mended yet, by kind: a test marked xfail (strict) stands for each, and fails once it is.
KNOWN = {
    "control characters": r"^control characters: ",
    "a name of several lines": r"^no sentence: error: [^.]*\n is a file",
    "a name that is too long": r"^OSError: \[Errno 36\]",
    "a link to itself": r"^RuntimeError: Symlink loop",
    "a file for a folder": r"^NotADirectoryError: ",
    "half a character in a question": r"^TypeError: TextEncodeInput",
    "a damaged parquet": r"^no sentence: error: cannot read .*thrift",
    "keys of several types": r"^TypeError: '<' not supported",
    "deep JSON": r"^RecursionError: .*JSON",
}


class TooLongError(BaseException):
    """A command that does not end; no handler of errors takes it for one of its own."""


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


def new_fault(*arguments: str | Path) -> str:
    """The fault of a command, if it is none of the kinds that are known."""
    wrong = fault(*arguments)
    return "" if any(re.search(kind, wrong) for kind in KNOWN.values()) else wrong


def still(kind: str, *arguments: str | Path) -> Any:
    """A parameter that stands for a known kind: a command that fails of it, and may do so only as long as it does."""
    return pytest.param(arguments, id=kind, marks=pytest.mark.xfail(strict=True, reason=f"{kind}: not mended yet"))


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
