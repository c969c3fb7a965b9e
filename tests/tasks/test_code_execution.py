"""Programs pass, fail and are ended, and see nothing of the environment."""

from __future__ import annotations

import os
import time

import pytest

from lcbench.tasks.code_execution import failure

# A program, the seconds that it is given (four times as much by the clock), and why it is ended.
ENDLESS = {
    "loops": ("while True: pass", 1, "no end within"),
    "waits": ("import time\ntime.sleep(100)", 0.4, "no end within"),
    "ignores the signal": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", 1, ""),
    "leaves a child": ("import os, time\nif os.fork() == 0: time.sleep(100)", 0.4, "no end within"),
}
WRONG = {
    "an assertion": ("assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
    "no Python": ("def f(:", "SyntaxError"),
    "memory": ("x = bytearray(2**32)", "MemoryError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "a large file": ("open('large', 'wb').write(bytes(2**24))", "OSError"),
    "asks the user": ("input()", "EOFError"),
    "exits before its end": ("import sys\nsys.exit(0)\nassert False", "SystemExit"),
    "is gone before its end": ("import os\nos._exit(0)", "exit code 0"),
    "crashes": ("import os\nos.kill(os.getpid(), 11)", "exit code -11"),
    "an error that says nothing": ("raise ValueError", "ValueError"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_program_says_why(what: str) -> None:
    program, reason = WRONG[what]
    found = failure(program)
    assert found is not None and reason in found


@pytest.mark.parametrize("what", ENDLESS)
def test_a_program_without_end_is_ended(what: str) -> None:
    program, timeout, reason = ENDLESS[what]
    started = time.monotonic()
    found = failure(program, timeout=timeout)
    assert found is not None and reason in found
    assert time.monotonic() - started < 10


def test_a_right_program_passes_whatever_it_prints() -> None:
    assert failure("assert sum(range(10)) == 45") is None
    assert failure("print('x' * 10**7)\nimport sys\nprint('y', file=sys.stderr)") is None


def test_memory_is_as_said() -> None:
    program = "x = bytearray(200 * 2**20)"
    assert failure(program, memory=2**29) is None
    assert failure(program, memory=2**27) == "MemoryError"


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    here = os.getcwd()
    assert (
        failure(f"import os\nassert 'HF_TOKEN' not in os.environ and os.listdir() == [] and os.getcwd() != {here!r}")
        is None
    )


def test_sets_have_one_order() -> None:
    told = {failure("raise ValueError(hash('a text'))") for _ in range(3)}
    assert len(told) == 1 and None not in told
