"""A document as text by pages: PDF, or any text in UTF-8."""

from __future__ import annotations

import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from lcbench.core.errors import UserError
from lcbench.core.files import read_bounded, read_whole
from lcbench.data.values import clean

STDIN = "-"


@dataclass(frozen=True)
class Pages:
    """The text of a document; `numbered` if it has pages, which count from 1 as a viewer counts them."""

    texts: tuple[str, ...]
    numbered: bool

    @property
    def text(self) -> str:
        """The whole text as the model reads it: each page after its number, where there are pages."""
        if not self.numbered:
            return self.texts[0].strip()
        return "\n\n".join(f"[page {number}]\n{text.strip()}" for number, text in enumerate(self.texts, start=1))


def read_pages(source: str) -> Pages:
    """A PDF, a text whose pages are parted by form feeds (as `pdftotext` writes it), or a text without pages; `-` reads
    standard input.

    Raises: UserError for a file that is missing, has no text, is encrypted, or is neither PDF nor text in UTF-8.
    """
    name = "standard input" if source == STDIN else source
    content = _read(source)
    if content.lstrip()[:5] == b"%PDF-":
        texts = _pdf(content, name)
    else:
        texts = tuple(_text(content, name).removesuffix("\f").split("\f"))
    if not any(text.strip() for text in texts):
        raise UserError(f"{name} is empty.")
    return Pages(texts, numbered=len(texts) > 1 or content.lstrip()[:5] == b"%PDF-")


def _read(source: str) -> bytes:
    path = Path(source).expanduser()
    try:
        return read_bounded(sys.stdin.buffer) if source == STDIN else read_whole(path)
    except OSError as error:
        piped = f"; pipe it in, with {STDIN} in its place" if path.is_fifo() else ""
        raise UserError(f"cannot read {source}: {error.strerror}{piped}.") from error


def _text(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is neither a PDF nor text in UTF-8; convert it to one of them.") from error
    if "\0" in text:
        raise UserError(f"{name} is neither a PDF nor text: it has zero bytes in it.")
    return clean(text)


def _pdf(content: bytes, name: str) -> tuple[str, ...]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError as error:
        raise UserError("reading a PDF needs pypdf; pip install 'lcbench[pdf]'.") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # pypdf warns of every flaw that it can cope with
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):  # locked against printing, say: readable by anybody
            raise UserError(f"{name} is encrypted; save a copy without its password.")
        texts = tuple(page.extract_text() for page in reader.pages)
    except DependencyError as error:
        raise UserError(f"{name} is encrypted, and pypdf cannot read it here: {error}.") from error
    except UserError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        # A broken file fails wherever pypdf meets what it did not expect.
        raise UserError(
            f"cannot read {name} as a PDF: {' '.join(str(error).split()) or type(error).__name__}."
        ) from error
    if not any(text.strip() for text in texts):
        raise UserError(f"{name} has no text in its {len(texts)} pages: a scan? Run it through OCR first.")
    return texts
