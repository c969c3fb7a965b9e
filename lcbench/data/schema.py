"""The local schema: a row asks one question about at most one document; documents stand apart, each once.

A prepared data set is a folder with `documents.jsonl`, a `train.jsonl`, `validation.jsonl` or `test.jsonl` of rows for
each split that its source has, and `manifest.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lcbench.core.fields import Reader, told

FORMAT = 1  # of prepared folders: raised when the same source would be written otherwise than before
SPLITS = ("train", "validation", "test")
DOCUMENTS, MANIFEST = "documents.jsonl", "manifest.json"


@dataclass(frozen=True)
class Row:
    """One question. Of a text without question, as of a book or of a report to summarise, `question` is empty.

    id: unique in its split; rows that the source repeats under one id are one row with all their references.
    document_id: of the document that the question is about; None where it is about none.
    question: in the source's own words, its options included where the source writes them into the question.
    references: every answer that counts as right, as the source writes it.
    choices: the options by themselves, where the source lets them be told apart.
    meta: further columns of the source.
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
        """Raises: ValueError, KeyError or TypeError for a line that is no row."""
        row = json.loads(line)
        return cls(**{**row, "references": tuple(row["references"]), "choices": tuple(row["choices"])})


@dataclass(frozen=True)
class Document:
    """A text that questions are about. `document_id` stands first in its line: an index of ids reads no further."""

    document_id: str
    title: str
    text: str

    def line(self) -> bytes:
        return _line(asdict(self))

    @classmethod
    def parse(cls, line: bytes) -> Document:
        """Raises: ValueError, KeyError or TypeError for a line that is no document."""
        return cls(**json.loads(line))


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file, so that another one is told from it."""

    sha256: str = told("Hash of its content.")
    bytes: int = told("Its size.", unit="bytes", least=0)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json` of a prepared folder."""

    format: int = told("Version of the folder's layout.")
    name: str | None = told("The data set, as `scrolls/qasper`.", default=None)
    origin: dict[str, str] = told("Where it is from: `repo`, `revision` and `commit` of the hub, or a `path`.")
    licence: dict[str, Any] | None = told("The terms on which its makers publish it.", default=None)
    files: dict[str, FileFacts] = told("The files that were read, by name.")
    rows: dict[str, int] = told("How many rows each split has.")
    documents: int = told("How many documents there are.", unit="documents", least=0, default=0)
    prepared: dict[str, FileFacts] = told("The files of the folder, by name.")
    prepared_at: str | None = told("When it was prepared, in ISO 8601.", default=None)


read_content = Reader(Manifest)


def _line(fields: dict[str, Any]) -> bytes:
    # A lone half of a surrogate pair, which JSON can name and UTF-8 cannot hold, is written as the source had it.
    return (json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace")) + b"\n"
