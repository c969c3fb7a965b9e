"""Demonstrations for in-context learning: rows rendered as text, and as parts of a prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lcbench.core.tokens import as_text, encode_inside
from lcbench.tasks.format import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Shot:
    """A row rendered as text in three parts: `question`, the text before the label without trailing spaces; `lead`, the
    spaces before the label; `after`, the separator before the next demonstration. `references` are all of its labels,
    as words."""

    id: str
    question: str
    lead: str
    references: tuple[str, ...]
    after: str

    @property
    def text(self) -> str:
        return f"{self.question}{self.lead}{self.references[0]}"


class Shots:
    """The rendered rows of a split by number, and the problems of the others. Hashed by identity, so that the tokens of
    an object are cached."""

    def __init__(self, shots: dict[int, Shot], problems: dict[int, str]) -> None:
        """All rows have the same `lead` and `after`."""
        self.shots, self.problems = shots, problems
        first = next(iter(shots.values()))
        self.lead, self.after = first.lead, first.after
        last_lines = {shot.question[shot.question.rfind("\n") :] for shot in shots.values()}
        self.answer = last_lines.pop() if len(last_lines) == 1 and len(shots) > 1 and "\n" in first.question else ""

    def __len__(self) -> int:
        return len(self.shots) + len(self.problems)

    @property
    def labels(self) -> set[str]:
        return {label for shot in self.shots.values() for label in shot.references}

    def order(self, rng: random.Random, balance: str) -> list[int]:
        """Indices of all rows in a random order. With balance="balanced", rounds with one row of each label that still
        has unused rows."""
        order = rng.sample(range(len(self.shots)), len(self.shots))
        if balance == "random":
            return order
        by_label: dict[str, list[int]] = {}
        for number in order:
            by_label.setdefault(self.shots[number].references[0], []).append(number)
        rounds: dict[int, list[int]] = {}
        for members in by_label.values():
            for turn, number in enumerate(members):
                rounds.setdefault(turn, []).append(number)
        return [number for turn in range(len(rounds)) for number in rng.sample(rounds[turn], len(rounds[turn]))]


@dataclass(frozen=True)
class Layout:
    """How demonstrations of a `pool`, a question and its label become parts of a prompt.

    Without `turns`, they are concatenated, each tokenised together with the separator before it, where tokenizers begin
    a new word: so every label, and the final answer, has the same tokens before and after; in a chat all are one
    message. With `turns` (`PromptFormat.turns`) every question is a user message, and every label an answer. The last
    line before a label, if it is the same for all rows (`Type:`), is the answer prefix.
    """

    format: PromptFormat
    pool: Shots
    turns: tuple[str, str, str, str] | None = None

    def demonstration(self, tokenizer: PreTrainedTokenizerBase, shot: Shot, *, first: bool) -> list[int]:
        """Token ids of a demonstration: of the `first` one with all that stands before it."""
        if self.turns is None:
            if first:
                return self.format.start(tokenizer, as_text(tokenizer, shot.text))
            return encode_inside(tokenizer, as_text(tokenizer, self.pool.after + shot.text))
        before, between, after, _ = self.turns
        asked, answer = self._split(shot)
        said = as_text(tokenizer, [asked.strip(), f"{answer.lstrip()}{shot.lead}{shot.references[0]}".lstrip()])
        turn = between.join(said)
        if first:
            return self.format.encode_chat(tokenizer, before + turn)
        return encode_inside(tokenizer, after + turn)

    def question(self, tokenizer: PreTrainedTokenizerBase, shot: Shot) -> list[int]:
        """Token ids of a question after a demonstration, to the end of the prompt."""
        asked, answer = as_text(tokenizer, self._split(shot))
        if self.turns is None:
            return self.format.end(tokenizer, self.pool.after + asked, answer)
        _, _, after, last = self.turns
        answer = self.format.begun(tokenizer, answer)
        return self.format.joined(tokenizer, after + asked.strip() + last, answer)

    def label(self, tokenizer: PreTrainedTokenizerBase, label: str, *, ended: bool) -> list[int]:
        """Token ids of a label after a question; if `ended`, with the separator after it."""
        text, end = self.pool.lead + label, self.pool.after if ended else ""
        if self.format.in_chat(tokenizer):
            text = text if self.pool.answer else self.format.begun(tokenizer, text)
            end = self.format.after_answer(tokenizer) if ended else ""
        return encode_inside(tokenizer, as_text(tokenizer, text) + end)

    def _split(self, shot: Shot) -> tuple[str, str]:
        answer = self.pool.answer if shot.question.endswith(self.pool.answer) else ""
        return shot.question.removesuffix(answer), answer


@lru_cache(maxsize=8)
def filled(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, seed: int, balance: str, space: int
) -> tuple[tuple[int, ...], int]:
    """Token ids of demonstrations in the order of a draw until the next one would exceed `space` tokens, and their
    count."""
    tokens: list[int] = []
    order = layout.pool.order(random.Random(seed), balance)
    for count, number in enumerate(order):
        more = layout.demonstration(tokenizer, layout.pool.shots[number], first=not count)
        if len(tokens) + len(more) > space:
            return tuple(tokens), count
        tokens += more
    return tuple(tokens), len(order)


@lru_cache(maxsize=8)
def longest_question(rows: Shots, layout: Layout, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the longest question, with the separator before it."""
    return max(len(layout.question(tokenizer, shot)) for shot in rows.shots.values())
