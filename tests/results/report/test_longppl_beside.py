"""LongPPL beside perplexity in tables, curves and pages, from made-up likelihoods; what cannot be judged is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lcbench.core.errors import UserError
from lcbench.results.longppl import longppl
from lcbench.results.nll import TokenNll
from lcbench.results.records import MANIFEST
from tests.helpers import Fields, cli
from tests.results.report.test_curves import record
from tests.results.report.test_summary import run_folder

BOOKS, LENGTH, CONTEXT = 8, 64, 16
SLIDING = "pg19:protocol=sliding,stride=16"


def whole(book: int, gain: float) -> np.ndarray:
    """Of 64 tokens every fourth is cheap in the long context, from the 16th on and before."""
    nll = np.full(LENGTH, 3.0, dtype=np.float32)
    nll[::4] = 0.5 + 0.05 * book - gain
    return nll


def saved(
    folder: Path,
    methods: Sequence[str],
    *,
    short: bool,
    sha: str = "tokens",
    chars: int | None = None,
    opening: int = 1,
) -> Path:
    """A run of 8 books in one window of 64 tokens, or in windows of 32, where all tokens cost 3 nats. `chars`: of each
    token, unknown in older runs."""
    lengths = None if chars is None else np.full(LENGTH, chars, dtype=np.int32)
    rows: list[Fields] = []
    for method in methods:
        for book in range(BOOKS):
            task, length = (SLIDING, 32) if short else ("pg19", LENGTH)
            each = record(method, length, 2.5, book, task)
            named = {"document": f"book {book}", "prompt_sha256": f"{sha} {book}"}
            rows.append(each | named | {"protocol": "sliding, stride 16" if short else "prefix"})
            rows[-1]["nll"] = each["nll"] | {"file": f"nll/{method}-{book}.npz"}
    run_folder(folder, rows)
    (folder / "nll").mkdir()
    for method in methods:
        for book in range(BOOKS):
            starts = np.arange(0, LENGTH - 16, 16) if short else np.array([0])
            stops = starts + 32 if short else np.array([LENGTH])
            firsts = np.concatenate([[0], stops[:-1]])
            nll = np.full(LENGTH, 3.0, dtype=np.float32) if short else whole(book, 0.1 * (method == "dca"))
            made = TokenNll(nll, starts, firsts, stops, 0, lengths, None if chars is None else opening)
            (folder / made.write(folder, "x")).rename(folder / "nll" / f"{method}-{book}.npz")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("beside")
    methods = ("vanilla", "dca")
    return saved(folder / "long", methods, short=False), saved(folder / "short", methods, short=True)


def test_a_table_has_it_beside_perplexity(runs: tuple[Path, Path]) -> None:
    shown = cli("table", *runs, "--format", "markdown").out
    assert "**pg19: longppl (lower is better), 8 books per score, 95 % intervals over books" in shown
    rows = list(csv.DictReader(io.StringIO(cli("table", *runs, "--format", "csv").out)))
    known = {row["method"]: row for row in rows if row["task"] == "pg19"}
    mean = sum(0.5 + 0.05 * book for book in range(BOOKS)) / BOOKS
    assert float(known["vanilla"]["longppl"]) == pytest.approx(math.exp(mean), rel=1e-6)
    assert float(known["dca"]["longppl"]) == pytest.approx(math.exp(mean - 0.1), rel=1e-6)
    assert float(known["dca"]["longppl_low"]) < float(known["dca"]["longppl"]) < float(known["dca"]["longppl_high"])
    assert known["vanilla"]["key_tokens"] == str(BOOKS * 12) and known["vanilla"]["short_context"] == str(CONTEXT)
    assert {row["longppl"] for row in rows if row["task"] == SLIDING} == {""}
    assert "unlikely given 16 tokens" in shown and "96 with vanilla at 64" in shown
    rows_of_verb = json.loads(cli("longppl", *runs, "--format", "json").out)
    assert {row["method"]: row["longppl"] for row in rows_of_verb} == {
        method: pytest.approx(float(row["longppl"])) for method, row in known.items()
    }


def test_alone_a_run_has_none(runs: tuple[Path, Path]) -> None:
    for run in runs:
        assert "longppl (lower" not in cli("table", run, "--format", "markdown").out


def test_a_page_has_it(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert cli("report", *runs, "--out", tmp_path / "x.html").code == 0
    assert "pg19: longppl (lower is better)" in (tmp_path / "x.html").read_text()


@pytest.mark.slow
def test_a_curve_has_it(runs: tuple[Path, Path], tmp_path: Path) -> None:
    drawn = cli("plot", "pg19", "--run", runs[0], "--run", runs[1], "--out", tmp_path / "x.svg")
    assert drawn.code == 0, drawn.err
    assert "pg19: longppl by length" in drawn.out and "longppl" in (tmp_path / "x.svg").read_text()


def test_likelihoods_that_are_gone_leave_the_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    long = shutil.copytree(runs[0], tmp_path / "long")
    shutil.rmtree(long / "nll")
    shown = cli("table", long, runs[1], "--format", "markdown")
    assert shown.code == 0 and "note: longppl is left out: cannot read " in shown.err
    assert "**pg19: perplexity" in shown.out and "longppl (lower" not in shown.out


def test_where_the_tokens_of_an_older_run_are_is_unknown(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Though they are as many, of as many bytes."""
    other = saved(tmp_path / "other", ["vanilla"], short=False, sha="others")
    with pytest.raises(UserError, match=r"^book 0 has other tokens in the judge's run, and their positions"):
        longppl(*runs, (other, runs[1], "vanilla"))


def test_a_judge_with_other_tokens(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Its tokens have 2 characters, those that are judged 1: where it finds 12 of 64 to be key, 24 are within them, but
    for those of the text that the judged model did not read."""
    judge = saved(tmp_path / "judge", ["vanilla"], short=False, sha="others", chars=2)
    judged = saved(tmp_path / "judged", ["vanilla"], short=False, chars=1)
    (row,) = longppl(judged, runs[1], (judge, runs[1], "vanilla"))
    within = [token for token in range(LENGTH) if token // 2 % 4 == 0 and token // 2 >= CONTEXT]
    assert row.key_tokens == BOOKS * len(within) == BOOKS * 8
    losses = [0.5 + 0.05 * book if token % 4 == 0 else 3.0 for book in range(BOOKS) for token in within]
    assert row.longppl == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    other = saved(tmp_path / "other", ["vanilla"], short=False, sha="others", chars=2, opening=7)
    with pytest.raises(UserError, match="book 0 is a different text in the judge's run"):
        longppl(judged, runs[1], (other, runs[1], "vanilla"))


def test_both_contexts_are_of_one_model(runs: tuple[Path, Path], tmp_path: Path) -> None:
    short = shutil.copytree(runs[1], tmp_path / "short")
    manifest = json.loads((short / MANIFEST).read_text())
    manifest["identity"]["model_fingerprint"] = "another"
    (short / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="are of different models"):
        longppl(runs[0], short)
    assert "longppl (lower" not in cli("table", runs[0], short, "--format", "markdown").out
