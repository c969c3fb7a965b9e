"""A comparison as text, page and file, and the command that makes them."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from lcbench.results.compare import compare
from lcbench.results.report.comparison import markdown, print_comparison
from lcbench.results.report.comparison_html import page
from lcbench.results.report.comparison_junit import junit
from tests.compared import RIGHT, WRONG, cell, failed, save
from tests.helpers import cli
from tests.pages import Tags

EVIL = "<script>alert('x')</script> | `code` & \x1b[31m\x00 ]]> \"quoted\""


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Four cells: one of each verdict, with names and errors that want to be code."""
    other = cell([1.0] * 9, task=f"own {EVIL}", method=EVIL)
    base = RIGHT + cell([0.0] * 20, seq_len=512) + cell([1.0] * 4, seq_len=1024) + other
    new = (
        RIGHT
        + cell([1.0] * 20, seq_len=512)
        + cell([1.0] * 4, seq_len=1024, prompt_sha256="x")
        + [failed(0, EVIL, task=f"own {EVIL}", method=EVIL)]
    )
    return save(tmp_path / "base", base), save(tmp_path / "new", new, dtype="float16")


def test_junit_is_xml_that_says_the_same(runs: tuple[Path, Path]) -> None:
    comparison = compare(*runs)
    root = ElementTree.fromstring(junit(comparison))
    assert root.attrib == {"name": "lcbench compare", "tests": "4", "failures": "1", "errors": "0", "skipped": "1"}
    assert [suite.get("tests") for suite in root] == ["3", "1"]
    kinds = [[child.tag for child in case if child.tag != "system-out"] for case in root.iter("testcase")]
    assert kinds == [[], [], ["skipped"], ["failure"]]
    failure = next(root.iter("failure"))
    assert "<script>alert('x')</script>" in str(failure.get("message")) and not {"\x00", "\x1b"} & set(
        str(failure.text)
    )
    assert "verdict: regressed" in str(failure.text)


def test_page_is_self_contained_and_escaped(runs: tuple[Path, Path]) -> None:
    text = page(compare(*runs))
    shown = Tags(text)
    assert "script" not in shown.tags and "link" not in shown.tags and "http" not in text.replace("http-equiv", "")
    assert "<script>alert('x')</script>" in shown.text  # as text
    assert shown.tags.count("td") == 4 * 11 + 2 * len(compare(*runs).facts)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "float16" in text
    for words in ("1 regressed", "1 improved", "1 no evidence", "1 not comparable"):
        assert words in shown.text
    assert '<li class="regressed">1 regressed</li>' in text


def test_a_page_alarms_nobody_without_a_reason(tmp_path: Path) -> None:
    same = save(tmp_path / "same", RIGHT)
    text = page(compare(same, same))
    assert "<li>0 regressed</li>" in text and '<li class="no-evidence">1 no evidence</li>' in text


def test_markdown_is_tables_that_nothing_breaks_out_of(runs: tuple[Path, Path]) -> None:
    text = markdown(compare(*runs))
    assert text.startswith("## lcbench compare: 4 cells: 1 regressed, 1 improved, 1 no evidence, 1 not comparable\n")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {12, 4}
    assert "<script>" not in text and r"0.000 | 1.000 | +1.000 \[+0." in text


def test_terminal_output_is_plain_in_a_pipe_and_whole(runs: tuple[Path, Path]) -> None:
    shown = cli("compare", *runs)
    assert shown.code == 0 and shown.err == ""
    assert not {"\x1b", "\x00", "…"} & set(shown.out)
    assert max(len(line) for line in shown.out.split("own <script>")[0].splitlines()) <= 80
    for words in ("regressed", "improved", "no evidence", "not comparable", "+1.000", "<0.001"):
        assert words in shown.out
    assert shown.out.splitlines()[-1] == "4 cells: 1 regressed, 1 improved, 1 no evidence, 1 not comparable"


