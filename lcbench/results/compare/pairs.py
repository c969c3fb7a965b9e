"""Method A of one run against method B of another or of the same: both get one name, so that their samples pair up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lcbench.core.errors import UserError
from lcbench.results.schema import Record


def paired(base: Sequence[Record], new: Sequence[Record], pairs: Iterable[str]) -> tuple[list[Record], list[Record]]:
    """The records of both sides that belong to pairs `A=B`, renamed to `A -> B`; all of them state which method they
    equal, if only their own.

    Raises: UserError for a pair whose methods the runs do not have.
    """
    before: list[Record] = []
    after: list[Record] = []
    for pair in dict.fromkeys(pairs):
        one, other = _split(pair, base, new)
        before += _named(base, one, f"{one} -> {other}")
        after += _named(new, other, f"{one} -> {other}")
    return before, after


def _split(pair: str, base: Sequence[Record], new: Sequence[Record]) -> tuple[str, str]:
    """The two methods. Options contain equals signs, too, so the runs' methods decide which one separates."""
    known = [list(dict.fromkeys(record.identity.method for record in side)) for side in (base, new)]
    for place in (place for place, char in enumerate(pair) if char == "="):
        one, other = pair[:place].strip(), pair[place + 1 :].strip()
        if one in known[0] and other in known[1]:
            return one, other
    raise UserError(
        f"--pair {pair} must be METHOD_OF_BASE=METHOD_OF_NEW, named as in the runs: BASE has {', '.join(known[0])}; "
        f"NEW has {', '.join(known[1])}."
    )


def _named(records: Iterable[Record], method: str, name: str) -> list[Record]:
    found = []
    for record in records:
        one = record.identity
        if one.method == method:
            id = f"{one.task}/{name}/{one.id.removeprefix(f'{one.task}/{method}/')}"
            named = replace(one, method=name, id=id)
            found.append(replace(record, identity=named, equals=record.equals or method))
    return found
