"""Text to hide needles in: the user's own, or the books of PG19, cut between sentences."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, load_task
from lcbench.tasks.text.running_text import RunningText, split_sentences
from tests.helpers import REPOSITORY
from tests.tasks.needle.tasks import task_of, text_of
from tests.tokenizers import build

PG19 = REPOSITORY.parent / "shared" / "data" / "pg19" / "books.jsonl"
ESSAY = " ".join(f"Sentence number {number} says {number * 7919 % 1000}." for number in range(3000))


def test_sentences() -> None:
    text = 'CHAPTER I\n\n"Stop!" cried  Mr. Hall.\nHe (a tall\nman) left. "Why?" she asked. J. Smith knew! A rest'
    assert split_sentences(text) == [
        ' CHAPTER I "Stop!" cried Mr. Hall.',
        " He (a tall man) left.",
        ' "Why?" she asked.',
        " J. Smith knew!",
    ]
    assert split_sentences("") == [] and split_sentences("no end") == []


def test_a_cut_keeps_the_beginning_and_never_stops_in_a_sentence() -> None:
    tokenizer = build("lcbench-tiny")
    whole = RunningText(tokenizer, iter(split_sentences(ESSAY)))
    for n in range(1, 80):
        tokens, ends = whole.cut(n)
        assert len(tokens) == n == ends[-1] and ends[0] == 0 and ends == sorted(set(ends))
        assert tokens[: ends[-2]] == whole.cut(80)[0][: ends[-2]]
        assert tokenizer.decode(tokens).endswith(".")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "essays"
    folder.mkdir()
    half = len(ESSAY) // 2
    cut = ESSAY.index(". ", half) + 1
    (folder / "one.txt").write_text(ESSAY[:cut])
    (folder / "two.txt").write_text(ESSAY[cut:])
    book = {"short_book_title": "E", "publication_date": 1900, "url": "x", "text": ESSAY}
    jsonl = tmp_path / "books.jsonl"
    jsonl.write_text(json.dumps(book) + "\n")
    return {"folder": folder, "jsonl": jsonl, "txt": folder / "one.txt"}


@pytest.mark.parametrize("kind", ["folder", "jsonl", "txt"])
def test_haystack_of_the_user(kind: str, sources: dict[str, Path]) -> None:
    """In the order of the files, in a circle; never a sentence twice."""
    task, tokenizer = load_task(f"needle:haystack={sources[kind]}"), build("lcbench-tiny")
    firsts = set()
    for sample in range(6):
        example = task.example(Cell(9000, 0.5), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == 9000
        numbers = [int(n) for n in re.findall(r"Sentence number (\d+) says", text_of(tokenizer, example))]
        assert len(numbers) > 400 and len(set(numbers)) == len(numbers)
        jumps = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
        assert len(jumps) <= 2 and all(b < a or b == a + 2 for a, b in jumps)
        firsts.add(numbers[0])
    assert len(firsts) > 3


def test_a_haystack_that_is_too_short_or_missing(sources: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = build("lcbench-tiny")
    task = load_task(f"needle:haystack={sources['txt']}")
    with pytest.raises(UserError, match=r"one.txt has [\d,]+ tokens in whole sentences, and the prompt needs [\d,]+; "):
        task.example(Cell(2**17, 0.5), 0, tokenizer, 0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    for name, message in {
        "empty": "holds no .txt",
        "nowhere.txt": "cannot read",
        "other.jsonl": "has no column `text`",
    }.items():
        with pytest.raises(UserError, match=message):
            load_task(f"needle:haystack={tmp_path / name}").example(Cell(512, 0.5), 0, tokenizer, 0)
    with pytest.raises(UserError, match="has its own filler; leave --haystack out"):
        load_task(f"needle:protocol=passkey_grid,haystack={sources['txt']}")


@pytest.mark.skipif(not PG19.exists(), reason="the books of PG19 are not here")
@pytest.mark.parametrize("style", ["lcbench-tiny", "llama-2"])
def test_pg19(style: str) -> None:
    task, tokenizer = task_of("niah", str(PG19)), build(style)
    for depth in (0.0, 0.5, 1.0):
        example = task.example(Cell(2**14, depth), 0, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == 2**14
        assert example.depth == pytest.approx(depth, abs=0.02)
        before = text_of(tokenizer, example).split("The best thing to do in")[0]
        assert re.search(r"[.!?][\"'\u201d\u2019)\]]* $", before)
