"""Haystacks as tokens by sentence or line: generated books, the user's own books and essays, or lines.

The text of a sample is decided by its number alone and begins the same at every length and depth, so that prompts with
deeper needles share the tokens before shallower ones. No sentence of a file occurs twice in a prompt.

A sentence includes the space before it, if its script has one; a line includes its line break, so that a tokenizer may
merge it with the full stop.
"""

from __future__ import annotations

import random
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, repeat
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError
from lcbench.core.tokens import ANCHORS, OPEN, as_text, encode_inside
from lcbench.data.texts import read_texts
from lcbench.tasks.text.books import HELD_OUT_SEEDS, Book

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATED = "books"  # generated books: need no file, and never end
BOOK_SENTENCES = 500  # of each generated book
BATCH = 512  # sentences per call of the tokenizer
SENTENCE, LINE = ANCHORS[0], "\n"  # text before a sentence (with a space), and before a line
# A full stop, with the quotes and brackets after it, ends a sentence unless it belongs to a title or an initial; in
# Chinese and Japanese no space follows it.
STOPS, WIDE_STOPS = ".!?\u0964\u061f\u06d4", "\u3002\uff01\uff1f\uff61"
CLOSERS, WIDE_CLOSERS = "\"'\u201d\u2019)\\]", "\u201d\u2019\u300d\u300f\uff09\u300b\u3011"
SENTENCE_END = re.compile(
    rf"(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St)\.)(?<!\bMrs\.)(?<=[{STOPS}{WIDE_STOPS}{CLOSERS}{WIDE_CLOSERS}])(?= [^a-z])"
    rf"|(?<=[{WIDE_STOPS}])(?![ {WIDE_STOPS}{WIDE_CLOSERS}])"
    rf"|(?<=[{WIDE_STOPS}][{WIDE_CLOSERS}])(?![ {WIDE_CLOSERS}])"
)
CLOSED = re.compile(rf"[{STOPS}{WIDE_STOPS}][{CLOSERS}{WIDE_CLOSERS}]*$")
WIDE = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")  # a character with no space before it


class RunningText:
    """Sentences (or lines, with `anchor` LINE), tokenised lazily, as far as prompts have needed them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sentences: Iterator[str], anchor: str = SENTENCE) -> None:
        self._tokenizer, self._sentences, self._anchor = tokenizer, sentences, anchor
        self._tokens, self._ends = array("I"), array("Q")

    def reach(self, n: int) -> int:
        """Tokenise until at least n tokens are available or the text ends; the number of available tokens."""
        while len(self._tokens) < n:
            batch = list(islice(self._sentences, BATCH))
            if not batch:
                break
            for ids in encode_all(self._tokenizer, batch, self._anchor):
                self._tokens.extend(ids)
                self._ends.append(len(self._tokens))
        return len(self._tokens)

    def cut(self, n: int) -> tuple[list[int], list[int]]:
        """The first n token ids, and the ascending offsets of sentence ends in them, with 0 and n.

        The last sentence is cut at its front where it does not fit, so that no text ends within a sentence, and longer
        texts begin with the sentences of shorter ones. Raises: ValueError if the text has fewer than n tokens.
        """
        if self.reach(n) < n:
            raise ValueError(f"{n} tokens of a text of {len(self._tokens)}")
        whole = bisect_right(self._ends, n)
        ends = [0, *self._ends[:whole]]
        if ends[-1] == n:
            return self._tokens[:n].tolist(), ends
        last_end = self._ends[whole]
        rest = n - ends[-1]
        tokens = self._tokens[: ends[-1]] + self._tokens[last_end - rest : last_end]
        return tokens.tolist(), [*ends, n]


@lru_cache(maxsize=64)
def running_text(tokenizer: PreTrainedTokenizerBase, source: str, identity: str) -> RunningText:
    """The haystack of the sample with this identity. `source` is `books` for generated books, else a source for
    `lcbench.data.texts.read_texts`: a .txt file, a folder, JSONL or parquet with a column `text`, a data set.

    Raises: UserError for a source that cannot be read.
    """
    rng = random.Random(identity)
    return RunningText(tokenizer, _generated(rng) if source == GENERATED else _written(source, rng))


def require_text(source: str) -> None:
    """Open a source. Raises: UserError for a source that cannot be read."""
    if source != GENERATED:
        _texts(source)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with one space before it (none in Chinese and Japanese); line breaks and runs of
    spaces become one space.

    Text without a full stop (a heading, a table of contents) belongs to the sentence after it; at the end of the text
    it is dropped.
    """
    line = " ".join(text.split())
    if not WIDE.match(line):
        line = f" {line}"
    sentences: list[str] = []
    start = 0
    for stop in [*(found.start() for found in SENTENCE_END.finditer(line)), len(line)]:
        if CLOSED.search(line, start, stop):
            sentences.append(line[start:stop])
            start = stop
    return sentences


def _generated(rng: random.Random) -> Iterator[str]:
    """Books that no reference model was trained on, one after another."""
    first = rng.randrange(len(HELD_OUT_SEEDS))
    for number in range(len(HELD_OUT_SEEDS)):
        book = Book(HELD_OUT_SEEDS[(first + number) % len(HELD_OUT_SEEDS)])
        yield from (book.sentence() for _ in range(BOOK_SENTENCES))


def _written(source: str, rng: random.Random) -> Iterator[str]:
    """The sentences of a source in cyclic order, from a random one up to the one before it."""
    count = len(_texts(source))
    first = rng.randrange(count)
    opening = _sentences(source, first)
    start = int(rng.random() * len(opening))
    yield from opening[start:]
    for number in range(1, count):
        yield from _sentences(source, (first + number) % count)
    yield from opening[:start]


@lru_cache(maxsize=4)
def _texts(source: str) -> Sequence[str]:
    return read_texts(source)


@lru_cache(maxsize=64)
def _sentences(source: str, number: int) -> list[str]:
    return split_sentences(_texts(source)[number])


def too_short(source: str, has: int, needs: int) -> UserError:
    """The error for a haystack that is shorter than the prompt: it is never repeated. `has` and `needs` are in
    tokens."""
    return UserError(
        f"the haystack {source} has {has:,} tokens in whole sentences, and the prompt needs {needs:,}; "
        f"give more text, a shorter --seq-len, or no --haystack for generated books."
    )


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], anchor: str) -> list[list[int]]:
    """Token ids of each text inside a prompt, after `anchor` (SENTENCE or LINE), in one call of the tokenizer. The
    texts are data: control tokens that they spell out are tokenised as text."""
    texts = as_text(tokenizer, list(texts))
    before, *ids = tokenizer([anchor, *(anchor + text for text in texts)], add_special_tokens=False).input_ids
    size = len(before)
    return [
        encoded[size:] if encoded[:size] == before and OPEN not in text else encode_inside(tokenizer, text)
        for encoded, text in zip(ids, texts, strict=True)
    ]


@lru_cache(maxsize=8)
def repeated(tokenizer: PreTrainedTokenizerBase, line: str) -> RunningText:
    """One line, repeated without end."""
    return RunningText(tokenizer, repeat(line + "\n"), LINE)


def hide(text: list[int], needles: Sequence[tuple[int, list[int]]]) -> list[int]:
    """The token ids with needles inserted at these ascending offsets."""
    hidden: list[int] = []
    begin = 0
    for place, needle in needles:
        hidden += text[begin:place] + needle
        begin = place
    return hidden + text[begin:]
