"""Readers of texts: a file, a folder, a prepared data set or a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, gist_of
from lcbench.core.files import files_below, read_whole, require_regular
from lcbench.data import Books, is_prepared_data
from lcbench.data.hub import hub_rows
from lcbench.data.raw import RawRow, parse_row, require_plausible
from lcbench.data.values import clean

SUFFIXES = (".txt", ".jsonl", ".parquet")


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
        text = _read(path)
        if not text.strip():
            raise UserError(f"{source} is empty.")
        return [text]
    return _Texts(read_rows(source), source)


def read_rows(source: str, split: str = "train") -> Sequence[RawRow]:
    """The rows of a JSONL or parquet file, or of a split of a `datasets` id.

    Raises: UserError for a source that is missing, has no rows, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".jsonl":
        rows: Sequence[RawRow] = list(_json_lines(path))
    elif path.exists() and path.suffix.lower() != ".parquet":
        raise UserError(f"{source} is no {', '.join(SUFFIXES)} file and no data set on the hub.")
    else:
        rows = _parquet(source, path) if path.suffix.lower() == ".parquet" else hub_rows(source, split)
    if not len(rows):
        raise UserError(f"{source} has no rows.")
    return rows


def _read(path: Path) -> str:
    try:
        return clean(read_whole(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 (byte {error.start} is none); save it as UTF-8, or give another file."
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def _json_lines(path: Path) -> Iterator[RawRow]:
    for number, line in enumerate(
        _read(path).split("\n"), start=1
    ):  # splitlines would also split at Unicode line separators within a text
        if not line.strip():
            continue
        yield parse_row(line, f"{path}, line {number},")


def _parquet(source: str, path: Path) -> Sequence[RawRow]:
    if not path.exists():
        raise UserError(f"there is no file {source}.")
    try:
        require_regular(path)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}.") from error
    from datasets import load_dataset
    from pyarrow import parquet  # type: ignore[import-untyped]

    try:
        require_plausible(parquet.read_metadata(path), path.stat().st_size)
        return load_dataset("parquet", data_files=str(path), split="train")  # type: ignore[no-any-return]
    except Exception as error:  # broken files raise all kinds of errors
        raise UserError(f"{source} is no parquet that can be read: {gist_of(error)}.") from error


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
