"""Texts and rows of a user's source: a file, a folder, a prepared data set or a data set on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError
from lcbench.core.files import files_below
from lcbench.data import Books, is_prepared_data, raw
from lcbench.data.hub import hub_rows
from lcbench.data.raw_file import RawFile
from lcbench.data.values import RawRow, clean

ROWS = (".jsonl", ".parquet")
SUFFIXES = (".txt", *ROWS)


def read_texts(source: str) -> Sequence[str]:
    """The texts of a .txt file (one), a folder of files, a JSONL or parquet file with a column `text`, of data prepared
    by `lcbench data` (its test split), or of the training split of a `datasets` id (`owner/name` or
    `owner/name:configuration`).

    Raises: UserError for a source that is missing, has no text, or cannot be read.
    """
    if is_prepared_data(source):
        return [text for _, text in Books(source, "test")]
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in files_below(path) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"the folder {source} holds no {', '.join(SUFFIXES)} files.")
        return [text for file in files for text in read_texts(str(file))]
    if path.suffix.lower() == ".txt":
        (row,) = raw.read_rows(RawFile(path, source))
        if not row["text"].strip():
            raise UserError(f"{source} is empty.")
        return [clean(row["text"])]
    return _Texts(read_rows(source), source)


def read_rows(source: str, split: str = "train") -> Sequence[RawRow]:
    """The rows of a JSONL or parquet file, or of a split of a `datasets` id.

    Raises: UserError for a source that is missing, has no rows, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in ROWS:
        found = raw.read_rows(RawFile(path, source))
        rows = found if isinstance(found, Sequence) else list(found)
    elif path.exists():
        raise UserError(f"{source} is neither a {', '.join(SUFFIXES)} file nor a data set on the hub.")
    else:
        rows = hub_rows(source, split)
    if not len(rows):
        raise UserError(f"{source} has no rows.")
    return rows


class _Texts(Sequence[str]):
    """The column `text` of rows, read on access: a data set may be larger than memory."""

    def __init__(self, rows: Sequence[RawRow], source: str) -> None:
        self._rows, self._source = rows, source

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        text = self._rows[index].get("text")
        if not isinstance(text, str):
            raise UserError(f"row {index + 1} of {self._source} has no column `text` with a text in it.")
        return clean(text)
