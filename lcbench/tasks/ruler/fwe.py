"""Frequent words extraction: a text of coded words whose frequencies follow Zipf's law."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside
from lcbench.tasks.base import Cell, Example
from lcbench.tasks.ruler.base import Ruler
from lcbench.tasks.text.running_text import SENTENCE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUERIED = 3  # number of words in the answer: the most frequent ones after the dots
DOTS = " ..."
LETTERS = 6  # per coded word
TOKENS_PER_WORD = 50  # of the whole length, per distinct word


@dataclass(frozen=True, kw_only=True)
class FrequentWords(Ruler):
    """RULER's `fwe` (freq_words_extraction.py): the word of rank k occurs floor(n / k^alpha) times, and all are
    shuffled; rank 1 are dots, to be ignored, and the answer is the next three. There is one distinct word per 50 tokens
    of the length.

    The length is exact: n is the largest that fits, and the remainder is more dots. RULER gives n as a number of words
    divided by zeta(alpha), raised in large steps, and left the answer out of the length until 9f1c84d (June 2025).
    """

    family: ClassVar[str] = "ruler_fwe"

    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.alpha <= 4:
            raise UserError(f"{self.name} needs an alpha above 1 and up to 4, not {self.alpha:g}.")

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        shortest = self._shortest(tokenizer)
        if cell.seq_len < shortest:
            raise self._too_short(cell, shortest)
        rng = self.rng(cell, sample, seed)
        words = _coded(rng, cell.seq_len // TOKENS_PER_WORD - 1)
        before, after, answer = self._around()
        head = self.format.start(tokenizer, before.removesuffix(" "))
        tail = self.format.end(tokenizer, after, answer)
        ranked = encode_all(tokenizer, [DOTS, *(f" {word}" for word in words)], SENTENCE)
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail)
        sizes = [len(ids) for ids in ranked]
        counts = self._fitting(sizes, space)
        dots, rest = divmod(space - _tokens(counts, sizes), sizes[0])
        text = [ids for ids, count in zip(ranked, counts, strict=True) for _ in range(count)] + [ranked[0]] * dots
        rng.shuffle(text)
        return Example(
            head=head,
            context=ranked[0][sizes[0] - rest :] + [token for ids in text for token in ids],
            tail=tail,
            references=tuple(words[:QUERIED]),
            max_new_tokens=self.max_new_tokens,
            begun=self.format.count_begun(tokenizer, answer),
            seed=self.sample_seed(cell, sample, seed),
        )

    def _counts(self, n: int, ranks: int) -> list[int]:
        """Occurrences of ranks 1 to `ranks`; rank 1 occurs n times."""
        return [int(n / math.pow(rank, self.alpha)) for rank in range(1, ranks + 1)]

    def _fitting(self, sizes: list[int], space: int) -> list[int]:
        """The counts with the largest n that fits `space` tokens, for words of these sizes in tokens."""
        candidates = range(space // sizes[0] + 1)
        n = bisect_right(candidates, space, key=lambda n: _tokens(self._counts(n, len(sizes)), sizes)) - 1
        return self._counts(n, len(sizes))

    def _shortest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """A length at which the last word of the answer is more frequent than the next one, if every letter and space
        takes a token of its own, which is the worst case."""
        last = QUERIED + 1
        n = math.ceil(
            1 / (math.pow(last, -self.alpha) - math.pow(last + 1, -self.alpha))
        )  # from here on, the floors differ as well
        counts = self._counts(n, n)
        before, after, answer = self._around()
        around = self.format.start(tokenizer, before) + self.format.end(tokenizer, after, answer)
        fixed = len(around) + self.max_new_tokens
        words = n * len(encode_inside(tokenizer, DOTS)) + sum(counts[1:]) * (LETTERS + 1)
        return max(fixed + words, (last + 1) * TOKENS_PER_WORD)


def _tokens(counts: list[int], sizes: list[int]) -> int:
    return sum(count * size for count, size in zip(counts, sizes, strict=True))


def _coded(rng: random.Random, count: int) -> list[str]:
    """`count` distinct words of random letters."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(ascii_lowercase, k=LETTERS))] = None
    return list(words)
