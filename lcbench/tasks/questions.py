"""Rows with a question, and optionally a document: data prepared by `lcbench data`, or the user's own files."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lcbench.core.errors import RowError, UserError, unknown
from lcbench.data import Row, load_document, load_rows
from lcbench.data.hub import hub_rows
from lcbench.data.raw import read_rows, require_whole_characters
from lcbench.data.raw_file import RawFile
from lcbench.data.scripts import script_files
from lcbench.data.values import RawRow, document_of, is_blank, spelled_out, text_of, texts_of

KEY = "key"  # a column that tells questions apart where one stands in several rows
HELMET_SEED, HELMET_QUESTIONS = 42, 100
COLUMNS = ("document", "question", "references", "choices", "id")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class Questions(ABC):
    """The rows of one split, and the documents that they refer to."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, number: int) -> Row:
        """Row `number`, from 0. Raises: RowError for a row with a missing column or a value that is not text."""

    def number(self, number: int) -> int:
        """The number of this row in its split, where these are a selection of its rows."""
        return number

    @abstractmethod
    def document(self, row: Row) -> str:
        """The document of a row; empty if it has none."""


def questions(data: str, split: str, columns: Mapping[str, str], only: Mapping[str, str] | None = None) -> Questions:
    """The questions of a prepared data set such as `scrolls/qasper`, of a file, or of a `datasets` id
    (`owner/name`, or `owner/name:configuration`). `columns` maps `document`, `question`, `references` (one text or
    several), `choices` and `id` to the names of the source's columns, where they differ. `only` maps columns to the
    value that a row must have there.

    Raises: UserError for data that are missing or cannot be read, or have no such row.
    """
    rows = _all(data, split, columns)
    return _selected(rows, f"{data} ({split})", tuple(only.items())) if only else rows


def _all(data: str, split: str, columns: Mapping[str, str]) -> Questions:
    for name in columns:
        if name not in COLUMNS:
            raise unknown("entry of `columns`:", name, COLUMNS)
    path, known = Path(data).expanduser(), data.partition("/")[0] in script_files()
    # A folder of that name, such as a copy of the source, does not shadow a prepared data set.
    if path.suffix.lower() in SUFFIXES or (path.is_file() if known else path.exists()):
        return _own(data, "", tuple(sorted(columns.items())), _stamp(path))  # a file has one split, whatever its name
    if not known:
        return _own(data, split, tuple(sorted(columns.items())), None)
    if columns:
        raise UserError(f"{data} is data of `lcbench data prepare`, whose columns have names already.")
    return _prepared(data, load_rows(data, split))


@lru_cache(maxsize=16)
def _prepared(name: str, rows: Sequence[Row]) -> Questions:
    """The same object for the same rows, which are others once the data were prepared again."""
    return _Prepared(name, rows)


@lru_cache(maxsize=16)
def _own(data: str, split: str, columns: tuple[tuple[str, str], ...], stamp: Hashable) -> Questions:
    """`stamp` is part of the cache key: it changes with the file, and is None for a data set on the hub."""
    return _Own(data, hub_rows(data, split) if stamp is None else _file_rows(data), dict(columns))


def _stamp(path: Path) -> Hashable:
    """Path, modification time and size. Raises: UserError for a missing file, or one in another format."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no {', '.join(SUFFIXES)} file.")
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    return path.resolve(), path.stat().st_mtime_ns, path.stat().st_size


@lru_cache(maxsize=8)
def _selected(rows: Questions, source: str, only: tuple[tuple[str, str], ...]) -> Questions:
    numbers = []
    for number in range(len(rows)):
        meta, where = rows.row(number).meta, f"row {number + 1} of {source}"
        if missing := [column for column, _ in only if column not in meta]:
            raise unknown(f"column of {source} in `only`:", missing[0], meta)
        if all(value in _spellings(meta[column], f"`{column}` in {where}") for column, value in only):
            numbers.append(number)
    if not numbers:
        wanted = ", ".join(f"{column}: {value}" for column, value in only)
        raise UserError(f"{source} has no row with {wanted}; name other values in `only`.")
    return Selected(rows, numbers)


@lru_cache(maxsize=8)
def drawn(rows: Questions, source: str, way: str) -> Questions:
    """Rows as HELMET takes them by its seed (princeton-nlp/HELMET@4526dfbd data.py): all of them in the order of its
    shuffle (`rows`), or in their own order all rows of the questions that it draws (`questions`).

    Raises: UserError for data without the column that tells questions apart.
    """
    if way == "rows":
        return Selected(rows, shuffled(len(rows)))
    keys: list[Any] = [rows.row(number).meta.get(KEY) for number in range(len(rows))]
    if None in keys:
        raise UserError(f"{source} has no column `{KEY}`; remove its folder, and prepare it again.")
    known = sorted(set(keys))
    chosen = set(random.Random(HELMET_SEED).sample(known, min(HELMET_QUESTIONS, len(known))))
    return Selected(rows, [number for number, key in enumerate(keys) if key in chosen])


def shuffled(count: int) -> list[int]:
    """The order of `count` rows after `shuffle` of `datasets` with HELMET's seed."""
    import numpy as np

    order: list[int] = np.random.default_rng(HELMET_SEED).permutation(count).tolist()
    return order


