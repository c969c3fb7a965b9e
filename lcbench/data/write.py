"""Writer of a prepared folder: each document is written once, at once; rows are written at the end."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lcbench.core.files import replaced
from lcbench.data.schema import DOCUMENTS, SPLITS, Document, Row
from lcbench.data.source import SourceRow


class Writer:
    """Keeps rows (without their documents) in memory until the end, since a later row may have the same id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, dict[str, Row]] = {split: {} for split in SPLITS}
        self._texts: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._documents = (self._folder / DOCUMENTS).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._documents.close()

    @property
    def documents(self) -> int:
        return len(self._texts)

    def add(self, split: str, example: SourceRow) -> None:
        """Add a question, or its references to an earlier question with the same id.

        Rows of one id are merged as in the scorer of SCROLLS: the first question is kept, references are collected.
        Those of one row stay as they are, since some are a sequence, in which a value may stand twice: math_calc.
        Raises: ValueError for a document id with two different texts.
        """
        document_id = None if example.text is None else self._document(example, example.text)
        row = Row(example.id, document_id, example.question, example.references, example.choices, example.meta)
        known = self._rows[split].setdefault(example.id, row)
        if known is not row:
            new = (one for one in dict.fromkeys(row.references) if one not in known.references)
            self._rows[split][example.id] = replace(known, references=(*known.references, *new))

    def write_rows(self) -> dict[str, int]:
        """Write the splits that have rows, and sync all files to disk; the number of rows per split."""
        self._documents.flush()
        os.fsync(self._documents.fileno())
        for split, rows in self._rows.items():
            if rows:
                with replaced(self._folder / f"{split}.jsonl") as temporary, temporary.open("wb") as file:
                    file.writelines(row.line() for row in rows.values())
        return {split: len(rows) for split, rows in self._rows.items() if rows}

    def _document(self, example: SourceRow, text: str) -> str:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        document_id = example.document_id or digest[:16]
        if document_id not in self._texts:
            self._documents.write(Document(document_id, example.title, text).line())
        if self._texts.setdefault(document_id, digest) != digest:
            raise ValueError(f"has another text for the document {document_id} than a row before it.")
        return document_id
