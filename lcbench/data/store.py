"""The folder of prepared data and its readers: files are memory-mapped, and lines are parsed on access."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from lcbench.core.checks import FieldError
from lcbench.core.errors import UserError
from lcbench.core.files import read_whole, require_regular
from lcbench.core.json_objects import parse
from lcbench.data.schema import DOCUMENTS, FORMAT, MANIFEST, SPLITS, Document, Manifest, Row, read_content

Item = TypeVar("Item")
ANEW = "remove the folder, and prepare the data again"
DOCUMENT_ID = re.compile(rb'\{"document_id": ("(?:[^"\\]|\\.)*"), ')


def data_root() -> Path:
    """The folder of prepared data: $LCBENCH_DATA, else lcbench/data in the user's cache folder."""
    if os.environ.get("LCBENCH_DATA"):
        return Path(os.environ["LCBENCH_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lcbench" / "data"


def load_rows(name: str, split: str) -> Sequence[Row]:
    """The rows of a split of a prepared data set such as `scrolls/qasper`, parsed on access.

    Raises: UserError if it is not prepared, or has no such split.
    """
    splits = prepared(name).rows
    if split not in splits:
        raise UserError(
            f"the data `{name}` were prepared without the split {split} (there is {', '.join(splits)}); "
            f"run `lcbench data prepare {name}` with files that have it."
        )
    return _rows(data_root() / name / f"{split}.jsonl")


def load_document(name: str, document_id: str) -> Document:
    """A document of a prepared data set. Raises: UserError if it is not prepared, or has no such document."""
    prepared(name)
    return _documents(data_root() / name / DOCUMENTS)[document_id]


def is_prepared_data(source: str) -> bool:
    """Whether a source of texts is the name of prepared data, and not a file or a data set on the hub."""
    from lcbench.data.scripts import script_files

    return not Path(source).expanduser().exists() and source.partition("/")[0] in script_files()


class Books(Sequence[tuple[str, str]]):
    """Titles and texts of the distinct documents of a split's rows, read on access."""

    def __init__(self, name: str, split: str) -> None:
        ids = (row.document_id for row in load_rows(name, split))
        self._name, self._ids = name, list(dict.fromkeys(id for id in ids if id is not None))
        if not self._ids:
            raise UserError(f"the rows of {name} have no documents.")

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        document = load_document(self._name, self._ids[index])
        return document.title, document.text


def prepared(name: str) -> Manifest:
    """The manifest of a prepared data set. Raises: UserError if it is not prepared, or has another format."""
    manifest = read_manifest(data_root() / name)
    advice = f"run `lcbench data prepare {name}`"
    if manifest is None:
        raise UserError(f"there is no data `{name}`; {advice}.")
    if manifest.format != FORMAT:
        raise UserError(f"the data `{name}` were prepared by another version of lcbench; {advice}.")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a prepared folder; None if it does not exist. Raises: UserError, naming the wrong field, if it is
    broken."""
    path = folder / MANIFEST
    try:
        return read_content(parse(read_whole(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {ANEW}.") from error
    except FieldError as error:
        what = f": {error}" if error.name else f" is not a manifest of prepared data: it {error}"
        raise UserError(f"{path}{what}; {ANEW}.") from error


class JsonLines(Sequence[Item], Generic[Item]):
    """The lines of a JSONL file, parsed on access. Raises: UserError for a file or line that cannot be read."""

    def __init__(self, path: Path, parse: Callable[[bytes], Item]) -> None:
        self._path, self._parse = path, parse
        try:
            require_regular(path)
            with path.open("rb") as file:
                empty = not os.fstat(file.fileno()).st_size
                self.bytes: mmap.mmap | bytes = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; prepare the data again.") from error
        self.starts = list(_line_starts(self.bytes))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        try:
            return self._parse(self.bytes[self.starts[number] : self.starts[number + 1]])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.broken(number) from error

    def broken(self, number: int) -> UserError:
        return UserError(f"{self._path}, line {number + 1}, is not as lcbench wrote it; prepare the data again.")


class Documents(Mapping[str, Document]):
    """The documents of a data set by their ids."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, JsonLines(path, Document.parse)
        self._numbers: dict[str, int] = {}
        for number, start in enumerate(self._lines.starts[:-1]):
            found = DOCUMENT_ID.match(self._lines.bytes, start)
            if not found:
                raise self._lines.broken(number)
            self._numbers[json.loads(found[1])] = number

    def __getitem__(self, document_id: str) -> Document:
        if document_id not in self._numbers:
            raise UserError(f"{self._path} has no document {document_id!r}; prepare the data again.")
        document: Document = self._lines[self._numbers[document_id]]
        return document

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def prepared_files(folder: Path) -> list[Path]:
    """The data files of a prepared folder."""
    return [path for name in (DOCUMENTS, *(f"{split}.jsonl" for split in SPLITS)) if (path := folder / name).exists()]


def _rows(path: Path) -> Sequence[Row]:
    return _rows_as_of(path, _stamp(path))


def _documents(path: Path) -> Documents:
    return _documents_as_of(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and modification time, part of a cache key: a long-lived process must not read a replaced file."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; prepare the data again.") from error
    return status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=16)
def _rows_as_of(path: Path, stamp: tuple[int, int]) -> Sequence[Row]:
    return JsonLines(path, Row.parse)


@lru_cache(maxsize=4)
def _documents_as_of(path: Path, stamp: tuple[int, int]) -> Documents:
    return Documents(path)


def _line_starts(text: mmap.mmap | bytes) -> Iterator[int]:
    """The byte offset of each line, and of the end of the last one."""
    start = 0
    while start < len(text):
        yield start
        start = text.find(b"\n", start) + 1 or len(text)
    yield len(text)
