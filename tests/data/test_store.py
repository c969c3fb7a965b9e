"""Reading what was prepared: any text as it was, lazily, and errors for what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lcbench.core.errors import UserError
from lcbench.data import Document, Row, data_root, load_document, load_rows
from lcbench.data.store import Documents, JsonLines
from tests.data.sources import BOOK, write_jsonl
from tests.helpers import cli

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)


@example({"\ud800": "\udfff", 'a"\\': "\n\u2028"}, "\udc80")
@given(st.dictionaries(TEXT, TEXT, max_size=4), TEXT)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], title: str) -> None:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    documents = {id: Document(id, title, text) for id, text in texts.items()}
    path.write_bytes(b"".join(document.line() for document in documents.values()))
    assert dict(Documents(path)) == documents


@given(TEXT, TEXT, st.lists(TEXT, max_size=3))
def test_any_row_comes_back(id: str, question: str, references: list[str]) -> None:
    row = Row(id, None, question, tuple(references), ("x",), {"n": 1, "text": question})
    assert Row.parse(row.line()) == row and row.line().count(b"\n") == 1


def test_rows_are_a_sequence_parsed_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_bytes(b"".join(Row(str(n), None, "", ()).line() for n in range(3)) + b"no row\n")
    rows = JsonLines(path, Row.parse)
    assert len(rows) == 4 and rows[2].id == "2" and [row.id for row in rows[:2]] == ["0", "1"]
    with pytest.raises(UserError, match=r"test.jsonl, line 4, is not as lcbench wrote it; prepare the data again"):
        rows[-1]
    with pytest.raises(IndexError):
        rows[4]
    path.write_bytes(b"")
    assert list(JsonLines(path, Row.parse)) == []


def test_what_is_not_there(tmp_path: Path, root: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no data `scrolls/qasper`; run `lcbench data prepare scrolls/qasper`"
    ):
        load_rows("scrolls/qasper", "validation")
    cli("data", "prepare", "pg19", "--from", write_jsonl(tmp_path / "books.jsonl", [BOOK]))
    with pytest.raises(UserError, match=r"without the split train \(there is test\); run `lcbench data prepare pg19`"):
        load_rows("pg19", "train")
    with pytest.raises(UserError, match="has no document '78'"):
        load_document("pg19", "78")
    manifest = root / "pg19" / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content.replace('"format": 1', '"format": 0'))
    with pytest.raises(UserError, match="prepared by another version of lcbench; run `lcbench data prepare pg19`"):
        load_document("pg19", "77")
    assert "prepared already" not in cli("data", "prepare", "pg19", "--from", tmp_path / "books.jsonl").out
    manifest.write_text("{}")
    with pytest.raises(UserError, match=r"manifest.json: field `format` is missing; remove the folder"):
        load_rows("pg19", "test")
    manifest.write_text("{")
    assert "remove the folder" in cli("data", "list").error


def test_where_prepared_data_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_root() == tmp_path / "root"
    monkeypatch.delenv("LCBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "lcbench" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root() == tmp_path / "home" / ".cache" / "lcbench" / "data"
    monkeypatch.setenv("LCBENCH_DATA", "~/data")
    assert data_root() == tmp_path / "home" / "data"
