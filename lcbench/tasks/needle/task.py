"""Needle in a haystack: sentences hidden in running text, and a question at the end that they answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError, brief, unknown
from lcbench.core.specs import convert_options
from lcbench.core.tokens import encode_inside
from lcbench.metrics.ruler import strings_found
from lcbench.tasks.base import FORMAT, Cell, Example, Task
from lcbench.tasks.needle.facts import draw_distinct, most_tokens
from lcbench.tasks.needle.wording import Wording
from lcbench.tasks.passkey import Passkey
from lcbench.tasks.text.running_text import GENERATED, hide, require_text, too_short

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPARE_TOKENS = 4  # in the answer beyond the value, for an introductory word or two
FILLER_WORDS = {"a", "an", "the", "in", "on", "at", "of", "to", "and", "or", "near", "with", "by", "for", "is"}


@dataclass(frozen=True, kw_only=True)
class Needle(Task):
    """The depth x length grid of G. Kamradt, https://github.com/gkamradt/LLMTest_NeedleInAHaystack, and the variants
    with several needles of RULER (Hsieh et al. 2024, https://arxiv.org/abs/2404.06654).

    The haystack is running text that does not repeat, or lines (`Wording.line`). The needle is inserted at the sentence
    or line end nearest to the depth in tokens. Prompt and answer together are exactly `seq_len` tokens; to reach that,
    the last sentence or line loses tokens at its front. Of several needles, the first queried one is at the depth of
    the cell, the others are at random depths. A protocol that lists `filler` is a passkey test on the same grid
    (`lcbench.tasks.passkey`), whose text repeats.

    Scores: `recall` is the fraction of the key words, or values, that the answer contains, in lower case; `exact` is 1
    if the answer begins with the value word for word or, with several values, contains all of them.
    """

    family: ClassVar[str] = "needle"
    metric: ClassVar[str] = "recall"

    protocols: dict[str, Any]
    protocol: str
    haystack: str = GENERATED

    def __post_init__(self) -> None:
        if self.protocol not in self.protocols:
            raise unknown(f"protocol of {self.name}", self.protocol, self.protocols)
        if self.haystack != GENERATED and (self._is_passkey or "line" in self._given):
            raise UserError(f"protocol {self.protocol} of {self.name} has its own filler; leave --haystack out.")

    def require_data(self) -> None:
        require_text(self.haystack)

    @property
    def wording(self) -> Wording:
        owner, given = f"protocol {self.protocol} of {self.name}", self._given
        values = convert_options(owner, Wording, {key: value for key, value in given.items() if key != "depths"})
        missing = {"source", "instruction", "needle", "question", "key", "value"} - values.keys()
        if missing:
            raise UserError(f"{owner} lacks {', '.join(sorted(missing))}.")
        return Wording(**values)

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """The grid of lengths and depths; depths default to the protocol's, and without those each sample draws its
        own."""
        grid: list[float] | list[None] = depths or self._depths or [None]
        return [Cell(seq_len, depth) for seq_len in seq_lens for depth in grid]

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        if self._is_passkey:
            return self._passkey.example(cell, sample, tokenizer, seed)
        wording, rng = self.wording, self.rng(cell, sample, seed)
        shortest = self._shortest(tokenizer)
        if cell.seq_len < shortest:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens, even with hardly any text; "
                f"use --seq-len {shortest} or more."
            )
        keys = draw_distinct(rng, wording.key, wording.keys)
        drawn = iter(draw_distinct(rng, wording.value, wording.keys * wording.values))
        facts = {key: [next(drawn) for _ in range(wording.values)] for key in keys}
        queried = keys[: wording.queries]
        answers = tuple(value for key in queried for value in facts[key])

        head = wording.opening(self.format, tokenizer)
        asked = rng.sample(queried, len(queried))
        tail = wording.closing(self.format, tokenizer, asked)
        needles = [wording.state(tokenizer, key, value) for key in keys for value in facts[key]]
        budget = wording.max_new_tokens or len(encode_inside(tokenizer, " " + ", ".join(answers))) + SPARE_TOKENS
        space = cell.seq_len - len(head) - len(tail) - sum(map(len, needles)) - budget
        text = wording.text(tokenizer, self.haystack, f"{self.name}|haystack|{sample}|{seed}", keys)
        if text.reach(space) < space:
            raise too_short(self.haystack, text.reach(space), space)
        hay, ends = text.cut(space)
        places = [rng.choice(ends) for _ in needles]
        if cell.depth is not None:
            places[0] = nearest(ends, cell.depth * space)
        order = sorted(range(len(needles)), key=lambda index: places[index])
        return Example(
            head=head,
            context=hide(hay, [(places[index], needles[index]) for index in order]),
            tail=tail,
            references=answers,
            max_new_tokens=budget,
            seed=self.sample_seed(cell, sample, seed),
            depth=places[0] / space,
            begun=wording.begun(self.format, tokenizer, asked),
            needle_at=len(head) + places[0] + sum(len(needles[index]) for index in order[: order.index(0)]),
            needle_tokens=len(needles[0]),
        )

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """The haystack of a sample begins with the same text at every length and depth."""
        return self._passkey.shares(cell, sample) if self._is_passkey else sample

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        if self._is_passkey:
            right = self._passkey.score(example, prediction)[Passkey.metric]
            return {"recall": right, "exact": right}
        if self.wording.score == "key_words":
            value = _words(example.references[0])
            key_words, spoken = set(value) - FILLER_WORDS, _words(prediction.lower())
            recall = len(key_words.intersection(spoken)) / len(key_words)
            return {"recall": recall, "exact": float(spoken[: len(value)] == value)}
        recall = sum(strings_found(prediction, example.references)) / len(example.references)
        return {"recall": recall, "exact": float(recall == 1)}

    @property
    def _given(self) -> dict[str, Any]:
        given = self.protocols[self.protocol]
        if not isinstance(given, dict):
            raise UserError(f"protocol {self.protocol} of {self.name} must be a mapping, not {brief(given)}.")
        return given

    @property
    def _depths(self) -> list[float]:
        owner = f"protocol {self.protocol} of {self.name}"
        depths = convert_options(owner, _Grid, {"depths": self._given.get("depths", [])})["depths"]
        if not all(0 <= depth <= 1 for depth in depths):
            raise UserError(f"{owner}: depths are numbers from 0 to 1, not {list(depths)}.")
        return list(depths)

    @property
    def _is_passkey(self) -> bool:
        return "filler" in self._given

    @property
    def _passkey(self) -> Passkey:
        given = {key: value for key, value in self._given.items() if key != "depths"}
        format_ = {name: getattr(self, name) for name in FORMAT}
        return Passkey(name=self.name, protocols={self.protocol: given}, protocol=self.protocol, **format_)

    def _shortest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """A length in tokens that fits every sample: the longest possible keys and values, and one token of
        haystack."""
        wording = self.wording
        key, value = most_tokens(tokenizer, wording.key), most_tokens(tokenizer, wording.value)
        needle = len(wording.state(tokenizer, "", "")) + key + value
        question = len(wording.closing(self.format, tokenizer, [""] * wording.queries))
        question += wording.question.count("{keys}") * wording.queries * key
        answer = wording.queries * wording.values * (value + 1) + SPARE_TOKENS
        return (
            len(wording.opening(self.format, tokenizer))
            + wording.keys * wording.values * needle
            + question
            + (wording.max_new_tokens or answer)
            + 1
        )


@dataclass(frozen=True)
class _Grid:
    """The depths in a protocol."""

    depths: tuple[float, ...]


def nearest(ends: list[int], target: float) -> int:
    """The element of an ascending list that is nearest to a target; the smaller of two equally near."""
    index = min(bisect_left(ends, target), len(ends) - 1)
    return min(ends[max(index - 1, 0) : index + 1], key=lambda end: abs(end - target))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
