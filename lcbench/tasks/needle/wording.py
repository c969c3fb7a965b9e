"""The wording of a needle test: the needle, the question, and lines of the haystack."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lcbench.core.errors import UserError, unknown
from lcbench.core.tokens import as_text, encode_inside
from lcbench.tasks.format import PromptFormat, begun_answer
from lcbench.tasks.needle.facts import KINDS, how_many
from lcbench.tasks.text.running_text import LINE, RunningText, encode_all, repeated, running_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Wording:
    """The wording of a needle test: `{key}` and `{value}` in the needle, `{keys}` in the question.

    There are `keys` keys with `values` values each, one needle per value; the question names `queries` of the keys.
    `key` and `value` name the kinds that they are drawn from (`KINDS` in lcbench/tasks/needle/facts.py). With
    `score: key_words` an answer is scored by the words of the value that it contains, with `values` by whole values.

    Instruction, haystack and question are one line, separated by spaces; with a line break as `glue` the instruction
    and the question are separate lines. With a `line` the haystack is that line repeated, and each needle is a line; if
    it contains `{key}` and `{value}`, both are drawn for every line, and never the key of a needle.
    """

    source: str
    instruction: str
    needle: str
    question: str
    key: str
    value: str
    keys: int = 1
    values: int = 1
    queries: int = 1
    score: Literal["key_words", "values"] = "values"
    max_new_tokens: int | None = None
    glue: Literal[" ", "\n"] = " "
    line: str | None = None

    def __post_init__(self) -> None:
        if self.line is not None and not (self.line.strip() and self.glue == "\n"):
            raise UserError("a needle protocol with a `line` needs a line break as its `glue`.")
        if self.needle.count("{key}") != 1 or self.needle.count("{value}") != 1:
            raise UserError("the needle of a needle protocol must contain {key} and {value} once each.")
        if "{keys}" not in self.question:
            raise UserError("the question of a needle protocol must contain {keys}.")
        for kind in (self.key, self.value):
            if kind not in KINDS:
                raise unknown("kind of key or value in a needle protocol:", kind, KINDS)
        if min(self.keys, self.values, self.queries, self.max_new_tokens or 1) < 1 or self.queries > self.keys:
            raise UserError(
                "a needle protocol needs at least 1 of keys, values and queries, and no more queries than keys."
            )
        if self.keys + (self.line is not None) > how_many(self.key) or self.keys * self.values > how_many(self.value):
            raise UserError(
                f"there are not {self.keys} different keys, with {self.values} values each, of these kinds."
            )

    def ask(self, keys: list[str]) -> str:
        """The question for these keys, listed as in RULER: `a, b, and c`."""
        listed = ", ".join(keys[:-1]) + (", and " if keys[1:] else "") + keys[-1]
        return self.question.replace("{keys}", listed)

    def opening(self, format_: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return format_.start(tokenizer, self.instruction + self.glue.strip(" "))

    def closing(self, format_: PromptFormat, tokenizer: PreTrainedTokenizerBase, keys: list[str]) -> list[int]:
        """Token ids of the question after the haystack."""
        if self.line is None:
            return format_.end(tokenizer, *begun_answer(self.glue + self.ask(keys)))
        return format_.end(tokenizer, *begun_answer(as_text(tokenizer, self.ask(keys))), line=True)

    def begun(self, format_: PromptFormat, tokenizer: PreTrainedTokenizerBase, keys: list[str]) -> int:
        """How many tokens at the end of `closing` begin the answer."""
        return format_.count_begun(tokenizer, begun_answer(self.ask(keys))[1])

    def state(self, tokenizer: PreTrainedTokenizerBase, key: str, value: str) -> list[int]:
        """Token ids of a needle in the haystack: a sentence after a space, or a line with its line break."""
        needle = _fill(self.needle, key, value)
        if self.line is None:
            return encode_inside(tokenizer, " " + needle)
        return encode_all(tokenizer, [needle + "\n"], LINE)[0]

    def text(self, tokenizer: PreTrainedTokenizerBase, source: str, identity: str, keys: list[str]) -> RunningText:
        """The haystack of a sample, determined by `identity`: lines without the needles' `keys`, or running text from a
        source."""
        if self.line is None:
            return running_text(tokenizer, source, identity)
        if _fill(self.line, "", "") == self.line:
            return repeated(tokenizer, self.line)
        return RunningText(tokenizer, self._drawn(self.line, random.Random(identity), set(keys)), LINE)

    def _drawn(self, line: str, rng: random.Random, keys: set[str]) -> Iterator[str]:
        while True:
            key, value = KINDS[self.key].draw(rng), KINDS[self.value].draw(rng)
            if key not in keys:
                yield _fill(line, key, value) + "\n"


def _fill(text: str, key: str, value: str) -> str:
    return text.replace("{key}", key).replace("{value}", value)
