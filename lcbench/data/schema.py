"""The local schema: a row is one question about at most one document; documents are stored separately, each once.

A prepared data set is a folder with `documents.jsonl`, a `train.jsonl`, `validation.jsonl` or `test.jsonl` of rows for
each split of its source, and `manifest.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lcbench.core.fields import Reader, described

FORMAT = 1  # of prepared folders: incremented when the same source would be converted differently
SPLITS = ("train", "validation", "test")
DOCUMENTS, MANIFEST = "documents.jsonl", "manifest.json"


@dataclass(frozen=True)
class Row:
    """One question. `question` is empty for a text without one, such as a book or a report to summarise.

    id: unique in its split; rows of the source with the same id are merged into one row with all their references.
    document_id: the document of the question; None if it has none.
    question: as in the source, with its options where the source writes them into the question.
    references: all right answers, as in the source.
    choices: the options of a multiple-choice question, where the source has them in separate fields.
    meta: the other columns of the source.
    """

    id: str
    document_id: str | None
    question: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        return _line(asdict(self))

    @classmethod
    def parse(cls, line: bytes) -> Row:
        """Raises: ValueError, KeyError or TypeError for a line that is not a row."""
        row = json.loads(line)
        return cls(**{**row, "references": tuple(row["references"]), "choices": tuple(row["choices"])})


@dataclass(frozen=True)
class Document:
    """The text of questions. `document_id` is the first key of its line, so that ids are indexed without parsing it."""

    document_id: str
    title: str
    text: str

    def line(self) -> bytes:
        return _line(asdict(self))

    @classmethod
    def parse(cls, line: bytes) -> Document:
        """Raises: ValueError, KeyError or TypeError for a line that is not a document."""
        return cls(**json.loads(line))


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Hash and size of a file, to detect changes."""

    sha256: str = described("Hash of its content.")
    bytes: int = described("Its size.", unit="bytes", least=0)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json` of a prepared folder."""

    format: int = described("Version of the folder's layout.")
    name: str | None = described("The data set, as `scrolls/qasper`.", default=None)
    origin: dict[str, str] = described("Where it is from: `repo`, `revision` and `commit` of the hub, or a `path`.")
    licence: dict[str, Any] | None = described("The terms on which its makers publish it.", default=None)
    files: dict[str, FileFacts] = described("The files that were read, by name.")
    rows: dict[str, int] = described("How many rows each split has.")
    documents: int = described("How many documents there are.", unit="documents", least=0, default=0)
    prepared: dict[str, FileFacts] = described("The files of the folder, by name.")
    prepared_at: str | None = described("When it was prepared, in ISO 8601.", default=None)


read_content = Reader(Manifest)


def _line(fields: dict[str, Any]) -> bytes:
    # A lone surrogate, which JSON can express and UTF-8 cannot, is written as an escape, as in the source.
    return (json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace")) + b"\n"
