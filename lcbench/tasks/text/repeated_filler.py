"""Filler text as tokens, laid out by sentence, so that a needle lands at a sentence end and the total is exact."""

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
    """Sentences repeated in their order, tokenised once each.

    The text of `n` tokens is the last n of an endless repetition that ends with a whole sentence: it may start in the
    middle of one, and never stops in one.
    """

    spaced: tuple[list[int], ...]  # each sentence behind another one: " The sky is blue."
    bare: tuple[list[int], ...]  # and at the start of a line: "The sky is blue."

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> Haystack:
        line_break = encode_inside(tokenizer, "\n")

        def bare(sentence: str) -> list[int]:
            ids = encode_inside(tokenizer, "\n" + sentence)
            if ids[: len(line_break)] == line_break:
                return ids[len(line_break) :]
            return encode_inside(tokenizer, sentence)  # one token holds the line break and what follows

        return cls(
            tuple(encode_inside(tokenizer, " " + sentence) for sentence in sentences),
            tuple(bare(sentence) for sentence in sentences),
        )

    def places(self, n: int) -> int:
        """How many places for a needle a text of n tokens has: before each whole sentence, and after the last."""
        rounds, rest = divmod(n, self._round[-1])
        whole = rounds * len(self.spaced) + sum(length <= rest for length in self._round)
        if len(self._last(whole)) > n:  # the first one takes more tokens at the start of a line
            whole -= 1
        return whole + 1

    def split(self, n: int, place: int) -> tuple[list[int], list[int]]:
        """The text of n tokens, cut at a place (0: before the first whole sentence, places(n) - 1: after the last)
        for a line of its own: the tokens before it and those after, n together."""
        behind = self.places(n) - 1 - place
        after = self._last(behind)
        return self._before(n - len(after), behind), after

    def _last(self, sentences: int) -> list[int]:
        """The last so many sentences, the first of them at the start of a line."""
        count = len(self.spaced)
        return [
            token
            for k in range(sentences, 0, -1)
            for token in (self.bare if k == sentences else self.spaced)[-1 - (k - 1) % count]
        ]

    def _before(self, n: int, sentences: int) -> list[int]:
        """The n tokens that end where the last so many sentences begin."""
        if n <= 0:
            return []
        turn = len(self.spaced) - sentences % len(self.spaced)
        unit = [token for sentence in self.spaced[turn:] + self.spaced[:turn] for token in sentence]
        return (unit * -(-n // len(unit)))[-n:]

    @cached_property
    def _round(self) -> list[int]:
        """Tokens of the last 1, 2, ... sentences of one repetition."""
        return list(accumulate(len(sentence) for sentence in reversed(self.spaced)))
