"""Tables: nothing cut off at 80 columns, failures and gaps shown, numbers that other programs can read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from lcbench.results.manifest import RunIdentity, TaskFacts
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import TableRow, summarise_runs
from lcbench.results.report.tables import as_csv, as_json, human_bytes, latex, markdown, print_tables
from tests.helpers import Fields
from tests.results.report.samples import failure, likelihood, record, summarise, typed

LONG = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"


def text(rows: list[TableRow], trained: int | None = 256, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_tables(console, rows, trained)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


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
    assert options in "".join(line[1:].split("  ")[0] for line in shown.splitlines())  # folded where it must be
    assert "passkey: exact match, 20 samples per score, 95 % intervals, trained at 256 tokens" in " ".join(
        shown.split()
    )


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
    assert "(1x)" in shown and "(2x)" in shown and "(1.2x)" in shown and "trained at 256 tokens" in shown
    assert "x)" not in text(summarise([record(seq_len=512)]), None)


def test_markdown_is_a_table() -> None:
    rows = summarise([record("vanilla", 256), record("dca:mscale=0.1", 512, score=0.0), failure("vanilla", 512)])
    title, empty, *lines = markdown(rows, 256).splitlines()
    assert (
        title == "**passkey: exact match, 1 sample per score, 95 % intervals, trained at 256 tokens**" and empty == ""
    )
    table = [line for line in lines if line.startswith("|")]
    assert {len(cells(line)) for line in table} == {5}
    assert all(re.fullmatch(r"-{3,}:?", cell) for cell in cells(table[1]))
    assert cells(table[0]) == ["method", "256 (1x)", "512 (2x)", "prefill tok/s at 512", "peak memory at 512"]
    assert cells(table[2])[:3] == ["`vanilla`", "1.00 [0.21, 1.00]", "failed"]
    assert cells(table[3]) == ["`dca:mscale=0.1`", "", "0.00 [0.00, 0.79]", "1,012", "300 MiB"]
    assert "- failed: `vanilla` at 512: out of memory" in lines


def against() -> list[TableRow]:
    """20 samples: `good` is right always, `fair` 19 times, `bad` never; at 512 nobody is worse for sure."""
    right = {"good": 20, "fair": 19, "bad": 0}
    records = [record(method, 256, k, float(k < count)) for method, count in right.items() for k in range(20)]
    return summarise(
        records + [record(method, 512, k, float(k < count // 6)) for method, count in right.items() for k in range(20)]
    )


def test_bold_is_what_nothing_beats_for_sure() -> None:
    lines = {cells(line)[0]: cells(line) for line in markdown(against(), 256).splitlines() if line.startswith("|")}
    assert lines["`good`"][1].startswith("**1.00** [") and lines["`fair`"][1].startswith("**0.95** [")
    assert lines["`bad`"][1].startswith("0.00 [")
    assert not any("**" in line[2] for line in lines.values())
    assert "bold: no score of that length is significantly better" in markdown(against(), 256)
    equal = summarise([record(method, sample=k) for method in ("one", "two") for k in range(20)])
    for rows in (equal, summarise([record()])):  # nothing is marked, so that there is nothing to explain
        assert not any("significantly better" in shown for shown in (markdown(rows, 256), latex(rows, 256), text(rows)))


def test_bold_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    print_tables(console, against(), 256)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.findall(r"\x1b\[1m(\d\.\d\d)\x1b\[0m", shown) == ["1.00", "0.95"]
    assert "bold: no score" in shown and "*" not in shown


def test_stars_where_nothing_can_be_bold() -> None:
    """A pipe, a file, the log of a CI."""
    shown = text(against())
    assert "bold" not in shown and "*: no score of that length is significantly better" in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert " *1.00 " in lines["good"] and " *0.95 " in lines["fair"] and "*" not in lines["bad"]
    assert lines["good"].index("1.00") == lines["bad"].index("0.00")  # digits stand below one another


def test_latex_is_a_table_that_tex_takes() -> None:
    rows = [*against(), *summarise([failure("x:y=[a_b]", 512, "100 % of $memory & more\x1b", task="needle_1")])]
    whole = latex(rows, 256)
    assert whole.startswith("% \\usepackage{booktabs}\n\\begin{table}\n") and "\x1b" not in whole
    assert whole.count("\\begin{") == whole.count("\\end{") == 4
    assert r"\texttt{good} & \textbf{1.00} {\scriptsize [0.84, 1.00]} & 0.15 {\scriptsize [0.05, 0.36]} &" in whole
    assert r"\caption{needle\_1: " in whole and r"\texttt{x:y=[a\_b]} & failed \\" in whole
    assert r"Failed: x:y=[a\_b] at 512: 100 \% of \$memory \& more" in whole
    for columns, block in re.findall(r"\\begin{tabular}{(l+r+)}(.*?)\\end{tabular}", whole, re.DOTALL):
        body = [line for line in block.splitlines() if line.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {len(columns)}
    assert not re.search(r"(?<!\\)[_$#~^]", whole) and re.findall(r"(?<!\\)%.*", whole) == ["% \\usepackage{booktabs}"]


def test_models_and_runs_are_told_apart() -> None:
    ours, theirs = [record("dca", model="a|b"), record("dca", 512, model="a|b")], [record("dca", model="c")]
    apart = markdown(
        summarise_runs([Run("one", RunIdentity(), typed(ours)), Run("two", RunIdentity(), typed(theirs))]), 256
    )
    assert "| method | model | 256 (1x) | 512 (2x) |" in apart and "| one |" not in apart
    assert r"| `dca` | a\|b | 1.00 [0.21, 1.00] | 1.00 [0.21, 1.00] |" in apart
    assert "| `dca` | c | 1.00 [0.21, 1.00] |  |" in apart
    assert r"| `x:y=a\|b` | 1.00" in markdown(summarise([record("x:y=a|b")]), 256)
    twice = summarise_runs([Run("one", RunIdentity(), typed(ours)), Run("two", RunIdentity(), typed(ours[:1]))])
    assert "| `dca` | one | 1.00" in markdown(twice, 256) and "| `dca` | two | 1.00" in markdown(twice, 256)
    shown = text(twice)
    assert "in one" in shown and "in two" in shown and "on a|b" not in shown
    parts = summarise_runs(
        [Run("one", RunIdentity(), typed(ours[:1])), Run("two", RunIdentity(), typed(ours[1:]))]
    )  # one method, length by length
    assert "| `dca` | 1.00 [0.21, 1.00] | 1.00 [0.21, 1.00] |" in markdown(parts, 256)


def test_likelihoods_have_three_tables() -> None:
    records = [likelihood(book=book, nll=2.0 + 0.1 * book) for book in range(4)]
    rows = summarise_runs([Run("", RunIdentity(tasks=[TaskFacts(name="pg19", protocol="prefix")]), typed(records))])
    titles = [line for line in markdown(rows, 256).splitlines() if line.startswith("**pg19")]
    after = "(lower is better), 4 books per score, 95 % intervals over books, protocol prefix, trained at 256 tokens**"
    assert titles == [f"**pg19: {what} {after}" for what in ("perplexity", "bits per byte", "bits per word")]
    shown = text(rows)
    assert f"{rows[0].mean:.2f}" in shown and f"{rows[0].bits_per_byte:.3f}" in shown
    assert shown.count("tok/s") == 1  # cost once


def test_an_unknown_interval_and_large_numbers() -> None:
    one = summarise([likelihood(nll=12.0)])
    assert "162,755 [unknown]" in markdown(one, 256) and "unknown" in text(one)
    assert "inf" in text(summarise([likelihood(nll=1000.0)]))


def test_why_an_interval_is_unknown() -> None:
    """Once, below the tables in a terminal and on a page; of LaTeX in the captions of the tables that it is about."""
    few = [likelihood(book=book, nll=2.0 + 0.1 * book) for book in range(3)]
    rows = summarise([record(), *few])
    why = "unknown: too few books to estimate an interval; use more --samples."
    assert text(rows).count(why) == markdown(rows, 256).count(why) == 1
    passkey, *likelihoods = re.findall(r"\\caption{(.*)}", latex(rows, 256))
    assert "nknown" not in passkey and len(likelihoods) == 3
    assert all(
        caption.count("Unknown: too few books to estimate an interval; use more -{}-samples.") == 1
        for caption in likelihoods
    )
    many = [likelihood(book=book, nll=2.0 + 0.1 * book) for book in range(20)]
    assert "unknown" not in text(summarise([record(), failure("dca", 512), *many]))
    graded = [record(sample=k, metric="points", scores={"points": 2 + k}) for k in range(2)]
    assert "unknown: too few samples to estimate" in text(summarise(graded))


def test_prefix_reuse_is_told() -> None:
    records = [record(sample=k, cost={**record()["cost"], "reused_tokens": 100 * k}) for k in range(3)]
    rows = summarise(records)
    assert "prefix reuse: 1.7x fewer prefill tokens in passkey." in markdown(rows, 256)
    assert "1.7x fewer prefill tokens" in text(rows) and "1.7x" in latex(rows, 256)
    assert "fewer" not in markdown(summarise(records[:1]), 256)


def test_json_reads_back() -> None:
    rows = summarise([record(), failure("dca", 512), likelihood(nll=1000.0)])
    read = json.loads(as_json(rows))
    assert [line["mean"] for line in read] == [1.0, None, None]  # infinity is not JSON
    assert read[0] == {**dataclasses.asdict(rows[0]), "skipped": []}  # JSON has no tuples


def test_csv_reads_back() -> None:
    rows = summarise(
        [
            record("vanilla", 256),
            *[failure("vanilla", 256, sample=n, skipped=True) for n in (1, 2)],
            record(LONG, 512, score=0.0),
            record(LONG, 512, 1),
            failure("dca", 512, 'why, "so"'),
        ]
    )
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(read) == 3
    for row, line in zip(rows, read):
        for name, value in dataclasses.asdict(row).items():
            if name != "skipped":
                assert line[name] == ("" if value is None else str(value))
    assert [line["skipped"] for line in read] == ["1 2", "", ""]
    assert float(read[1]["low"]) == rows[1].low  # not rounded


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MiB"), (300 * 2**20, "300 MiB"), (2**30 - 1, "1024 MiB"), (2**30, "1.0 GiB"), (140 * 2**30, "140.0 GiB")],
)
def test_human_bytes(count: int, words: str) -> None:
    assert human_bytes(count) == words


def test_whose_memory_it_is_is_told() -> None:
    """Of the length that the column is of."""

    def batches(method: str, *sizes: tuple[int, int]) -> list[Fields]:
        cost = record()["cost"]
        return [record(method, length, cost={**cost, "decoded_together": size}) for length, size in sizes]

    def told(*records: Fields) -> list[str]:
        return re.findall("^peak memory: .*", markdown(summarise(records), 256), re.MULTILINE)

    eight = batches("vanilla", (256, 16), (512, 8), (512, 4))
    assert told(*eight) == told(*eight, *batches("dca", (512, 8))) == ["peak memory: of 8 answers at once in passkey."]
    single = batches("fot:layers=8", (256, 16), (512, 1))
    said = "peak memory: of 8 answers at once in passkey (1 with fot:layers=8)."
    assert told(*single, *eight, *batches("dca", (512, 8))) == [said]
    assert told(*single, *batches("dca", (512, 1)), *eight)[0].startswith(
        "peak memory: of 1 answer at once in passkey (8 "
    )
    assert told(*eight, failure("dca", 512)) == told(*eight)  # which took no memory that is known
    assert told(*single) == told(record()) == []


def test_no_cell_of_a_csv_is_a_formula() -> None:
    """Names of models and tasks are whatever people call them."""
    (row,) = summarise([record(model="=HYPERLINK(0)")])
    read = list(csv.DictReader(io.StringIO(as_csv([row]))))
    assert read[0]["model"] == "'=HYPERLINK(0)"


def test_cells_equal_to_vanilla_and_busy_machines_are_marked() -> None:
    same = {"equals": "vanilla", "taken_from": "passkey/vanilla/256/uniform/0"}
    slow = {"cost": {"prefill_seconds": 1.0, "decode_seconds": 1.0, "cpu_seconds": 0.5, "peak_memory_bytes": 2**20}}
    fast = {"cost": slow["cost"] | {"prefill_seconds": 0.5, "cpu_seconds": 1.5}}
    records = [record("vanilla", 512, sample, prompt_tokens=100, **(slow, fast)[sample]) for sample in range(2)]
    records += [record("dca", length, **(same if length == 256 else {})) for length in (512, 256)]
    rows = summarise(records, device="cpu")
    shown = text(rows)
    (line,) = [line for line in shown.splitlines() if "= vanilla  " in line and "method" not in line]
    assert line.index("= vanilla") < shown.splitlines()[3].index("512")
    assert "133 ± 67" in shown and "1 MiB (busy)" in shown and "lcbench had 0.57 cores" in shown
    assert "= vanilla: at that length the method changes nothing; where both ran" in shown
    page = markdown(rows, 256)
    assert "[0.21, 1.00] = vanilla |" in page and "133 ± 67 | 1 MiB (busy)" in page
    assert "[0.21, 1.00] = vanilla}" in latex(rows, 256)
    first, *others = json.loads(as_json(rows, 256))
    assert (first["method"], first["seq_len"], first["equals"], first["taken"]) == ("dca", 256, "vanilla", 1)
    assert [(row["method"], row["equals"]) for row in others] == [("vanilla", ""), ("dca", "")]
    assert not summarise(records, device="cuda")[0].busy  # a GPU works while the CPU waits
