"""Tables: nothing cut off at 80 columns, failures and gaps shown, numbers that other programs can read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from typing import Any

import pytest
from rich.console import Console

from lcbench.records import Record
from lcbench.report.summary import Row, summarise
from lcbench.report.tables import as_csv, human_bytes, markdown, print_tables

LONG = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"


def record(method: str = "vanilla", seq_len: int = 256, sample: int = 0, score: float = 1.0, **fields: Any) -> Record:
    return {
        "id": f"passkey/{method}/{seq_len}/uniform/{sample}",
        "task": "passkey",
        "method": method,
        "seq_len": seq_len,
        "sample": sample,
        "prompt_tokens": seq_len - 6,
        "scores": {"exact_match": score},
        "metric": "exact_match",
        "error": None,
        "cost": {"prefill_seconds": 0.5, "decode_seconds": 0.25, "peak_memory_bytes": 300 * 2**20 + sample},
        **fields,
    }


def failure(method: str, seq_len: int, reason: str = "out of memory", sample: int = 0) -> Record:
    whole = record(method, seq_len, sample)
    for key in ("scores", "metric", "cost"):
        del whole[key]
    return whole | {"error": reason}


def text(rows: list[Row], trained: int | None = 256, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_tables(console, rows, trained)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_summary_of_one_row() -> None:
    records = [record(sample=sample, score=float(sample < 3)) for sample in range(4)]
    (row,) = summarise(records)
    assert (row.task, row.method, row.seq_len, row.metric, row.samples) == ("passkey", "vanilla", 256, "exact_match", 4)
    assert row.mean == 0.75 and row.failed is None
    assert (row.low, row.high) == pytest.approx((0.3006, 0.9544), abs=5e-5)
    assert row.prefill_tokens_per_second == pytest.approx(4 * 250 / 2.0)
    assert row.peak_memory_bytes == 300 * 2**20 + 3


def test_summary_keeps_the_order_and_sets_apart() -> None:
    records = [record("b", 512), record("a", 256), record("b", 256), record("b", 512, sample=1), record("b", task="x")]
    rows = summarise(records)
    assert [(row.task, row.method, row.seq_len, row.samples) for row in rows] == [
        ("passkey", "b", 512, 2),
        ("passkey", "a", 256, 1),
        ("passkey", "b", 256, 1),
        ("x", "b", 256, 1),
    ]


def test_summary_of_failures() -> None:
    """A failed sample is neither right nor wrong: the score is of those that were answered."""
    whole, partly = summarise(
        [failure("a", 256), record("b", 256, score=0.0), record("b", 256, 1), failure("b", 256, sample=2)]
    )
    assert (whole.samples, whole.mean, whole.low, whole.high, whole.failed) == (0, None, None, None, "out of memory")
    assert whole.prefill_tokens_per_second is None and whole.peak_memory_bytes is None
    assert (partly.samples, partly.mean, partly.failed) == (2, 0.5, "out of memory")


def test_text_fits_80_columns_and_cuts_nothing() -> None:
    lengths = [256, 512, 1024, 131072]
    records = [
        record(method, seq_len, sample, score=float(sample < at))
        for method, at in (("vanilla", 20), (LONG, 7), ("dca+yarn:factor=16", 0))
        for seq_len in lengths
        for sample in range(20)
    ]
    shown = text(summarise(records))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for piece in ("1.00", ".84-1.00", "0.35", ".18-.57", "0.00", ".00-.16", "131,072", "(512x)", "tok/s", "300 MiB"):
        assert piece in shown
    options = LONG.partition(":")[2].replace(",", "")
    assert options in "".join(line[:19].strip() for line in shown.splitlines())  # folded where it must be
    assert "passkey: exact match, 20 samples a score, 95 % intervals\n" in shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("lengths", [1, 4, 5, 8, 11])
def test_text_has_every_score_at_every_width(width: int, lengths: int) -> None:
    """Lengths that do not fit go on in a further table; method names stay readable in each."""
    records = [record(method, 2**power, score=0.0) for method in (LONG, "dca") for power in range(8, 8 + lengths)]
    shown = text(summarise(records), 256, width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    tables = shown.count("method ")
    assert len(re.findall(r" 0\.00(?= )", shown)) == len(re.findall(r" \.00-\.79(?= )", shown)) == 2 * lengths
    assert len(re.findall(r" self_extend ", shown)) == len(re.findall(r" dca ", shown)) == tables
    assert tables == 1 if lengths == 1 or (width, lengths) == (200, 11) else tables >= 1
    for power in range(8, 8 + lengths):
        assert f"{2**power:,}" in shown


def test_text_shows_failures_and_gaps() -> None:
    rows = summarise([record("vanilla", 256), failure("vanilla", 512), record("dca", 256)])
    shown = text(rows)
    vanilla = next(line for line in shown.splitlines() if line.strip().startswith("vanilla"))
    dca = next(line for line in shown.splitlines() if line.strip().startswith("dca"))
    assert "1.00" in vanilla and "failed" in vanilla and "tok/s" not in vanilla
    assert "1.00" in dca and "failed" not in dca and "0.00" not in dca
    assert "failed: vanilla at 512: out of memory\n" in shown


def test_text_does_not_read_markup_out_of_names() -> None:
    shown = text(summarise([record("fot:layers=[1,2]"), failure("x:y=[red]", 256, "[bold]why[/]")]))
    assert "layers=[1,2]" in shown
    assert "[bold]why[/]" in shown and "x:y=[red]" in shown


def test_times_of_the_trained_length() -> None:
    shown = text(summarise([record(seq_len=seq_len) for seq_len in (256, 300, 512)]))
    assert "(1x)" in shown and "(2x)" in shown and shown.count("x)") == 2
    assert "x)" not in text(summarise([record(seq_len=512)]), None)


def test_markdown_is_a_table() -> None:
    rows = summarise([record("vanilla", 256), record("dca:mscale=0.1", 512, score=0.0), failure("vanilla", 512)])
    title, empty, *lines = markdown(rows, 256).splitlines()
    assert title == "**passkey: exact match, 1 samples a score, 95 % intervals**" and empty == ""
    table = [line for line in lines if line.startswith("|")]
    assert {len(cells(line)) for line in table} == {5}
    assert all(re.fullmatch(r"-{3,}:?", cell) for cell in cells(table[1]))
    assert cells(table[0]) == ["method", "256 (1x)", "512 (2x)", "prefill tok/s at 512", "peak memory at 512"]
    assert cells(table[2])[:3] == ["`vanilla`", "1.00 [0.21, 1.00]", "failed"]
    assert cells(table[3]) == ["`dca:mscale=0.1`", "", "0.00 [0.00, 0.79]", "1,012", "300 MiB"]
    assert "- failed: `vanilla` at 512: out of memory" in lines


def test_csv_reads_back() -> None:
    rows = summarise(
        [record("vanilla", 256), record(LONG, 512, score=0.0), record(LONG, 512, 1), failure("dca", 512, 'why, "so"')]
    )
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(read) == 3
    for row, line in zip(rows, read):
        for name, value in dataclasses.asdict(row).items():
            assert line[name] == ("" if value is None else str(value))
    assert float(read[1]["low"]) == rows[1].low  # not rounded


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MiB"), (300 * 2**20, "300 MiB"), (2**30 - 1, "1024 MiB"), (2**30, "1.0 GiB"), (140 * 2**30, "140.0 GiB")],
)
def test_human_bytes(count: int, words: str) -> None:
    assert human_bytes(count) == words
