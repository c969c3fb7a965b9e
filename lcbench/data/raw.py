"""The one reader of rows: JSONL, JSON, CSV, parquet and text, plain, gzipped, or inside a zip or tar archive.

Data that `lcbench data` prepares, a user's own questions, texts to train on and texts for perplexity are all read here,
so that the same file has the same rows, and the same faults, for each of them.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lcbench.core.errors import UserError, gist_of, shortened
from lcbench.core.files import LARGEST, LONGEST_LINE, bounded_lines
from lcbench.data.parquet import ParquetRows
from lcbench.data.raw_file import RawFile
from lcbench.data.values import RawRow, require_distinct

TARS = (".tar", ".tar.gz", ".tgz")


def expand(path: Path, name: str) -> list[RawFile]:
    """The readable files at a path: the file itself, or the members of an archive, if their format is known.

    Raises: UserError for a broken archive.
    """
    if name.lower().endswith(TARS):
        try:
            with tarfile.open(path) as tar:
                names = sorted(member.name for member in tar if member.isfile())
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise UserError(f"{name} is not a readable tar archive: {gist_of(error)}.") from error
        members = [RawFile(path, f"{name}/{member.removeprefix('./')}", member, tar=True) for member in names]
        return [member for member in members if member.suffix in READERS]
    if not name.lower().endswith(".zip"):
        file = RawFile(path, name)
        return [file] if file.suffix in READERS else []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [RawFile(path, f"{name}/{member}", member) for member in sorted(archive.namelist())]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} is not a readable zip archive: {error}.") from error
    return [member for member in members if member.suffix in READERS]


def read_rows(file: RawFile) -> Iterable[RawRow]:
    """The rows of a file; of parquet a sequence that is read on access, else an iterator.

    Raises: UserError for content that does not match the suffix, while the rows are read.
    """
    return READERS[file.suffix](file)


def _json_lines(file: RawFile) -> Iterator[RawRow]:
    with file.open() as lines:
        for number, line in enumerate(bounded_lines(lines), start=1):
            if line.strip():
                yield parse_row(line, f"{file.name}, line {number},")


def _json(file: RawFile) -> Iterator[RawRow]:
    with file.open() as content:
        rows = _parse(_whole(content, file.name), file.name)
    if not isinstance(rows, list):
        raise UserError(f"{file.name} is not a list of rows.")
    for number, row in enumerate(rows, start=1):
        yield _object(row, f"{file.name}, row {number},")


def _csv(file: RawFile) -> Iterator[RawRow]:
    """Raises: UserError also for what a lenient reader would lose without a word: cells beyond the header, as where a
    comma of a text is not within quotes, rows that break off, and lines behind a quote that is never closed."""
    csv.field_size_limit(LONGEST_LINE)
    with file.open() as content:
        try:
            lines = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
            table = csv.DictReader(bounded_lines(lines), strict=True)
            require_distinct(table.fieldnames or [], file.name)
            for number, row in enumerate(table, start=1):
                if beyond := row.pop(None, None):
                    raise UserError(
                        f"{file.name}, row {number}, has {len(beyond)} more than the {len(row)} cells of the header; "
                        "put texts with commas within quotes."
                    )
                if lacking := sum(cell is None for cell in row.values()):
                    raise UserError(
                        f"{file.name}, row {number}, has {len(row) - lacking} of the {len(row)} cells of the header; "
                        "write empty cells as well, between commas."
                    )
                yield _object(row, f"{file.name}, row {number},")
        except csv.Error as error:
            place = f"{file.name} as CSV, up to line {table.reader.line_num}"
            raise UserError(f"cannot read {place}: {error}; double the quotes within texts.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"cannot read {file.name} as CSV in UTF-8: {error}.") from error


def _text(file: RawFile) -> Iterator[RawRow]:
    """The whole text as one row, with the name of the file. Every line break becomes a line feed, as the sources' own
    scripts read them."""
    with file.open() as content:
        try:
            text = _whole(content, file.name).decode("utf-8")
            yield {"name": file.name, "text": text.replace("\r\n", "\n").replace("\r", "\n")}
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file.name} is not UTF-8 text (at byte {error.start}); save it as UTF-8, or give another file."
            ) from error


def _whole(content: IO[bytes], name: str) -> bytes:
    """Raises: UserError for more than LARGEST bytes."""
    found = content.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise UserError(f"{name} has more than {LARGEST >> 30} GB; split it, or write it as JSONL, a row a line.")
    return found


def _labelled_lines(file: RawFile) -> Iterator[RawRow]:
    """Lines of a label, a space and a text, as published for TREC: `NUM:dist How far is it ...`.

    Latin-1, with a byte 0xF0 in place of a space, which the hub's copy has corrected.
    """
    with file.open() as lines:
        for number, line in enumerate(bounded_lines(lines), start=1):
            label, _, text = line.replace(b"\xf0", b" ").decode("latin-1").strip().partition(" ")
            if ":" not in label or not text:
                raise UserError(f"{file.name}, line {number}, is no `COARSE:fine question`.")
            yield {"text": text, "coarse_label": label.partition(":")[0], "fine_label": label}


def parse_row(line: str | bytes, where: str) -> RawRow:
    """A row from a line of JSONL. Raises: UserError for a line that is not a JSON object, or has a lone surrogate or a
    key twice."""
    return _object(_parse(line, where), where)


def _parse(text: str | bytes, where: str) -> Any:
    """JSON; an object with a key twice, of which Python would keep the last value without a word, is a `_Twice`."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise UserError(f"{where} is not JSON in UTF-8: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply.") from error


def _object(row: Any, where: str) -> RawRow:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object.")
    require_whole_characters(row, where)
    if (key := _twice(row)) is not None:
        raise UserError(f"{where} has the key {shortened(key)!r} twice; keep one of them.")
    return row


class _Twice(dict[str, Any]):
    """An object that JSON spells with a key twice; which row it is part of is known later."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        ((self.key, _),) = Counter(key for key, _ in pairs).most_common(1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(pairs)


def _twice(value: Any) -> str | None:
    """A key that some object within a value has twice."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, _Twice):
            return one.key
        left += [entry for entry in (one.values() if isinstance(one, dict) else one) if isinstance(entry, dict | list)]
    return None


def require_whole_characters(value: Any, where: str) -> None:
    """Raises: UserError for a lone surrogate, which JSON can express and no tokenizer accepts."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply.") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(
            f"{where} has {half} in it, half a character; take it out, or restore the other half."
        ) from error


READERS: dict[str, Callable[[RawFile], Iterable[RawRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": ParquetRows,
    ".label": _labelled_lines,
    ".csv": _csv,
    ".txt": _text,
}
