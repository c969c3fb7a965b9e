"""The tables of a reference model's card, in Markdown, out of the points that reference_models.py measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.exam import mean_interval

SLIDING = "streaming:sinks=0"  # a window of the training length: what any extension has to beat
NAMES = {"codes": ("code", "codes"), "words": ("needle of words", "needles of words")}
TITLES = {
    "passkey": "Passkey",
    "codes": "One of so many codes, among book text",
    "words": "A needle made of words, among book text",
    "perplexity": "Perplexity on held-out books, whole / last half of a trained length",
}
Line = dict[str, Any]


def tables(lines: list[Line]) -> list[str]:
    """The tables of a model card: inside the training length, then by what is asked, methods or models in rows."""
    lines = list({_key(line): line for line in lines}.values())  # of a point measured twice, the last
    inside = [
        line
        for line in lines
        if line["method"] == "vanilla" and line["length"] == line["trained"] and line["what"] != "perplexity"
    ]
    parts = _table("Inside the training length, vanilla", inside, _asked, lambda line: str(line["model"]))
    for what, title in TITLES.items():
        members = [line for line in lines if line["what"] == what and (what == "passkey" or line not in inside)]
        parts += _table(title, members, lambda line: _row(line, lines), _heading)
    against = list(_against_sliding(lines))
    title = "Perplexity against that of a sliding window, on the same books"
    return parts + _table(title, against, lambda line: _row(line, lines), _heading)


def _table(title: str, lines: list[Line], row: Callable[[Line], str], column: Callable[[Line], str]) -> list[str]:
    """A Markdown table, columns by length; samples in the title, or in every cell if they differ. None of nothing."""
    if not lines:
        return []
    columns = list(dict.fromkeys(column(line) for line in sorted(lines, key=lambda line: int(line["length"]))))
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        rows.setdefault(row(line), {})[column(line)] = line
    counts = {line["samples"] for line in lines}
    what = "books" if lines[0]["what"] == "perplexity" else "samples"
    same = f", {min(counts)} {what} a number" if len(counts) == 1 else ""
    result = [f"**{title}{same}, 95 % intervals**", "", "| | " + " | ".join(columns) + " |"]
    result.append("| --- |" + " ---: |" * len(columns))
    for name, cells in rows.items():
        count = {key: "" if same else f" ({cell['samples']} {what})" for key, cell in cells.items()}
        texts = [_cell(cells[key]) + count[key] if key in cells else "" for key in columns]
        result.append(f"| {name} | " + " | ".join(texts) + " |")
    return [*result, ""]


def _against_sliding(lines: list[Line]) -> Iterable[Line]:
    """How much less perplexity than with a sliding window, a share, for every point past the training length."""
    books = {_key(line): line for line in lines if line["what"] == "perplexity"}
    for line in books.values():
        sliding = books.get(_key({**line, "method": SLIDING}))
        if sliding and line["method"] != SLIDING and line["length"] > line["trained"]:
            pairs = zip(line["nats"], sliding["nats"])
            change = [math.expm1(value) for value in mean_interval([own - other for own, other in pairs])]
            yield {**line, "change": change}


def _key(line: Line) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("model", "what", "method", "length", "facts", "local"))


def _row(line: Line, lines: list[Line]) -> str:
    """The method, the model, or both: what tells this line from others."""
    methods, models = ({other[name] for other in lines} for name in ("method", "model"))
    if len(models) == 1:
        return f"`{line['method']}`"
    if len(models) >= len(methods):
        return str(line["model"])
    return f"{line['model']}, `{line['method']}`"


def _asked(line: Line) -> str:
    if line["what"] not in NAMES:
        return str(line["what"])
    one, several = NAMES[line["what"]]
    return f"one of {line['facts']} {several}" if line["facts"] > 1 else one


def _heading(line: Line) -> str:
    among = f", one of {line['facts']}" if line["facts"] > 1 else ""
    return f"{line['length']:,} ({line['length'] // line['trained']}x){among}"


def _cell(line: Line) -> str:
    """The number with its interval."""
    if "change" in line:
        mean, low, high = (100 * value for value in line["change"])
        return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}]"
    if "nats" not in line:
        share = line["successes"] / line["samples"]
        return f"{share:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
    both = [[math.exp(value) for value in mean_interval(line[name])] for name in ("nats", "nats_last")]
    return " / ".join(f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in both)


def described(line: Line) -> str:
    """A point in a line."""
    return f"{line['model']}  {line['method']}  {_asked(line)}  {line['length']:,}  {_cell(line)}  of {line['samples']}"
