"""Whatever no command foresaw: one sentence, a file with the traceback, exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcbench.__main__ import main
from lcbench.core import hub
from lcbench.core.errors import UserError
from tests.helpers import command, process


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str) -> int:
    def fail(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr("lcbench.__main__.app", fail)
    return exit_code(monkeypatch, *arguments)


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lcbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("rope_theta"), "KeyError: 'rope_theta'"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
        (MemoryError(), "MemoryError: MemoryError"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (ValueError("x" * 10_000), "ValueError: xxxx"),
    ],
)
def test_an_error_that_nobody_foresaw(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert failing(monkeypatch, error, "run", "passkey") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: lcbench failed unexpectedly: {said}") and len(line) < 400
    (file,) = tmp_path.glob("lcbench-error-*.txt")
    assert f"the traceback is in {file}." in line
    assert file.read_text().startswith("lcbench run passkey\n\nTraceback") and "in fail" in file.read_text()


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`>&-`: what Python has in their place is None."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert exit_code(monkeypatch, "list", "models") == 0
    assert exit_code(monkeypatch, "list", "nothing") == 2


def test_debug_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        failing(monkeypatch, KeyError("rope_theta"), "--debug", "run", "passkey")
    assert not list(tmp_path.iterdir())


def test_control_characters_of_a_name_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(monkeypatch, UserError("there is no \x1b[2J\x07\u202efile\ud800.")) == 2
    assert capsys.readouterr().err == "error: there is no \\x1b[2J\\x07\\u202efile\\ud800.\n"


def test_ctrl_c_and_a_broken_pipe_in_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    monkeypatch.setattr("lcbench.__main__._discard_output", lambda: None)
    assert failing(monkeypatch, BrokenPipeError()) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("list", "methods"), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr == "error: cannot write the output: No space left on device.\n"


def test_a_model_of_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    """Refused before PyTorch is imported, where the client of the hub alone would try for half a minute."""
    begun = time.monotonic()
    done = process(
        *("run", "passkey", "--model", "owner/model"),
        cwd=tmp_path,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
        HF_HUB_OFFLINE="0",
    )
    assert (
        done.returncode == 2
        and "owner/model is not in the cache, and http://127.0.0.1:9 does not answer" in done.stderr
    )
    assert time.monotonic() - begun < 15  # about 2 on a machine with nothing else to do


def test_the_wait_for_the_hub_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where looking up its name takes forever, which no timeout of a request bounds."""

    class Stuck:
        def head(self, *_: object, **__: object) -> None:
            time.sleep(30)

    monkeypatch.setattr("huggingface_hub.utils.get_session", Stuck)
    monkeypatch.setattr(hub, "PATIENCE", 0.1)
    hub.is_reachable.cache_clear()
    try:
        assert not hub.is_reachable()
    finally:
        hub.is_reachable.cache_clear()