def _spellings(value: Any, where: str) -> tuple[str, ...]:
    """What may be typed for a value: its text, in which 2.0 is 2 and what is missing is empty, or as Python prints it.

    Raises: UserError, beginning with `where`, for a list or mapping."""
    return (str(value).lower(), str(value)) if isinstance(value, bool) else (text_of(value, where), str(value))


class Selected(Questions):
    """Some rows of others, by their numbers."""

    def __init__(self, rows: Questions, numbers: Sequence[int]) -> None:
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def row(self, number: int) -> Row:
        return self._rows.row(self._numbers[number])

    def number(self, number: int) -> int:
        return self._rows.number(self._numbers[number])

    def document(self, row: Row) -> str:
        return self._rows.document(row)


class _Prepared(Questions):
    def __init__(self, name: str, rows: Sequence[Row]) -> None:
        self._name, self._rows = name, rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Row:
        return self._rows[number]

    def document(self, row: Row) -> str:
        return "" if row.document_id is None else load_document(self._name, row.document_id).text


class _Own(Questions):
    def __init__(self, source: str, rows: Sequence[RawRow], columns: Mapping[str, str]) -> None:
        self._source, self._rows, self._columns = source, rows, columns
        self._documents: dict[str, int] = {}  # document id to the number of the row that contains it

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Row:
        try:
            return self._read(number)
        except UserError as error:
            raise RowError(str(error)) from error

    def _read(self, number: int) -> Row:
        fields = self._rows[number]
        document = document_of(*self._value(number, "document"))
        document_id = hashlib.sha256(document.encode()).hexdigest()[:16] if not is_blank(document) else None
        if document_id:
            self._documents.setdefault(document_id, number)
        return Row(
            id=text_of(*self._value(number, "id")) or str(number),
            document_id=document_id,
            question=text_of(*self._value(number, "question")),
            references=texts_of(*self._several(number, "references")),
            choices=texts_of(*self._several(number, "choices")),
            meta=dict(fields),
        )

    def document(self, row: Row) -> str:
        if row.document_id is None:
            return ""
        return document_of(*self._value(self._documents[row.document_id], "document"))

    def _value(self, number: int, name: str) -> tuple[Any, str]:
        """The value of a column, and its place for errors. Raises: UserError for a missing column that `columns`
        names."""
        fields, column = self._rows[number], self._columns.get(name, name)
        if name in self._columns and column not in fields:
            raise unknown(f"column in row {number + 1} of {self._source}:", column, fields)
        return fields.get(column), f"`{column}` in row {number + 1} of {self._source}"

    def _several(self, number: int, name: str) -> tuple[Any, str]:
        """As `_value`, with a cell of a CSV that spells out a list or mapping parsed."""
        value, where = self._value(number, name)
        from_csv = isinstance(value, str) and self._source.lower().endswith(".csv")
        return (spelled_out(value, where, "[{") if from_csv else value), where


def _file_rows(data: str) -> Sequence[RawRow]:
    path = Path(data).expanduser()
    rows = list(read_rows(RawFile(path, data)))
    if path.suffix.lower() == ".csv":
        rows = [_listed(row, f"{data}, row {number},") for number, row in enumerate(rows, start=1)]
    if not rows:
        raise UserError(f"{data} has no rows.")
    return rows


def _listed(row: RawRow, where: str) -> RawRow:
    """A row of a CSV with cells that spell out a list parsed: CSV has no other way to store several references.

    Raises: UserError, beginning with `where`."""
    listed = {name: cell and spelled_out(cell, f"{where} `{name}`") for name, cell in row.items()}
    require_whole_characters(listed, where)
    return listed
