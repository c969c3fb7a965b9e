"""What a task is: cells of a grid, examples in a cell, and a score for each answer.

Tasks know nothing of methods or models; a tokenizer is all they are given.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS, WINDOWS = "tokens", "windows"  # what counts the same in a mean over texts
FAMILIES: dict[str, type[Task]] = {}


@dataclass(frozen=True)
class Cell:
    """One point of a task's grid: the whole length in tokens, prompt and answer, and the depth of the needle from 0
    to 1, None where each example draws its own."""

    seq_len: int
    depth: float | None = None

    @property
    def key(self) -> str:
        """The cell in the id of a record."""
        return f"{self.seq_len}/{'uniform' if self.depth is None else repr(self.depth)}"


@dataclass(frozen=True)
class Window:
    """What a model reads at once of a text whose likelihood is measured: the example's head, and behind it the tokens
    start to stop of its context, scored from `first` on. `bytes` (UTF-8) and `words` (between white space; a part of
    one counts) are those of the text that is scored."""

    start: int
    stop: int
    first: int
    bytes: int
    words: int


@dataclass(frozen=True)
class Reading:
    """How the likelihood of a document is measured: the protocol as it is printed with its numbers, and whether
    "tokens" or "windows" count the same in a mean over documents."""

    document: str
    protocol: str
    averaging: str
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Example:
    """One question: tokens of the prompt by segment, of which only the context may ever be shortened.

    `references` are the right answers; `max_new_tokens` the generation budget, part of the cell's length; `depth`
    where the needle truly is, `needle_at` its first token in the prompt; `seed` what the example was drawn from. A
    generated text ends before the first of the `stop` strings. `follow_up` is a prompt of its own, asked afterwards.
    `choices` are the answers that are allowed, each with its tokens behind the prompt, where one is to be chosen.
    `reading` is for tasks that ask nothing and measure how likely a text is. `details` go into the record.
    """

    head: list[int]
    context: list[int]
    tail: list[int]
    references: tuple[str, ...]
    max_new_tokens: int
    seed: int
    depth: float | None = None
    needle_at: int | None = None
    stop: tuple[str, ...] = ()
    follow_up: list[int] = field(default_factory=list)
    choices: dict[str, list[int]] = field(default_factory=dict)
    reading: Reading | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[int]:
        return self.head + self.context + self.tail


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A family of tasks; its fields are the options that a YAML file or `name:option=value` may set.

    Naming a subclass's `family` registers it. `measure` says how an example becomes a record (lcbench.run.measures).
    """

    family: ClassVar[str] = ""
    metric: ClassVar[str] = ""
    measure: ClassVar[str] = "answer"

    name: str
    description: str = ""
    citation: str = ""
    samples: int = 20

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("family"):
            FAMILIES[cls.family] = cls

    def require_data(self) -> None:  # noqa: B027  (a task that reads nothing needs none)
        """Open the files or the data set that examples come from: before a tokenizer is loaded, which takes seconds.

        Raises: UserError for what cannot be read.
        """

    def for_lengths(self, seq_lens: list[int]) -> Self:
        """This task for a run over these lengths, where its examples depend on all of them together."""
        return self

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """How many samples a cell can have; None where they are drawn without end."""
        return None

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Samples with equal keys begin with the same text, so that a run works through them together."""
        return cell, sample

    @abstractmethod
    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """The grid of the task."""

    @abstractmethod
    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        """Example number `sample` of a cell, whatever else runs. Raises: UserError if the cell is too short."""

    def joined(self, texts: list[str]) -> str:
        """The prediction: the one generated text, or put together from those of a prompt and its follow-up."""
        return "\n".join(texts)

    def extract(self, prediction: str) -> str:
        """The part of a prediction that is scored."""
        return prediction

    @property
    def corpus_scorer(self) -> str | None:
        """The name in lcbench.metrics of the task's number, where that is not simply the mean over the samples."""
        return None

    @abstractmethod
    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Scores by name, from 0 to 1; the one named `metric` is the task's number."""

    def sample_seed(self, cell: Cell, sample: int, seed: int) -> int:
        """A seed from the identity of a sample alone: neither order nor other cells nor methods enter."""
        identity = f"{self.name}|{cell.key}|{sample}|{seed}"
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6])

    def rng(self, cell: Cell, sample: int, seed: int) -> random.Random:
        return random.Random(self.sample_seed(cell, sample, seed))
