"""AA-LCR: 100 questions on sets of documents, from the CSV and the zip of texts of `ArtificialAnalysis/AA-LCR`.

Artificial Analysis, 2025, https://huggingface.co/datasets/ArtificialAnalysis/AA-LCR. The documents of a question are
joined to one text, as they stand in the published prompt; prepare `aa_lcr/documents` first, as `aa_lcr` alone does.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

from lcbench.core.errors import UserError
from lcbench.data import load_document, load_rows
from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

REVISION = "9a77ef56b717057ade24ceab4d273712a0b4f19e"
ZIP = "extracted_text/AA-LCR_extracted-text.zip"
DOCUMENTS = "aa_lcr/documents"


def place(name: str) -> str:
    """`Category/set/file.txt`, whatever folders stand before it. Names in the zip are UTF-8 that was read as CP437."""
    path = "/".join(PurePosixPath(name).parts[-3:])
    with contextlib.suppress(UnicodeError):
        path = path.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", path)


def documents(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(place(row["name"]), "", (), row["text"])


@cache
def ids() -> dict[str, str]:
    """The document of each place."""
    return {row.id: str(row.document_id) for row in load_rows(DOCUMENTS, "test")}


def questions(row: RawRow, number: int) -> Iterator[SourceRow]:
    texts = []
    for number, name in enumerate(row["data_source_filenames"].split(";"), start=1):
        path = unicodedata.normalize("NFC", f"{row['document_category']}/{row['document_set_id']}/{name.strip()}")
        if path not in ids():
            raise UserError(f"the documents of AA-LCR have no {path}; prepare {DOCUMENTS} with all of its texts.")
        text = load_document(DOCUMENTS, ids()[path]).text
        texts.append(f"BEGIN DOCUMENT {number}:\n{text}\nEND DOCUMENT {number}")
    meta = {name: row[name] for name in ("document_category", "document_set_id", "input_tokens") if name in row}
    yield SourceRow(str(row["question_id"]), row["question"], (row["answer"],), "\n\n".join(texts), meta=meta)


LICENCE = Licence("Apache-2.0", "unclear", "questions; the documents keep the rights of their owners")
DATA_SETS = [
    DataSet(
        name=DOCUMENTS,
        description="the texts that AA-LCR asks about",
        hub=Hub("ArtificialAnalysis/AA-LCR", (ZIP,), REVISION),
        licence=LICENCE,
        formats=({"name": str, "text": str},),
        examples=documents,
        splits=("test",),
        suffixes=(".txt",),
        members=("*.txt",),
    ),
    DataSet(
        name="aa_lcr/questions",
        description="questions on sets of some 100,000 tokens, for a judge of one's own",
        hub=Hub("ArtificialAnalysis/AA-LCR", ("AA-LCR_Dataset.csv",), REVISION),
        licence=LICENCE,
        formats=(
            dict.fromkeys(("document_category", "document_set_id", "question", "answer", "data_source_filenames"), str),
        ),
        examples=questions,
        splits=("test",),
        suffixes=(".csv", ".jsonl"),
        members=("*AA-LCR_Dataset.csv", "*questions.jsonl"),
    ),
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
