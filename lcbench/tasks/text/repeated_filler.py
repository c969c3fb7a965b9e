"""Repeated filler as tokens, by sentence, so that a needle stands at a sentence end and the total length is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from lcbench.core.tokens import encode_inside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Haystack:
    """A cycle of sentences, each tokenised once.

    A text of `n` tokens is the last n tokens of the repeated cycle: it may start within a sentence, and always ends
    with a whole one.
    """

    spaced: tuple[list[int], ...]  # token ids of each sentence after another one: " The sky is blue."
    bare: tuple[list[int], ...]  # the same at the start of a line: "The sky is blue."

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> Haystack:
        line_break = encode_inside(tokenizer, "\n")

        def bare(sentence: str) -> list[int]:
            ids = encode_inside(tokenizer, "\n" + sentence)
            if ids[: len(line_break)] == line_break:
                return ids[len(line_break) :]
            return encode_inside(tokenizer, sentence)  # one token spans the line break and the following text

        return cls(
            tuple(encode_inside(tokenizer, " " + sentence) for sentence in sentences),
            tuple(bare(sentence) for sentence in sentences),
        )

    def places(self, n: int) -> int:
        """The number of places for a needle in a text of n tokens: before each whole sentence, and after the last."""
        rounds, rest = divmod(n, self._round[-1])
        whole = rounds * len(self.spaced) + sum(length <= rest for length in self._round)
        if len(self._last(whole)) > n:  # a sentence may take more tokens at the start of a line
            whole -= 1
        return whole + 1

    def split(self, n: int, place: int) -> tuple[list[int], list[int]]:
        """The text of n tokens, split at a place (0: before the first whole sentence, places(n) - 1: after the last)
        into the token ids before and after a needle that is a line of its own."""
        sentences_after = self.places(n) - 1 - place
        after = self._last(sentences_after)
        return self._before(n - len(after), sentences_after), after

    def _last(self, sentences: int) -> list[int]:
        """Token ids of the last `sentences` sentences, the first of them at the start of a line."""
        count = len(self.spaced)
        return [
            token
            for k in range(sentences, 0, -1)
            for token in (self.bare if k == sentences else self.spaced)[-1 - (k - 1) % count]
        ]

    def _before(self, n: int, sentences: int) -> list[int]:
        """The n token ids before the last `sentences` sentences."""
        if n <= 0:
            return []
        turn = len(self.spaced) - sentences % len(self.spaced)
        unit = [token for sentence in self.spaced[turn:] + self.spaced[:turn] for token in sentence]
        return (unit * -(-n // len(unit)))[-n:]

    @cached_property
    def _round(self) -> list[int]:
        """Number of tokens of the last 1, 2, ... sentences of one cycle."""
        return list(accumulate(len(sentence) for sentence in reversed(self.spaced)))
