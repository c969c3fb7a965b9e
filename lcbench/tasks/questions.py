"""Rows that ask something, perhaps about a document: data prepared by `lcbench data`, or files of the user's own."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, unknown
from lcbench.data import Row, load_document, load_rows
from lcbench.data.hub import hub_rows
from lcbench.data.raw import expand, read_rows, require_whole_characters
from lcbench.data.scripts import script_files

COLUMNS = ("document", "question", "references", "choices", "id")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class Questions(ABC):
    """The rows of one split, each with its document at hand."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, number: int) -> Row:
        """Raises: UserError for a row that lacks what it must have."""

    @abstractmethod
    def document(self, row: Row) -> str:
        """The text that a row is about; empty where it is about none."""


def questions(data: str, split: str, columns: Mapping[str, str]) -> Questions:
    """The questions of a prepared data set such as `scrolls/qasper`, of a file, or of a `datasets` id
    (`owner/name`, or `owner/name:configuration`). `columns` says which of the source's columns is the `document`,
    the `question`, the `references` (one text or several), the `choices` and the `id`, where they have other names.

    Raises: UserError for data that are not there or cannot be read.
    """
    for name in columns:
        if name not in COLUMNS:
            raise unknown("entry of `columns`:", name, COLUMNS)
    path, known = Path(data).expanduser(), data.partition("/")[0] in script_files()
    # A folder of that name, such as a copy of the source, does not hide a prepared data set.
    if path.suffix.lower() in SUFFIXES or (path.is_file() if known else path.exists()):
        return _own(data, split, tuple(sorted(columns.items())), _stamp(path))
    if not known:
        return _own(data, split, tuple(sorted(columns.items())), None)
    if columns:
        raise UserError(f"{data} is data of `lcbench data prepare`, whose columns have names already.")
    return _Prepared(data, split)


@lru_cache(maxsize=16)
def _own(data: str, split: str, columns: tuple[tuple[str, str], ...], stamp: Hashable) -> Questions:
    """`stamp` tells one state of a file from another, None stands for a data set on the hub."""
    return _Own(data, hub_rows(data, split) if stamp is None else _file_rows(data), dict(columns))


def _stamp(path: Path) -> Hashable:
    """Raises: UserError for a file that is not there, or of another kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no {', '.join(SUFFIXES)} file.")
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    return path.resolve(), path.stat().st_mtime_ns, path.stat().st_size


class _Prepared(Questions):
    def __init__(self, name: str, split: str) -> None:
        self._name, self._rows = name, load_rows(name, split)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Row:
        return self._rows[number]

    def document(self, row: Row) -> str:
        return "" if row.document_id is None else load_document(self._name, row.document_id).text


class _Own(Questions):
    def __init__(self, source: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
        self._source, self._rows, self._columns = source, rows, columns
        self._documents: dict[str, int] = {}  # the row that a document is read from

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Row:
        fields = self._rows[number]
        given = {name: self._value(fields, number, name) for name in COLUMNS}
        document = given["document"] or ""
        document_id = hashlib.sha256(str(document).encode()).hexdigest()[:16] if document else None
        if document_id:
            self._documents.setdefault(document_id, number)
        return Row(
            id=str(number if given["id"] is None else given["id"]),
            document_id=document_id,
            question=str(given["question"] or ""),
            references=_texts(given["references"]),
            choices=_texts(given["choices"]),
            meta=dict(fields),
        )

    def document(self, row: Row) -> str:
        if row.document_id is None:
            return ""
        return str(self._value(self._rows[self._documents[row.document_id]], 0, "document"))

    def _value(self, fields: Mapping[str, Any], number: int, name: str) -> Any:
        """What a row has under a name; what was not named explicitly may be missing."""
        column = self._columns.get(name, name)
        if name in self._columns and column not in fields:
            raise unknown(f"column in row {number + 1} of {self._source}:", column, fields)
        return fields.get(column)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def _file_rows(data: str) -> Sequence[Mapping[str, Any]]:
    path = Path(data).expanduser()
    rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else read_rows(expand(path, path.name)[0]))
    if not rows:
        raise UserError(f"{data} has no rows.")
    return rows


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """A cell that holds a JSON list is that list: CSV has no other way to say several references."""
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                listed = {name: _listed(value) for name, value in row.items() if name is not None}
                require_whole_characters(listed, f"{path}, row {number},")
                yield listed
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV in UTF-8: {error}.") from error


def _listed(value: str | None) -> Any:
    if value is None or not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
