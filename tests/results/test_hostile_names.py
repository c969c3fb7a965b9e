"""Names and answers with control characters, markup, formulas and half characters, on every way out of lcbench."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import lcbench
from lcbench.core import terminal
from lcbench.core.errors import printable
from lcbench.results.records import MANIFEST, RECORDS
from tests.attacks import CONTROL
from tests.helpers import cli
from tests.results.report.samples import failure, record
from tests.results.test_damaged_folders import IDENTITY, SESSION

EVIL = "[red]r[/red]\x1b[31m\x9b5m\u202e$x^{$\\frac<b onload=x>&|`*\r\n\tend\x07\ud800\x00"
HARMFUL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\ud800-\udfff]")  # in a file, where \r ends a line


def hostile(value: Any) -> Any:
    """The same fields with every name and text of people and models replaced."""
    return value | {
        "task": f"passkey{EVIL}",
        "id": f"{value['id']}{EVIL}",
        "method": f"dca:x={EVIL}",
        "model": EVIL,
        "references": [EVIL],
        **({"prediction": EVIL, "metric": f"m{EVIL}", "scores": {f"m{EVIL}": 1.0}} if value["error"] is None else {}),
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    records = [hostile(record(sample=n, cell_depth=0.5, depth=0.5, excerpt=[EVIL])) for n in range(4)]
    records += [hostile(record(seq_len=512, sample=n)) for n in range(4)]
    records.append(hostile(failure("dca", 1024, reason=EVIL)))
    identity = {**IDENTITY, "model": EVIL, "jobs": [], "tasks": []}
    session = {**SESSION, "command": ["lcbench", EVIL], "advice": [EVIL], "platform": EVIL}
    session["hardware"] = {"cpu": EVIL, "cores": 2, "threads": 2, "gpus": [EVIL]}
    name = "results/[red]r\x1b[31m=1"
    for folder in (Path(name), Path("results/other")):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps({"format": 1, "identity": identity, "sessions": [session]}))
        changed = [each | {"scores": {f"m{EVIL}": 0.0}} if folder.name == "other" and "scores" in each else each
                   for each in records]  # fmt: skip
        (folder / RECORDS).write_text("".join(json.dumps(each) + "\n" for each in changed))
    return name


VERBS = (
    ("table", "RUN"),
    *(("table", "RUN", "--format", each) for each in ("csv", "json", "markdown", "latex")),
    ("plot", "TASK", "--run", "RUN", "--out", "x.svg"),
    ("plot", "TASK", "--run", "RUN", "--run", "results/other", "--out", "x.png"),
    ("compare", "RUN", "results/other", "--markdown", "x.md", "--junit", "x.xml", "--html", "x.html"),
    ("report", "RUN", "--out", "x.html"),
    ("export", "RUN", "--out", "x.parquet"),
    ("list", "runs"),
)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:4:3]))
def test_nothing_hostile_gets_out(words: tuple[str, ...], run: str) -> None:
    named = {"RUN": run, "TASK": f"passkey{EVIL}".replace("\ud800", "\ufffd")}
    shown = cli(*(named.get(word, word) for word in words))
    assert shown.code == 0, shown.err
    said = shown.out.replace("\r\n", "\n") + shown.err
    assert not CONTROL.search(said) and not HARMFUL.search(said), said
    assert words[0] != "list" or "[red]" in shown.out
    for path in Path().glob("x.*"):
        if path.suffix in (".svg", ".html", ".md", ".xml"):
            text = path.read_text(encoding="utf-8")
            assert not HARMFUL.search(text), (path, HARMFUL.search(text))
            assert "<b onload" not in text
        if path.suffix in (".svg", ".xml"):
            ElementTree.parse(path)
    if "csv" in words:
        assert all(cell[:1] not in "=+@" or not cell for line in csv.reader(io.StringIO(shown.out)) for cell in line)
    if words[0] == "export":
        import pyarrow.parquet

        assert pyarrow.parquet.read_table("x.parquet").num_rows == 9


def test_styles_are_the_only_escapes() -> None:
    written = io.StringIO()
    console = terminal.console(file=written, force_terminal=True, width=80)
    console.print(f"[bold]a{chr(27)}[2Jb", style="red")
    assert "[bold]a\\x1b[2Jb" in written.getvalue() and written.getvalue().startswith("\x1b[31m")


def test_half_characters_are_printed() -> None:
    assert printable("\ud800\x1bx\ny\t\u202e") == "\\ud800\\x1bx\ny\t\\u202e"


def test_every_word_goes_through_the_border() -> None:
    """No other console, and no other echo."""
    root = Path(lcbench.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        if path == root / "core" / "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Console", "typer.echo", "click.echo"):
                found.append(f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}")
    assert not found