@pytest.mark.parametrize("width", [30, 40, 60])
def test_a_narrow_terminal_has_a_list(tmp_path: Path, width: int) -> None:
    long = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"
    sides = [
        save(tmp_path / name, cell(scores, method=long) + cell([1.0], seq_len=131072))
        for name, scores in (("base", [1.0] * 20), ("new", [0.0] * 20))
    ]
    console = Console(file=io.StringIO(), width=width)
    print_comparison(console, compare(*sides))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    task = shown.split("regressed: worse scores")[0].rpartition("\n")[0]  # what follows are sentences
    assert max(map(len, task.splitlines())) <= width and "…" not in task
    words = " ".join(task.split())
    for part in (
        "self_extend group_size=8 neighbor_window=1024 log_scale_base=4096 256 tokens, 20 pairs: regressed",
        "BASE 1.000, NEW 0.000, adj. p <0.001",
        "difference -1.000 [-1.000, -0.772]",
        "vanilla 131,072 tokens, 1 pair: no evidence",
    ):
        assert part in words


def test_an_unknown_interval_is_explained(tmp_path: Path) -> None:
    right, graded = save(tmp_path / "right", RIGHT), save(tmp_path / "graded", cell([0.3] * 6))
    why = "[unknown]: too few samples differ to estimate an interval."
    assert why in cli("compare", graded, graded).out and "unknown" not in cli("compare", right, right).out


# The command


def test_exit_codes(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "good", RIGHT), save(tmp_path / "bad", WRONG)
    other = save(tmp_path / "other", [each | {"prompt_sha256": "x"} for each in RIGHT])
    assert [cli("compare", *pair).code for pair in itertools.permutations((good, bad), 2)] == [0, 0]
    flag = "--fail-on-regression"
    assert cli("compare", good, bad, flag).code == 1
    assert cli("compare", bad, good, flag).code == cli("compare", good, good, flag).code == 0
    assert cli("compare", good, bad, flag, "--alpha", "1e-9").code == 0
    nothing = cli("compare", good, other, flag)
    assert nothing.code == 2 and "no cell" in nothing.error and "make a new BASE" in nothing.error
    assert cli("compare", good, other).code == 0
    broken = save(tmp_path / "broken", [failed(sample) for sample in range(len(RIGHT))])
    assert cli("compare", broken, good).code == 0 and cli("compare", broken, good, flag).code == 2, "no pair has scores"


def test_files_are_written_also_where_a_cell_regressed(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "good", RIGHT), save(tmp_path / "bad", WRONG)
    files = {name: tmp_path / f"report.{name}" for name in ("markdown", "junit", "html")}
    options = [argument for name, path in files.items() for argument in (f"--{name}", path)]
    assert cli("compare", good, bad, "--fail-on-regression", *options).code == 1
    assert [path.read_text()[:9] for path in files.values()] == ["## lcbenc", "<?xml ver", "<!doctype"]


@pytest.mark.parametrize("option", ["--markdown", "--junit", "--html"])
def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, option: str) -> None:
    """As `lcbench plot` has it: it may well be a slip."""
    run, path = save(tmp_path / "run", RIGHT), tmp_path / "nowhere" / "report"
    shown = cli("compare", run, run, option, path)
    assert shown.code == 2 and f"cannot write {path}" in shown.error and not path.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--alpha", "1"], "--alpha must be between 0 and 1"),
        (["--max-slowdown", "-1"], "--max-slowdown must be a ratio above 0"),
        (["--max-memory", "nan"], "--max-memory must be a ratio above 0"),
        (["--markdown", "/dev/null/x.md"], "cannot write /dev/null/x.md"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], error: str) -> None:
    run = save(tmp_path / "run", RIGHT)
    shown = cli("compare", run, run, *arguments)
    assert shown.code == 2 and error in shown.error


def test_runs_that_are_none(tmp_path: Path) -> None:
    run, empty = save(tmp_path / "run", RIGHT), save(tmp_path / "empty", [])
    assert "is not a run" in cli("compare", run, tmp_path).error
    assert "has no records yet" in cli("compare", run, empty).error
    lines = (run / "records.jsonl").read_text().replace('"references"', '"foreign"')
    (run / "records.jsonl").write_text(lines)
    assert "records.jsonl, line 1: field `references` is missing; move" in cli("compare", run, run).error


def test_the_same_comparison_twice_says_the_same(tmp_path: Path) -> None:
    base, new = (
        save(tmp_path / name, cell([0.01 * (k * step % 37) for k in range(30)])) for name, step in (("a", 7), ("b", 11))
    )
    assert json.dumps(markdown(compare(base, new))) == json.dumps(markdown(compare(base, new)))
