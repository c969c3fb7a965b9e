"""The interface of a task: cells of a grid, examples in a cell, and a score for each answer.

Tasks are independent of methods and models; they receive a tokenizer and nothing else.
"""

from __future__ import annotations

import hashlib
import random
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from lcbench.core.errors import RowError, UserError
from lcbench.tasks.format import ChatRule, PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECK_SECONDS = 2.0  # time limit of the slower checks of rows before a run
TOKENS, WINDOWS = "tokens", "windows"  # the unit of equal weight in a mean over texts
# Fields of a task that set the prompt format and how answers are generated.
FORMAT = ("chat", "bos", "system", "chat_options", "think_budget", "think_end", "sampling", "repeats")
FAMILIES: dict[str, type[Task]] = {}


@dataclass(frozen=True)
class Cell:
    """One point of a task's grid: `seq_len`, prompt and answer together in tokens, and `depth` of the needle from 0
    (start) to 1 (end); None if each example draws its own."""

    seq_len: int
    depth: float | None = None

    @property
    def key(self) -> str:
        """The part of a record's id that names the cell."""
        return f"{self.seq_len}/{'uniform' if self.depth is None else repr(self.depth)}"


@dataclass(frozen=True)
class Window:
    """One forward pass over a text whose likelihood is measured: the example's head, then tokens `start` to `stop`
    (exclusive) of its context, scored from `first` on. `bytes` (UTF-8) and `words` (separated by white space, partial
    ones included) count the scored text."""

    start: int
    stop: int
    first: int
    bytes: int
    words: int


@dataclass(frozen=True)
class Reading:
    """How the likelihood of a document is measured: its title, the protocol as printed next to the numbers, and whether
    a mean over documents weights "tokens" or "windows" equally. `ends`: the end of each context token in the text, in
    characters; `opening`: the beginning of the text."""

    document: str
    protocol: str
    averaging: str
    windows: tuple[Window, ...]
    ends: array[int] = field(default_factory=lambda: array("I"))
    opening: str = ""


