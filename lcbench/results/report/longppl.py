"""LongPPL beside perplexity, if the runs have the books of `pg19` both in one window and in overlapping ones, with the
same model and method, which then chooses the key tokens itself. See lcbench.results.longppl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError
from lcbench.results.report.runs import Run, suffixes
from lcbench.results.report.summary import TableRow
from lcbench.results.schema import Record

if TYPE_CHECKING:
    from lcbench.results.longppl import LongPpl

CONTEXT = 4096  # tokens: of several short contexts the one nearest to the paper's is taken

Place = tuple[object, ...]  # of a row
Read = dict[str, tuple[Path, Record]]  # a text's record and the folder of its run, by document


def longppl_of(runs: Sequence[Run]) -> tuple[dict[Place, LongPpl], list[str]]:
    """LongPPL by the `place` of a row, and remarks on likelihoods that cannot be read."""
    long: dict[Place, tuple[Place, Read]] = {}
    short: dict[Place, dict[Place, Read]] = {}
    for run in runs:
        for record in run.records:
            protocol, document, one = record.prompt.protocol, record.prompt.document, record.identity
            if not protocol or not document or run.folder is None or record.result is None or record.result.nll is None:
                continue
            whose: Place = (*run.identity.weights_of, one.method)
            if protocol == "prefix":
                place: Place = (one.task, one.method, one.seq_len, one.model, run.name)
                long.setdefault(place, (whose, {}))[1][document] = run.folder, record
            elif protocol.startswith("sliding"):
                short.setdefault(whose, {}).setdefault((one.task, one.seq_len), {})[document] = run.folder, record
    found: dict[Place, LongPpl] = {}
    remarks: dict[str, None] = {}
    for row, (whose, read) in long.items() if short else ():
        try:
            nearest = _nearest(read, short.get(whose, {}).values())
        except UserError as error:
            remarks[f"longppl is left out: {error}"] = None
        else:
            found |= {row: nearest} if nearest else {}
    return found, list(remarks)


def _nearest(long: Read, shorts: Iterable[Read]) -> LongPpl | None:
    """LongPPL from the short context nearest to CONTEXT that has all texts and yields a key token; None without one."""
    from lcbench.results.longppl import self_judged  # with numpy

    whole = [short for short in shorts if long.keys() <= short.keys()]
    rows = [self_judged([(read, short[document]) for document, read in long.items()]) for short in whole]
    known = [row for row in rows if row is not None and row.longppl is not None]
    return min(known, key=lambda row: abs(row.context - CONTEXT), default=None)


def with_longppl(rows: Iterable[TableRow], found: Mapping[Place, LongPpl]) -> list[TableRow]:
    """The rows, with LongPPL if known."""
    return [_with(row, found[row.place]) if row.place in found else row for row in rows]


def side_by_side(found: Mapping[Place, LongPpl], runs: Sequence[Run], name: str) -> dict[Place, LongPpl]:
    """LongPPL keyed by the rows of the runs merged by `side_by_side` under `name`."""
    if len(runs) == 1:
        return dict(found)
    suffix = {run.name: each for run, each in zip(runs, suffixes(runs), strict=True)}
    return {
        (task, f"{method}{suffix[str(run)]}", length, model, name): one
        for (task, method, length, model, run), one in found.items()
    }


def _with(row: TableRow, one: LongPpl) -> TableRow:
    return replace(
        row,
        longppl=one.longppl,
        longppl_low=one.low,
        longppl_high=one.high,
        key_tokens=one.key_tokens,
        short_context=one.context,
    )
