"""Variable tracking: chains of assignments hidden in noise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from string import ascii_uppercase
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from lcbench.core.errors import UserError
from lcbench.tasks.base import Cell, Example
from lcbench.tasks.ruler.base import Ruler, encode_line
from lcbench.tasks.text.running_text import hide, repeated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
LETTERS, EXAMPLE_LETTERS, DIGITS = 5, 3, 5  # per variable, per variable of the example, per value
VALUES = range(10**4, 10**5 - 1)
EXAMPLE_LINES = 10  # of noise in the example: with most tokenizers, RULER's limit of 500 tokens gives this number
EXAMPLE_HOPS = 10  # at most


@dataclass(frozen=True)
class Chain:
    """A value, and the variables that it is assigned to, each from the one before."""

    value: str
    names: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The assignments; all but the first end with a space, as in RULER."""
        later = [f"VAR {name} = VAR {source} \n" for source, name in pairwise(self.names)]
        return [f"VAR {self.names[0]} = {self.value}\n", *later]


@dataclass(frozen=True, kw_only=True)
class VariableTracking(Ruler):
    """RULER's `vt` (variable_tracking.py): `VAR A = 12345`, `VAR B = VAR A`, ... on lines of their own, in order,
    between lines of noise. The answer is all variables with the value of the first of `num_chains` chains, each of
    `num_hops` assignments from variable to variable. One solved example precedes the question.

    RULER's answer prefix said "assgined" until commit 4a216f4 (May 2025): `spelling` is what `{assigned}` in the
    template becomes, by default as in RULER today; `spelling=assgined` compares with numbers of before.

    The length is exact: the last line of noise is cut at its front. Differences from RULER: no value or name occurs
    twice, the example always has ten lines of noise, and the places of its assignments are drawn for every sample.
    """

    family: ClassVar[str] = "ruler_vt"

    num_chains: int = 1
    num_hops: int = 4
    spelling: Literal["assigned", "assgined"] = "assigned"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_chains, self.num_hops) < 1:
            raise UserError(f"{self.name} needs num_chains and num_hops from 1.")

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        shortest = self._shortest(tokenizer)
        if cell.seq_len < shortest:
            raise self._too_short(cell, shortest)
        rng = self.rng(cell, sample, seed)
        values = [str(value) for value in rng.sample(VALUES, 2 * self.num_chains)]
        solved = _chains(rng, values[: self.num_chains], self._example_hops, EXAMPLE_LETTERS)
        chains = _chains(rng, values[self.num_chains :], self.num_hops, LETTERS)
        before, after, answer = self._ask(chains[0])
        head = self.format.start(tokenizer, self._solved(rng, solved) + before)
        tail = self._end_line(tokenizer, after, answer)
        lines = [[encode_line(tokenizer, line) for line in one.lines] for one in chains]
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail) - sum(map(len, chain.from_iterable(lines)))
        noise, ends = repeated(tokenizer, NOISE).cut(space)
        hidden = _spread(rng, lines, ends[:-1])
        first = next(index for index, (_, line) in enumerate(hidden) if line is lines[0][0])
        return Example(
            head=head,
            context=hide(noise, hidden),
            tail=tail,
            references=chains[0].names,
            max_new_tokens=self.max_new_tokens,
            begun=self.format.count_begun(tokenizer, answer),
            seed=self.sample_seed(cell, sample, seed),
            needle_at=len(head) + hidden[first][0] + sum(len(line) for _, line in hidden[:first]),
            needle_tokens=len(lines[0][0]),
        )

    @property
    def _example_hops(self) -> int:
        return min(self.num_hops, EXAMPLE_HOPS)

    def _ask(self, chain: Chain) -> tuple[str, str, str]:
        """The text before the lines, the question after them, which starts on a new line, and the answer prefix."""
        before, after, answer = self._around(query=chain.value, num_v=len(chain.names), assigned=self.spelling)
        return before, after.removeprefix("\n"), answer

    def _solved(self, rng: random.Random, chains: list[Chain]) -> str:
        """The solved example: lines, question and answer."""
        noise = range(max(EXAMPLE_LINES, len(chains[0].names)))
        hidden = _spread(rng, [chain.lines for chain in chains], noise)
        lines = sorted([*hidden, *((place, NOISE + "\n") for place in noise)], key=_place)
        before, after, answer = self._ask(chains[0])
        return f"{before}{''.join(line for _, line in lines)}{after}{answer} {' '.join(chains[0].names)}\n\n"

    def _shortest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """A length in tokens that fits every sample: at most one token per letter and digit of a name or value and one
        before it, and enough lines of noise to give every line of a chain its own place."""
        solved = Chain("", ("",) * (self._example_hops + 1))
        queried = Chain("", ("",) * (self.num_hops + 1))
        before, after, answer = self._ask(queried)
        texts = [
            self.format.start(tokenizer, self._solved(random.Random(0), [solved] * self.num_chains) + before),
            self._end_line(tokenizer, after, answer),
            *(encode_line(tokenizer, line) for line in queried.lines * self.num_chains),
        ]
        said = (self.template + self.answer_prefix).count("{query}")
        values = (2 * said + 2 * self.num_chains) * (DIGITS + 1)
        in_example = self.num_chains * (2 * self._example_hops + 1) + self._example_hops + 1
        names = in_example * (EXAMPLE_LETTERS + 1) + self.num_chains * (2 * self.num_hops + 1) * (LETTERS + 1)
        noise = self.num_hops * len(encode_line(tokenizer, NOISE + "\n")) + 1
        return sum(map(len, texts)) + values + names + noise + self.max_new_tokens


def _chains(rng: random.Random, values: list[str], hops: int, letters: int) -> list[Chain]:
    """One chain per value, with distinct names."""
    names: dict[str, None] = {}
    while len(names) < len(values) * (hops + 1):
        names["".join(rng.choices(ascii_uppercase, k=letters))] = None
    drawn = iter(names)
    return [Chain(value, tuple(islice(drawn, hops + 1))) for value in values]


def _spread(rng: random.Random, chains: Sequence[Sequence[T]], places: Sequence[int]) -> list[tuple[int, T]]:
    """The lines of all chains with their ascending places: each chain in its order, its places distinct."""
    drawn = [
        (place, line)
        for lines in chains
        for place, line in zip(sorted(rng.sample(places, len(lines))), lines, strict=True)
    ]
    return sorted(drawn, key=_place)


def _place(entry: tuple[int, object]) -> int:
    return entry[0]
