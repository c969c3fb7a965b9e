"""Rows of a parquet file, read on access: a file may be larger than memory, and a row may contain a book."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from lcbench.core.errors import UserError, gist_of
from lcbench.data.raw_file import RawFile
from lcbench.data.values import RawRow, require_distinct

MOST_ROWS = 1_000_000  # that a parquet file may declare, if it has fewer bytes than rows
BATCH = 64  # rows in memory at once while all are read in order


class ParquetRows(Sequence[RawRow]):
    """The rows of a parquet file. In order, BATCH of them are in memory; by number, one row group.

    Columns that `datasets` wrote as ClassLabel have the names of the classes as values; a float32 is read as the
    decimal number that it was written as.

    Raises: UserError for a file that cannot be read, is damaged, or has two columns of one name.
    """

    def __init__(self, file: RawFile) -> None:
        self._file = file
        with self._opened() as table:
            self._metadata = table.metadata
            _require_plausible(self._metadata, file.path.stat().st_size)
            require_distinct(table.schema_arrow.names, file.name)
            self._classes = _class_names(table.schema_arrow.metadata or {})
            self._short = [field.name for field in table.schema_arrow if str(field.type) in ("halffloat", "float")]
            groups = range(self._metadata.num_row_groups)
            self._ends = list(accumulate(self._metadata.row_group(number).num_rows for number in groups))
        self._group: tuple[int, Any] = (-1, None)  # the row group read last: its number, and its pyarrow.Table

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        group = bisect_right(self._ends, number)
        if group != self._group[0]:
            with self._opened() as table:
                self._group = (group, table.read_row_group(group))
        with self._one_sentence():
            (row,) = self._group[1].slice(number - (self._ends[group - 1] if group else 0), 1).to_pylist()
            return self._named(row)

    def __iter__(self) -> Iterator[RawRow]:
        with self._opened() as table:
            for batch in table.iter_batches(BATCH):
                yield from map(self._named, batch.to_pylist())

    def _named(self, row: dict[str, Any]) -> RawRow:
        names = {column: _class_name(row[column], names) for column, names in self._classes.items()}
        return row | names | {column: _decimal(row[column]) for column in self._short}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file as a `pyarrow.parquet.ParquetFile`."""
        from pyarrow import parquet  # type: ignore[import-untyped]

        with self._file.open() as content, self._one_sentence():
            yield parquet.ParquetFile(content)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except UserError:
            raise
        except UnicodeDecodeError as error:
            raise UserError(f"{self._file.name} has a text that is not UTF-8; write the file without it.") from error
        except (pyarrow.ArrowException, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            # A damaged footer fails wherever the reader meets what it did not expect.
            raise UserError(f"{self._file.name} is not a readable parquet file: {gist_of(error)}.") from error


def _require_plausible(metadata: Any, size: int) -> None:
    """Raises: ValueError for metadata that declare more rows than a file of `size` bytes can have."""
    if metadata.num_rows > max(MOST_ROWS, size):
        raise ValueError(f"it declares {metadata.num_rows:,} rows in {size:,} bytes")


def _decimal(number: float | None) -> float | None:
    """A float32 as it was written: 0.1 and not the nearest double, 0.10000000149011612."""
    import numpy as np

    return None if number is None else float(str(np.float32(number)))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Columns of type ClassLabel and their class names, from the metadata that `datasets` writes into parquet files."""
    info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    features = info.get("features", {})
    return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}


def _class_name(number: int | None, names: list[str]) -> str | None:
    """The name of a class; None for a number without a name, such as -1 in a test split without labels."""
    return names[number] if number is not None and 0 <= number < len(names) else None
