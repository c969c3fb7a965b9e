"""Prepared documents as texts to hide needles in, and to measure perplexity on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.data import Books, is_prepared_data
from lcbench.data.texts import read_texts
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from tests.helpers import cli

TEXT = " ".join(f"The code of Mara is {n}. The sky over Oslo was blue." for n in range(1000, 1100))


@pytest.fixture(autouse=True)
def prepared_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    rows = [
        {"short_book_title": f"Book {n}", "publication_date": 1900, "url": f"http://books/{n}", "text": f"{n}. {TEXT}"}
        for n in range(3)
    ]
    Path("books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli("data", "prepare", "pg19", "--from", "books.jsonl").code == 0


def test_titles_and_texts() -> None:
    books = Books("pg19", "test")
    assert len(books) == 3 and books[1] == ("Book 1", f"1. {TEXT}")
    assert [title for title, _ in books[1:]] == ["Book 1", "Book 2"]
    with pytest.raises(IndexError):
        books[3]


def test_what_is_prepared_data() -> None:
    assert is_prepared_data("pg19") and is_prepared_data("scrolls/qasper")
    assert not is_prepared_data("books.jsonl") and not is_prepared_data("owner/pg19")
    Path("pg19").mkdir()
    assert not is_prepared_data("pg19"), "a folder of that name is meant"


def test_perplexity_and_needles_read_them() -> None:
    tokenizer = ModelSource().tokenizer()
    task = load_task("pg19:source=pg19").for_lengths([300])
    assert task.available(tokenizer) == 3
    reading = task.example(Cell(300), 2, tokenizer, 0).reading
    assert reading is not None and reading.document == "Book 2"
    assert list(read_texts("pg19")) == [f"{n}. {TEXT}" for n in range(3)]
    example = load_task("needle:haystack=pg19").example(Cell(600, 0.5), 0, tokenizer, 0)
    assert "The sky over Oslo was blue." in str(tokenizer.decode(example.prompt))


def test_data_that_are_not_prepared_or_have_no_documents() -> None:
    with pytest.raises(UserError, match="run `lcbench data prepare scrolls/qasper`"):
        read_texts("scrolls/qasper")
    row = {"question": "How many?", "answer": "#### 4"}
    Path("test.jsonl").write_text(json.dumps(row) + "\n")
    assert cli("data", "prepare", "gsm8k", "--from", "test.jsonl").code == 0
    with pytest.raises(UserError, match="have no documents"):
        read_texts("gsm8k")