@dataclass(frozen=True)
class Example:
    """One sample: token ids of the prompt in segments (head, context, tail), of which only the context may be
    shortened.

    references: the correct answers.
    max_new_tokens: generation budget, included in the cell's length.
    seed: the seed that the example was drawn with.
    depth: true depth of the needle in the context, 0 to 1; `needle_at` is the index of its first token in the prompt,
        `needle_tokens` how many tokens it has.
    stop: generated text ends before the first of these strings.
    begun: the number of tokens of the answer prefix at the end of the tail; a thought, if any, is inserted before them.
    follow_up: token ids of a second, independent prompt, run after the first one; `follow_up_of` computes them from the
        first answer instead. Its answer has up to `follow_up_tokens` tokens, or `max_new_tokens` if that is None.
    choices: candidate answers, each with its token ids after the prompt, for tasks that compare likelihoods.
    reading: windows of the context, for tasks that measure the likelihood of a text and generate nothing.
    details: further fields of the record.
    """

    head: list[int]
    context: list[int]
    tail: list[int]
    references: tuple[str, ...]
    max_new_tokens: int
    seed: int
    depth: float | None = None
    needle_at: int | None = None
    needle_tokens: int = 0
    stop: tuple[str, ...] = ()
    begun: int = 0
    follow_up: list[int] = field(default_factory=list)
    follow_up_of: Callable[[str], list[int]] | None = None
    follow_up_tokens: int | None = None
    choices: dict[str, list[int]] = field(default_factory=dict)
    reading: Reading | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[int]:
        return self.head + self.context + self.tail


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A family of tasks. Its dataclass fields are the options that a YAML file or `name:option=value` sets.

    Setting `family` in a subclass registers it. `metric` is the key in `score` that tables show; `measure` selects how
    an example becomes a record (lcbench.run.measures). `chat`, `bos`, `system` and `chat_options` are the format of
    prompts (lcbench.tasks.format). Answers may be preceded by a thought of up to `think_budget` tokens, which are part
    of the length, ended by `think_end` instead of the model's own marker; answers are greedy, or sampled as `sampling`
    says, `repeats` times per sample.
    """

    family: ClassVar[str] = ""
    metric: ClassVar[str] = ""
    measure: ClassVar[str] = "answer"
    newer: ClassVar[frozenset[str]] = frozenset()  # options that are not part of a run's identity at their default

    name: str
    description: str = ""
    citation: str = ""
    samples: int = 20
    chat: ChatRule = "auto"
    bos: Literal["auto", "always", "never"] = "auto"
    system: str = ""
    chat_options: tuple[str, ...] = ()
    think_budget: int = 0
    think_end: str = ""
    sampling: str = ""
    repeats: int = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("family"):
            FAMILIES[cls.family] = cls

    def options(self) -> dict[str, Any]:
        """The options that determine the examples, as part of a run's identity: all of them, except those in `newer` at
        their default, so that runs from before these existed are found again."""
        default = {
            one.name: one.default if one.default_factory is MISSING else one.default_factory()
            for one in fields(self)
            if one.name in self.newer
        }
        return {name: value for name, value in asdict(self).items() if name not in default or value != default[name]}

    def require_data(self) -> None:  # noqa: B027  (optional: generated tasks read nothing)
        """Open the files or the data set that examples come from, before the tokenizer is loaded, which takes seconds.

        Raises: UserError for data that are missing or cannot be read.
        """

    @property
    def format(self) -> PromptFormat:
        """The format of the prompts."""
        return PromptFormat(
            self.name, self.chat, self.bos, self.system, self.chat_options, thinks=self.thought_tokens > 0
        )

    @property
    def thought_tokens(self) -> int:
        """The budget of a thought before an answer, in tokens; 0 if nothing is generated."""
        return self.think_budget if self.measure == "answer" else 0

    def asked(self, **given: Any) -> Self:
        """A copy of this task with the fields `given` of FORMAT."""
        return replace(self, **given)

    def identity(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What determines the examples: the task's options, and the prompt format with this tokenizer."""
        options = {name: value for name, value in self.options().items() if name not in FORMAT} | {"samples": None}
        format_ = self.format.identity(tokenizer)
        if self.measure == "answer":
            answered = {"think_budget": self.think_budget, "think_end": self.think_end, "sampling": self.sampling}
            format_ |= {name: value for name, value in answered.items() if value}
        return options | ({"prompt_format": format_} if format_ else {})

    def for_lengths(self, seq_lens: list[int]) -> Self:
        """A copy of this task for a run over these lengths, for families whose examples depend on all of them."""
        return self

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The number of distinct samples per cell; None if samples are generated without limit."""
        return None

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """A key for prefix sharing: prompts of samples with equal keys begin with the same text, so a run schedules
        them together."""
        return cell, sample

    def check_row(self, sample: int, seed: int) -> None:  # noqa: B027  (optional: generated samples have no row)
        """Check the row of a sample, without a tokenizer. Raises: RowError if the sample cannot be built from it."""

    def check_prompt(self, sample: int, seed: int) -> None:  # noqa: B027  (as above)
        """As `check_row`, for slower checks, run for as many rows as `CHECK_SECONDS` allow; the others fail when their
        prompts are built. Raises: RowError."""

    def problems(self, samples: int, seed: int) -> dict[int, str]:
        """Those of the first `samples` samples of a cell, drawn with `seed`, that cannot be built from their rows, with
        the reason; found without a tokenizer, before anything runs."""
        if type(self).check_row is Task.check_row:  # generated
            return {}
        found: dict[int, str] = {}
        end = time.monotonic() + CHECK_SECONDS
        for sample in range(samples):
            try:
                self.check_row(sample, seed)
                if time.monotonic() < end:
                    self.check_prompt(sample, seed)
            except RowError as error:
                found[sample] = str(error)
        return found

    def notes(self, samples: int) -> list[str]:
        """Warnings about the first `samples` samples that users should read before a run."""
        return []

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """The grid of the task for these lengths (prompt and answer together, in tokens) and depths (None: the task's
        default). By default one cell per length, for tasks without a needle.

        Raises: UserError for depths if the task has none.
        """
        if depths is not None:
            raise UserError(f"{self.name} has no needle; leave the depths out.")
        return [Cell(seq_len) for seq_len in seq_lens]

    @abstractmethod
    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        """Example number `sample` (from 0) of a cell, independent of every other sample and cell.

        Raises: UserError if the cell is too short; RowError if it is this sample that cannot be built.
        """

    def fitted(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        """The example, with the thought budget reserved in the cell's length. Raises: as `example`."""
        budget = self.thought_tokens
        if not budget:
            return self.example(cell, sample, tokenizer, seed)
        besides = f"besides the {budget} tokens of --think-budget, which are part of the length"
        if cell.seq_len <= budget:
            raise UserError(f"{self.name}: {cell.seq_len} tokens leave no space {besides}; use a longer --seq-len.")
        try:
            return self.example(replace(cell, seq_len=cell.seq_len - budget), sample, tokenizer, seed)
        except UserError as error:
            self.example(cell, sample, tokenizer, seed)  # raises its own error if the thought budget is not the reason
            raise type(error)(f"{str(error).rstrip('.')}, {besides}.") from error

    def joined(self, texts: list[str]) -> str:
        """The prediction from the generated texts: one, or those of a prompt and its follow-up."""
        return "\n".join(texts)

    def extract(self, prediction: str) -> str:
        """The part of a prediction that is scored."""
        return prediction

    @property
    def corpus_scorer(self) -> str | None:
        """The corpus metric (lcbench.metrics) over the samples; None if the task's score is their mean."""
        return None

    @abstractmethod
    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Scores of one answer by name, on the task's scale (0 to 1, or 0 to 100); the one named `metric` is the task's
        score."""

    def sample_seed(self, cell: Cell, sample: int, seed: int) -> int:
        """A seed that depends on the identity of a sample alone, not on order, other cells or methods."""
        identity = f"{self.name}|{cell.key}|{sample}|{seed}"
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6])

    def rng(self, cell: Cell, sample: int, seed: int) -> random.Random:
        return random.Random(self.sample_seed(cell, sample, seed))
