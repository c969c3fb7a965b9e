"""Windows of books: exact in length, one BOS each, and the tokens that a protocol says, once."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.base import Reading
from lcbench.tasks.perplexity.books import books_of, read_book
from lcbench.tasks.perplexity.task import Perplexity
from lcbench.tasks.text.books import HELD_OUT_SEEDS, Book
from tests.tokenizers import STYLES, build

TINY = "lcbench-tiny"


def example_of(options: str, seq_len: int, sample: int = 0, style: str = TINY, lengths: Any = None) -> Example:
    task = load_task(f"pg19:{options}" if options else "pg19").for_lengths(lengths or [seq_len])
    return task.example(Cell(seq_len), sample, build(style), 0)


def reading(example: Example) -> Reading:
    assert example.reading is not None
    return example.reading


def spans(options: str, seq_len: int, **more: Any) -> list[tuple[int, int, int]]:
    return [(w.start, w.stop, w.first) for w in reading(example_of(options, seq_len, **more)).windows]


def books_file(folder: Path, *sizes: int) -> Path:
    """Books of so many sentences, and a row each as PG19 has it."""
    path = folder / "books.jsonl"
    rows = [
        {"short_book_title": f"Title {n}", "publication_date": 1900, "url": "", "text": Book(n).text(size)}
        for n, size in enumerate(sizes)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seq_len", [8, 257, 1000])
def test_a_prefix_is_exact_and_has_one_bos_or_else_eos(style: str, seq_len: int) -> None:
    tokenizer, example = build(style), example_of("", seq_len, style=style)
    prompt, start = example.prompt, (tokenizer.bos_token_id, tokenizer.eos_token_id)[tokenizer.bos_token_id is None]
    assert len(prompt) == seq_len and example.max_new_tokens == 0 and example.references == ()
    assert prompt.count(start) == 1 and prompt[0] == start
    (window,) = reading(example).windows
    assert (window.start, window.stop, window.first) == (0, len(example.context), 0)
    text = Book(HELD_OUT_SEEDS[0]).text(1000)
    assert tokenizer(text, add_special_tokens=False).input_ids[: len(example.context)] == example.context


@pytest.mark.parametrize("style", STYLES)
def test_bytes_and_words_are_those_of_the_scored_text(style: str) -> None:
    tokenizer = build(style)
    book = read_book(tokenizer, "books", 500, 3)
    assert book is not None
    text = Book(HELD_OUT_SEEDS[3]).text(1000)
    assert text.startswith(book.text) and book.span(0, 500) == book.text
    cuts = [0, 1, 7, 130, 499, 500]
    assert "".join(book.span(a, b) for a, b in pairwise(cuts)) == book.text
    (window,) = reading(example_of("", 501, 3, style)).windows
    scored = book.span(window.first, window.stop)
    assert window.bytes == len(scored.encode()) and window.words == len(scored.split())


def test_bytes_are_not_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Où est “l'été”?\n" * 40)
    for style in ("byte-level-bos-added", "llama-2"):
        (window,) = reading(example_of(f"source={path}", 101, style=style)).windows
        book = read_book(build(style), str(path), 100, 0)
        assert book is not None and window.bytes == len(book.text.encode()) > len(book.text)


def test_every_length_of_a_run_reads_the_same_books(tmp_path: Path) -> None:
    path, tokenizer = books_file(tmp_path, 10, 300, 40, 500, 90), build(TINY)
    task = load_task(f"pg19:source={path}").for_lengths([200, 2000])
    assert task.available(tokenizer) == 2
    for seq_len in (200, 2000):
        titles = [reading(task.example(Cell(seq_len), k, tokenizer, 0)).document for k in range(2)]
        assert titles == ["Title 1", "Title 3"]
    with pytest.raises(UserError, match=r"has 2 books of 1,999 tokens or more; use a shorter --seq-len"):
        task.example(Cell(200), 2, tokenizer, 0)
    assert load_task(f"pg19:source={path},longest=2000").for_lengths([200]).available(tokenizer) == 2
    long, short = (task.example(Cell(n), 0, tokenizer, 0).prompt for n in (2000, 200))
    assert long[:200] == short


def test_how_long_a_book_is_shows_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tokenizer = books_file(tmp_path, 3000, 12, 13, 14, 2000), build(TINY)
    sizes = [
        len(tokenizer(json.loads(line)["text"], add_special_tokens=False).input_ids)
        for line in path.read_text().splitlines()
    ]
    for need in sorted({*sizes, *(size + 1 for size in sizes), 1, 1000}):
        assert books_of(tokenizer, str(path), need) == tuple(n for n, size in enumerate(sizes) if size >= need)


def test_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name, seed in (("b", 1), ("a", 2), ("sub/c", 3)):
        (tmp_path / f"{name}.txt").write_text(Book(seed).text(60))
    titles = [reading(example_of(f"source={tmp_path}", 200, k)).document for k in range(3)]
    assert titles == ["a", "b", "c"]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"text": Book(1).text(60)}) + "\n" + json.dumps({"title": "T", "text": Book(2).text(60)})
    )
    assert [reading(example_of(f"source={path}", 200, k)).document for k in range(2)] == ["row 1", "T"]
    asked = []

    def load_dataset(name: str, configuration: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, configuration, split))
        return [{"short_book_title": "Hub", "text": Book(1).text(60)}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert reading(example_of("source=emozilla/pg19", 200)).document == "Hub"
    assert reading(example_of("source=some/books:en", 200)).document == "Hub"
    assert asked == [("emozilla/pg19", None, "test"), ("some/books", "en", "test")]


@pytest.mark.parametrize("style", [TINY, "byte-level"])
@pytest.mark.parametrize(("stride", "book_tokens"), [(1, 90), (16, 100), (32, 100), (63, 200), (7, 64), (16, 64 + 16)])
def test_sliding_windows_score_every_token_once(style: str, stride: int, book_tokens: int) -> None:
    seq_len, head = 64, int(style == TINY)
    options = f"protocol=sliding,stride={stride},book_tokens={book_tokens}" + ("" if head else ",bos=never")
    found = spans(options, seq_len, style=style)
    scored = [token for _, stop, first in found for token in range(first, stop)]
    assert scored == list(range(1 - head, book_tokens))
    assert found[0][:2] == (0, seq_len - head)
    assert [start for start, *_ in found] == [stride * n for n in range(len(found))]
    for start, stop, first in found[1:]:
        assert stop - start <= seq_len - head and first - start == seq_len - head - stride


def test_segments() -> None:
    assert spans("protocol=segments,book_tokens=200", 64) == [(0, 63, 0), (63, 126, 63), (126, 189, 126)]
    assert spans("protocol=segments,book_tokens=200,bos=never", 64, style="byte-level") == [
        (0, 64, 1),
        (64, 128, 65),
        (128, 192, 129),
    ]
    assert len(spans("protocol=segments", 64)) == 2 and len(spans("protocol=segments", 64, lengths=[64, 640])) == 20


def test_chunkllama_drops_the_last_window() -> None:
    """test_ppl.py: starts 0, stride, ... below N - seq_len, without the last of them, each scored whole."""
    found = spans("protocol=sliding,averaging=chunkllama,stride=16,book_tokens=200", 64)
    starts = [0, 16, 32, 48, 64, 80, 96, 112]
    assert found == [(start, start + 63, start) for start in starts]
    with pytest.raises(UserError, match="no window of 64 tokens, 256 apart"):
        example_of("protocol=sliding,averaging=chunkllama", 64)
    assert reading(example_of("protocol=sliding,averaging=chunkllama,book_tokens=1k", 64)).protocol == (
        "sliding, stride 256, chunkllama averaging"
    )


def test_strides_by_default() -> None:
    task = Perplexity(name="x", protocol="sliding")
    paper = Perplexity(name="x", protocol="sliding", averaging="chunkllama")
    assert (task._stride(4096), task._stride(192 * 1024)) == (2048, 96 * 1024)
    assert (paper._stride(4096), paper._stride(96 * 1024), paper._stride(192 * 1024)) == (256, 256, 96 * 1024)
    assert reading(example_of("protocol=sliding", 64)).protocol == "sliding, stride 32"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("stride=8", "options of protocol=sliding, not of prefix"),
        ("protocol=segments,averaging=chunkllama", "options of protocol=sliding, not of segments"),
        ("book_tokens=4k", "prefix reads --seq-len tokens"),
        ("protocol=sliding,stride=64", "a stride of 64 would leave tokens out; a window has 63"),
        ("protocol=sliding,book_tokens=63", "book_tokens=63 is less than one window of 64"),
        ("protocol=sliding,stride=0", "stride must be at least 1"),
        ("protocol=needle", "must be prefix or sliding or segments"),
        ("averaging=windows", "must be tokens or chunkllama"),
        ("source=/nowhere.jsonl", "cannot read /nowhere.jsonl"),
    ],
)
def test_options_that_make_no_sense(options: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        example_of(options, 64)


def test_cells_and_lengths() -> None:
    task = load_task("pg19")
    assert task.cells([256, 512], None) == [Cell(256), Cell(512)]
    with pytest.raises(UserError, match="has no needle; leave the depths out"):
        task.cells([256], [0.5])
    with pytest.raises(UserError, match="windows of 8 tokens or more, not 7"):
        example_of("", 7)
    assert task.shares(Cell(256), 3) == task.shares(Cell(512), 3) != task.shares(Cell(256), 4)
    sliding = load_task("pg19:protocol=sliding")
    assert sliding.shares(Cell(256), 3) != sliding.shares(Cell(512), 3)


def test_another_seed_reads_other_generated_books() -> None:
    task, tokenizer = load_task("pg19"), build(TINY)
    one, other = (task.example(Cell(64), 0, tokenizer, seed) for seed in (0, 7))
    assert (reading(one).document, reading(other).document) == ("generated book 900000", "generated book 900007")
