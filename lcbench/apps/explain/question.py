"""What is looked at: a prompt, the needle in it, and the token that a right answer begins with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside
from lcbench.tasks import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SINKS = 4  # first tokens, which attention falls back on: as many as StreamingLLM keeps
RECENT = 64  # last tokens, at least; the question if that is longer
GROUPS = ("needle", "sinks", "last window", "rest")


@dataclass(frozen=True)
class Question:
    """A prompt of n token ids, the places of the needle's, and the token `right` that a right answer goes on with.

    `asked` are the tokens of the prompt that the task asks; behind them stand those that the answer begins with and
    that say nothing: the space before a number, where it is a token of its own.
    """

    prompt: list[int]
    asked: int
    needle: range
    last_window: int
    reference: str
    right: int

    def groups(self) -> NDArray[np.int64]:
        """The number of each key's group in GROUPS [n]: the needle wherever it stands, then the sinks, then the last
        window."""
        n = len(self.prompt)
        found = np.full(n, GROUPS.index("rest"))
        found[max(0, n - self.last_window) :] = GROUPS.index("last window")
        found[:SINKS] = GROUPS.index("sinks")
        found[self.needle.start : self.needle.stop] = GROUPS.index("needle")
        return found

    def answer_in_needle(self) -> list[int]:
        """The places in the needle of the token that a right answer goes on with."""
        return [place for place in self.needle if self.prompt[place] == self.right]


def question(task: Task, example: Example, tokenizer: PreTrainedTokenizerBase) -> Question:
    """Raises: UserError for a task without a needle, or whose answer is not the next thing that the model writes."""
    require_needle(task)
    if example.needle_at is None:
        raise UserError(
            f"{task.name} does not tell where its needle is, so that nobody can say whether a head finds it."
        )
    given, right = _beginning(task, tokenizer, example.prompt, example.references[0])
    return Question(
        prompt=[*example.prompt, *given],
        asked=len(example.prompt),
        needle=range(example.needle_at, example.needle_at + example.needle_tokens),
        last_window=max(RECENT, len(example.tail) + len(given)),
        reference=example.references[0],
        right=right,
    )


def require_needle(task: Task) -> None:
    """Raises: UserError for a task that has no needle, or lets a model think before it answers."""
    if task.measure != "answer":
        raise UserError(f"{task.name} has no needle that a model could look at; explain passkey, needle or ruler.")
    if task.thought_tokens:
        raise UserError(
            f"{task.name} is answered behind a thought, and explain looks at what follows the prompt; leave "
            "--think-budget out."
        )


def _beginning(
    task: Task, tokenizer: PreTrainedTokenizerBase, prompt: list[int], reference: str
) -> tuple[list[int], int]:
    """The tokens of white space that an answer begins with, and the first token that says something."""
    end = str(tokenizer.decode(prompt[-1:]))
    lead = "" if prompt[-1] in tokenizer.all_special_ids or end != end.rstrip() or not end else " "
    tokens = encode_inside(tokenizer, lead + reference)
    given = list(takewhile(lambda token: not str(tokenizer.decode([token])).strip(), tokens))
    if len(given) == len(tokens):
        raise UserError(f"{task.name} has an empty answer here, which no token begins; explain another --sample.")
    return given, tokens[len(given)]
