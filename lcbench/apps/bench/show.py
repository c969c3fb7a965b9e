"""Tables of a bench: drawn on a terminal, plain columns in a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.apps.bench.result import PARTS, Measurement, Result
from lcbench.apps.bench.timing import Spread
from lcbench.core import terminal
from lcbench.results.report.layout import human_bytes
from lcbench.results.report.terminal import METHOD_WIDTH

WIDE = 10_000  # columns of a pipe: nothing is folded there
TITLES = {
    "attention": "attention of one layer, rotation included",
    "block": "one decoder layer",
    "prefill": "prefill",
    "decode": "decode, a token",
    "memory": "peak memory of prefill above the loaded model",
    "score": "likelihood of a text, layer by layer",
}
UNMEASURED = "-"


def print_result(console: Console, result: Result) -> None:
    """What was measured on what, a table a part, and what was skipped."""
    plain = not console.is_terminal
    if plain:
        console = terminal.console(file=console.file, width=WIDE)
    for line in _heading(result):
        console.print(Text(line))
    for part in PARTS:
        rows = result.part(part)
        if rows:
            console.print(Text(f"\n{TITLES[part]}", style="italic"))
            table = _table(part, rows, plain)
            if not plain and not _fits(console, table):
                table = _table(part, rows, plain, quartiles=False)
            console.print(table)
    for skipped in result.skipped:
        console.print(Text(str(skipped), style="yellow"))


def _fits(console: Console, table: Table) -> bool:
    """Whether a table can be shown whole, long options folded."""
    method = table.columns[1]
    method.max_width = METHOD_WIDTH
    width = console.measure(table, options=console.options.update(max_width=WIDE)).maximum
    method.max_width = None
    return width <= console.width


def _heading(result: Result) -> list[str]:
    about = result.about
    layers = f"{about['layers']} of {about['own_layers']} layers" if about["layers"] != about["own_layers"] else (
        f"{about['layers']} layers"
    )  # fmt: skip
    rounds = "1 round" if about["rounds"] == 1 else f"{about['rounds']} rounds"
    threads = f", {about['threads']} thread{'' if about['threads'] == 1 else 's'}" if about["device"] == "cpu" else ""
    worst = max(result.checks, key=lambda check: check["error"] / check["tolerance"], default=None)
    held = ""
    if worst:
        held = f": at most {worst['error']:.1g} of a row ({worst['subject']} at {worst['length']:,}; allowed "
        held += f"{worst['tolerance']:.1g})"
    return [
        f"{about['model']}, {about['weights']} weights, {layers}, trained at {about['pretraining_length']:,} tokens, "
        f"{about['dtype']}, {about['hardware']}{threads}",
        f"{about['clock']}; median and quartiles of {rounds}, in turns",
        f"all held against the float64 reference first{held}",
        *([f"matmul of size {about['matmul_size']}: {_rate(result.matmul.median)}"] if result.matmul else []),
    ]


def _table(part: str, rows: list[Measurement], plain: bool, quartiles: bool = True) -> Table:
    """`quartiles` False: without them, for a narrow terminal."""
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, collapse_padding=not plain)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold")
    layers = part in ("attention", "block") and len({row.layer for row in rows}) > 1
    baselines = list(dict.fromkeys(name for row in rows for name in row.ratios))
    columns = ["layer"] if layers else []
    columns += ["peak", "KV cache", "beside it"] if part == "memory" else _time_columns(part, quartiles)
    for column in [*columns, *(f"x {name}" for name in baselines)]:
        table.add_column(column if plain else column.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        cells = _memory(row) if part == "memory" else _time(row, quartiles)
        ratios = [_ratio(row.ratios.get(name)) for name in baselines]
        name = Text(row.subject, style="dim" if row.baseline else "")
        layer = [str(row.layer)] if layers else []
        table.add_row(f"{row.length:,}", name, *layer, *cells, *ratios)
    return table


def _time_columns(part: str, with_quartiles: bool) -> list[str]:
    columns = ["ms", "quartiles", "tokens/s"] if with_quartiles else ["ms", "tokens/s"]
    return columns if part == "decode" else [*columns, "of matmul"]


def _time(row: Measurement, with_quartiles: bool) -> list[str]:
    assert row.seconds is not None and row.tokens_per_second is not None
    cells = [_milliseconds(row.seconds.median)]
    if with_quartiles:
        ends = (row.seconds.low, row.seconds.high)
        cells.append(UNMEASURED if None in ends else "-".join(_milliseconds(end) for end in ends if end is not None))
    cells.append(f"{row.tokens_per_second:,.0f}")
    if row.part != "decode":
        cells.append(f"{row.matmul_share.median:.1%}" if row.matmul_share else UNMEASURED)
    return cells


def _memory(row: Measurement) -> list[str]:
    assert row.peak_bytes is not None and row.kv_bytes is not None
    beside = max(0, row.peak_bytes - row.kv_bytes)
    return [human_bytes(row.peak_bytes), human_bytes(row.kv_bytes), human_bytes(beside)]


def _ratio(ratio: Spread | None) -> str:
    return UNMEASURED if ratio is None else f"{ratio.median:.2f}"


def _rate(operations: float) -> str:
    return f"{operations / 1e12:,.1f} TFLOP/s" if operations >= 1e12 else f"{operations / 1e9:,.1f} GFLOP/s"


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
