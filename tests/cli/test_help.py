"""Help, version and completion: what a shell shows before anything runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import types
from typing import Any

import pytest
import typer

import lcbench
from lcbench.cli.app import app
from lcbench.cli.run import EXAMPLES
from tests.helpers import cli

COMMANDS = [
    *("run", "table", "plot", "report", "compare", "rescore", "export", "show", "list", "convert", "train", "data"),
    *("bench", "ask", "import", "push"),
]


def test_help_names_every_command() -> None:
    shown = cli("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert re.search(rf"^\W*{name}\b", shown.out, re.MULTILINE)
    assert cli().code in (0, 2) and "Usage" in cli().out + cli().err  # no arguments: the same help


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_every_command(name: str, flag: str) -> None:
    shown = cli(name, flag)
    assert shown.code == 0 and shown.err == ""
    assert f"{name} [OPTIONS]" in shown.out


def test_helps_are_paragraphs_of_a_line_and_their_examples_are_options() -> None:
    """Lines of a docstring would stay lines at any width, all but those of its first paragraph."""

    def of(verb: Any, name: str) -> None:
        for other, inner in getattr(verb, "commands", {}).items():
            of(inner, f"{name} {other}")
        later = (verb.help or "").split("\n\n")[1:]
        assert not any("\n" in paragraph.strip() for paragraph in later), name

    of(typer.main.get_command(app), "lcbench")
    shown = cli("run", "--help").out
    assert all(f" {option} " in shown for option in re.findall("--[a-z-]+", EXAMPLES))


def test_help_names_all_spellings_of_an_option_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("run", "--help").out
    assert "…" not in shown
    assert all(re.search(rf"{spelled}\b", shown) for spelled in ("--samples", "--limit", "--num-samples"))


def test_version() -> None:
    shown = cli("--version")
    assert (shown.code, shown.out, shown.err) == (0, f"lcbench {lcbench.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "position", "candidates"), [("lcbench ", 1, COMMANDS), ("lcbench run --se", 2, ["--seq-len", "--seed"])]
)
def test_completion(words: str, position: int, candidates: list[str]) -> None:
    code = "import sys; sys.argv[0] = 'lcbench'; from lcbench.__main__ import main; main()"
    environment = {"_LCBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert set(candidates) <= set(done.stdout.split())


def test_completion_script() -> None:
    code = "import sys; sys.argv[0] = 'lcbench'; from lcbench.__main__ import main; main()"
    arguments = [sys.executable, "-c", code, "--show-completion", "bash"]
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "LANG": "C.UTF-8"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "_LCBENCH_COMPLETE=complete_bash" in done.stdout


def test_ctrl_c_while_it_is_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lcbench.__main__")
    monkeypatch.setitem(sys.modules, "lcbench.cli.app", Interrupted("lcbench.cli.app"))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("lcbench.__main__")
    assert stopped.value.code == 130 and capsys.readouterr().err == "interrupted.\n"
