"""How a needle test is worded: the needle, the question, and what the haystack is made of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lcbench.core.errors import UserError, unknown
from lcbench.core.tokens import encode_inside, encode_start
from lcbench.tasks.needle.facts import KINDS, how_many
from lcbench.tasks.text.running_text import LINE, RunningText, encode_all, repeated, running_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Wording:
    """The wording of a needle test: `{key}` and `{value}` in the needle, `{keys}` in the question.

    `keys` needles have `values` values each, in a needle of their own; `queries` of the keys are asked for. `key` and
    `value` say what they are drawn from (lcbench/tasks/needle_facts.py). With `score: key_words` an answer is scored by
    the words of the value that it holds, with `values` by the values.

    All texts go on in one line, each behind a space; with a line break as `glue` the instruction and the question have
    lines of their own. With a `line` the haystack is that line again and again, and needles are lines in it; if it says
    `{key}` and `{value}`, both are drawn anew each time, and no key is one that is asked for.
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
            raise UserError("a needle protocol with a `line` writes one, and has a line break as its `glue`.")
        if self.needle.count("{key}") != 1 or self.needle.count("{value}") != 1:
            raise UserError("a needle protocol says {key} and {value} once each in its needle.")
        if "{keys}" not in self.question:
            raise UserError("a needle protocol says {keys} in its question.")
        for kind in (self.key, self.value):
            if kind not in KINDS:
                raise unknown("kind of key or value in a needle protocol:", kind, KINDS)
        if min(self.keys, self.values, self.queries, self.max_new_tokens or 1) < 1 or self.queries > self.keys:
            raise UserError("a needle protocol needs keys, values and queries from 1, and no more queries than keys.")
        if self.keys + (self.line is not None) > how_many(self.key) or self.keys * self.values > how_many(self.value):
            raise UserError(
                f"there are not {self.keys} different keys, with {self.values} values each, of these kinds."
            )

    def ask(self, keys: list[str]) -> str:
        """The question for these keys, listed as RULER lists them: `a, b, and c`."""
        listed = ", ".join(keys[:-1]) + (", and " if keys[1:] else "") + keys[-1]
        return self.question.replace("{keys}", listed)

    def opening(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return encode_start(tokenizer, self.instruction + self.glue.strip(" "))

    def closing(self, tokenizer: PreTrainedTokenizerBase, keys: list[str]) -> list[int]:
        """The question as it stands behind the haystack."""
        if self.line is None:
            return encode_inside(tokenizer, self.glue + self.ask(keys))
        return encode_all(tokenizer, [self.ask(keys)], LINE)[0]

    def state(self, tokenizer: PreTrainedTokenizerBase, key: str, value: str) -> list[int]:
        """A needle as it stands in the haystack: a sentence behind a space, or a line with its line break."""
        needle = _fill(self.needle, key, value)
        if self.line is None:
            return encode_inside(tokenizer, " " + needle)
        return encode_all(tokenizer, [needle + "\n"], LINE)[0]

    def text(self, tokenizer: PreTrainedTokenizerBase, source: str, identity: str, keys: list[str]) -> RunningText:
        """The haystack that a sample of this identity reads, whose needles have these keys: lines, or running text from
        a source."""
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
