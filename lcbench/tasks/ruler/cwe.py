"""Common words extraction: a numbered list in which ten words are more frequent than the rest."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside
from lcbench.tasks.base import Cell, Example
from lcbench.tasks.needle.facts import KINDS
from lcbench.tasks.ruler.base import Ruler, encode_line
from lcbench.tasks.text.running_text import LINE, SENTENCE, encode_all
from lcbench.tasks.text.words import all_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG = 4096  # tokens: from this length on, RULER uses the configured frequencies
BLOCK = 1024  # numbers per call of the tokenizer


@dataclass(frozen=True)
class Frequencies:
    """Occurrences of common and other words in the list, and in the solved example, which has `words` distinct
    words."""

    common: int
    other: int
    words: int
    example_common: int
    example_other: int


@dataclass(frozen=True, kw_only=True)
class CommonWords(Ruler):
    """RULER's `cwe` (common_words_extraction.py): a numbered list, shuffled, of `num_cw` common words, each `freq_cw`
    times, and as many others as fit, each `freq_ucw` times; before it one solved example with 40 words (10 and 3
    times). Below 4,096 tokens the frequencies are 6 and 1, and the example has 20 words (3 times and once), as in
    RULER.

    The length is exact: the last of the other words may occur less often, and the remainder, less than an entry, is
    blank lines before the list. Words are those of RULER's package `wonderwords` (8,047). Where they do not suffice
    (beyond some 120k tokens), further words are pairs of an adjective and a noun; RULER uses another list there. The
    example shares no word with the list.
    """

    family: ClassVar[str] = "ruler_cwe"

    freq_cw: int = 30
    freq_ucw: int = 3
    num_cw: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.freq_ucw < self.freq_cw or not 1 <= self.num_cw <= 20:
            raise UserError(f"{self.name} needs freq_cw above freq_ucw, freq_ucw from 1, and num_cw from 1 to 20.")

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        shortest = self._shortest(tokenizer, cell.seq_len)
        if cell.seq_len < shortest:
            raise self._too_short(cell, shortest)
        rng, often = self.rng(cell, sample, seed), self._frequencies(cell.seq_len)
        before, after, answer = self._around()
        tail, known = self.format.end(tokenizer, after, answer), word_tokens(tokenizer)
        least = _numbering(tokenizer, self.num_cw * often.common)
        while True:  # `shortest` assumes words of mean size, so about every other draw fits at that length
            words = rng.sample(all_words(), len(all_words()))
            shown, common, others = words[: often.words], words[often.words :][: self.num_cw], words[often.words :]
            head = self.format.start(tokenizer, self._solved(rng, shown, often) + before)
            space = cell.seq_len - self.max_new_tokens - len(head) - len(tail)
            if least + often.common * sum(len(known[word]) for word in common) <= space:
                break
        entries = [known[word] for word in common for _ in range(often.common)]
        left = space - least - sum(map(len, entries))
        for ids in _others(tokenizer, rng, others[self.num_cw :], often.other):
            size = len(number(tokenizer, len(entries) + 1)) + len(ids)
            if size > left:
                break
            entries.append(ids)
            left -= size
        rng.shuffle(entries)
        blank = encode_line(tokenizer, "\n")
        return Example(
            head=head,
            context=(blank * left)[:left]
            + [token for place, ids in enumerate(entries, start=1) for token in number(tokenizer, place) + ids],
            tail=tail,
            references=tuple(common),
            max_new_tokens=self.max_new_tokens,
            begun=self.format.count_begun(tokenizer, answer),
            seed=self.sample_seed(cell, sample, seed),
        )

    def _frequencies(self, seq_len: int) -> Frequencies:
        if seq_len < LONG:
            return Frequencies(6, 1, words=20, example_common=3, example_other=1)
        return Frequencies(self.freq_cw, self.freq_ucw, words=40, example_common=10, example_other=3)

    def _solved(self, rng: random.Random, words: list[str], often: Frequencies) -> str:
        common = words[: self.num_cw]
        listed = common * often.example_common + words[self.num_cw :] * often.example_other
        before, after, answer = self._around()
        return f"{before}{_numbered(rng.sample(listed, len(listed)))}{after}{answer} {_numbered(common)}\n"

    def _shortest(self, tokenizer: PreTrainedTokenizerBase, seq_len: int) -> int:
        """The length in tokens at which words of mean size fit, with the frequencies of `seq_len`."""
        often, known = self._frequencies(seq_len), word_tokens(tokenizer)
        mean = sum(map(len, known.values())) / len(known)
        before, after, answer = self._around()
        others = (often.words - self.num_cw) * often.example_other
        example = self.num_cw * often.example_common + others
        listed = self.num_cw * often.common
        head = self.format.start(tokenizer, before + after + answer)
        texts = head, self.format.end(tokenizer, "\n" + before + after, answer)
        words = math.ceil(mean * (example + self.num_cw + listed))
        numbers = sum(_numbering(tokenizer, count) for count in (example, self.num_cw, listed))
        return sum(map(len, texts)) + words + numbers + self.max_new_tokens


def _others(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, words: list[str], often: int
) -> Iterator[list[int]]:
    """Token ids of entries without their numbers: each word `often` times, then pairs of words, no pair twice."""
    for word in words:
        yield from [word_tokens(tokenizer)[word]] * often
    drawn: set[str] = set()
    while True:
        pair = KINDS["words"].draw(rng)
        if pair not in drawn:
            drawn.add(pair)
            yield from [encode_inside(tokenizer, f" {pair}")] * often


def _numbered(words: list[str]) -> str:
    return " ".join(f"{place}. {word}" for place, word in enumerate(words, start=1))


def number(tokenizer: PreTrainedTokenizerBase, place: int) -> list[int]:
    """Token ids of the number before an entry, from 1 on; `1.` begins the line."""
    block, index = divmod(place - 1, BLOCK)
    return _number_block(tokenizer, block)[index]


def _numbering(tokenizer: PreTrainedTokenizerBase, count: int) -> int:
    """Number of tokens of the first `count` entry numbers."""
    return sum(len(number(tokenizer, place)) for place in range(1, count + 1))


@lru_cache(maxsize=2048)
def _number_block(tokenizer: PreTrainedTokenizerBase, block: int) -> list[list[int]]:
    first = block * BLOCK + 1
    numbers = encode_all(tokenizer, [f" {place}." for place in range(first, first + BLOCK)], SENTENCE)
    return [encode_all(tokenizer, ["1."], LINE)[0], *numbers[1:]] if block == 0 else numbers


@lru_cache(maxsize=8)
def word_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Token ids of every word, after a space."""
    words = all_words()
    return dict(zip(words, encode_all(tokenizer, [f" {word}" for word in words], SENTENCE), strict=True))
