"""Documents become pages, or an error of one sentence."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lcbench.apps.ask.pages import Pages, read_pages
from lcbench.apps.ask.passages import PassageIndex
from lcbench.core.errors import UserError
from tests.apps.ask.pdfs import pdf

LINES = [["The first page (of two)."], ["The second page.", "It has two lines."]]


def test_a_pdf_has_numbered_pages(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    path = tmp_path / "two.pdf"
    path.write_bytes(pdf(LINES))
    pages = read_pages(str(path))
    assert pages.numbered and len(pages.texts) == 2
    assert pages.text == "[page 1]\nThe first page (of two).\n\n[page 2]\nThe second page.\nIt has two lines."


def test_a_pdf_is_told_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "piped").write_bytes(pdf(LINES))
    with (tmp_path / "piped").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        assert len(read_pages("-").texts) == 2


@pytest.mark.parametrize(
    ("content", "text", "numbered"),
    [
        ("\ufeffA text.\n", "A text.", False),
        ("One.\fTwo.\f", "[page 1]\nOne.\n\n[page 2]\nTwo.", True),
        ("One.\f", "One.", False),
        ("One.\f\fThree.", "[page 1]\nOne.\n\n[page 2]\n\n\n[page 3]\nThree.", True),
    ],
)
def test_a_text_has_pages_where_form_feeds_part_it(tmp_path: Path, content: str, text: str, numbered: bool) -> None:
    path = tmp_path / "text"
    path.write_text(content, encoding="utf-8")
    pages = read_pages(str(path))
    assert pages.text == text and pages.numbered == numbered


def test_locked_is_readable_and_encrypted_is_not(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    for name, password in (("locked", ""), ("secret", "a password")):
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(LINES)))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        writer.write(tmp_path / f"{name}.pdf")
    assert len(read_pages(str(tmp_path / "locked.pdf")).texts) == 2
    with pytest.raises(UserError, match=r"secret\.pdf is encrypted"):
        read_pages(str(tmp_path / "secret.pdf"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pdf([[], []]), "no text in its 2 pages"),
        (pdf(LINES)[:400], "as a PDF"),
        (b"%PDF-1.7 and no more", "as a PDF"),
        (b"abc\0def", "zero bytes"),
        (b"\xff\xfe\x12", "UTF-8"),
        (b" \n\f ", "is empty"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    pytest.importorskip("pypdf")
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_pages(str(path))


def test_without_pypdf_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "two.pdf"
    path.write_bytes(pdf(LINES))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(UserError, match=r"lcbench\[pdf\]"):
        read_pages(str(path))


def test_rare_words_find_their_passage() -> None:
    common = "The weather was fine that day. " * 5
    pages = Pages((common, f'{common}\n\n"The code of Mara is 4821." {common}', common), numbered=True)
    best = PassageIndex(pages).best("What is the code of Mara? 4821", 3)
    assert (best[0].page, best[0].line) == (2, 3) and "4821" in best[0].text
    assert [passage.page for passage in best[1:]] == [1, 2], "what a page says twice is named once"
    assert PassageIndex(pages).best("xyzzy", 3) == []


def test_a_table_without_sentences_is_cut() -> None:
    text = "\n".join(f"row {number} value {number * number}" for number in range(100))
    (best,) = PassageIndex(Pages((text,), numbered=False)).best("9801", 1)
    assert len(best.text.split()) <= 60 and "9801" in best.text and best.line > 80


def test_line_ends_of_another_system_are_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfIt rained.\r\nThe code is 4821.\r\n")
    (tmp_path / "b.txt").write_bytes(b"It rained.\nThe code is 4821.\n")
    one, other = (read_pages(str(tmp_path / name)) for name in ("a.txt", "b.txt"))
    assert one == other and "\r" not in one.text


def test_passages_in_chinese() -> None:
    text = (
        "\u5317\u4eac\u662f\u9996\u90fd\u3002\u4eca\u5929\u5f88\u597d\uff01\u201c\u4f60\u6765\u5417\uff1f\u201d\u4ed6\u95ee\u3002"
        + "\u96e8" * 200
    )
    index = PassageIndex(Pages((text,), numbered=False))
    (found, *_) = index.best("\u54ea\u91cc\u662f\u9996\u90fd\uff1f", 1)
    assert found.text == "\u5317\u4eac\u662f\u9996\u90fd\u3002"
