"""HumanEval: functions that a model completes, scored by running their unit tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import RowError, UserError
from lcbench.core.tokens import as_text
from lcbench.data import Row
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.code_execution import MEMORY, TIMEOUT, failure
from lcbench.tasks.format import PromptFormat
from lcbench.tasks.questions import Questions, questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASK = "Complete this Python file:\n\n"
FENCE = "\n```"  # after a file in a chat
NEEDED = ("test", "entry_point")


@dataclass(frozen=True, kw_only=True)
class HumanEval(Task):
    """Chen et al., https://arxiv.org/abs/2107.03374; one greedy completion per problem, so that the mean is pass@1.

    The prompt is the beginning of a file, as published, without a chat template unless `--chat on` is given; the answer
    is its continuation up to the first of the `stop` strings. The shipped task has LongLLaMA's three (the HumanEval
    paper also stops at "\\n#", "\\nif" and "\\nprint"). LongLLaMA's authors do not say how they sampled.

    Tests run in lcbench.tasks.code_execution, within `timeout` seconds and `memory` bytes, and only with
    `execute=true`. `data` is `humaneval`, prepared by `lcbench data`, or a file or `datasets` id with `columns` that
    name the `id`, the `question` (the prompt) and the `references` (a solution), and columns `test` and `entry_point`.
    """

    family: ClassVar[str] = "humaneval"
    metric: ClassVar[str] = "pass@1"

    data: str
    split: str = "test"
    columns: dict[str, str] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 512
    execute: bool = False
    timeout: float = TIMEOUT
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.timeout <= 0 or self.memory <= 0:
            raise UserError(f"{self.name}: max_new_tokens, timeout and memory must be more than 0.")

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """Raises: UserError without `execute`, or for depths."""
        self._require_execution()
        return super().cells(seq_lens, depths)

    def require_data(self) -> None:
        self._rows  # noqa: B018

    def check_row(self, sample: int, seed: int) -> None:
        """Rows without a prompt, without tests, or with values that are not text."""
        self._checked(sample)

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._rows)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        row = self._checked(sample)
        shortest = self.max_new_tokens + _longest_prompt(tokenizer, self.format, self._prompts)
        if cell.seq_len < shortest:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens, {self.max_new_tokens} of them for the answer; "
                f"use --seq-len {shortest} or more."
            )
        return Example(
            head=[],
            context=[],
            tail=_prompt(tokenizer, self.format, row.question),
            references=row.references,
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            begun=self.format.count_begun(tokenizer, _file(tokenizer, row.question)),
            stop=(*self.stop, FENCE) if self.format.in_chat(tokenizer) else self.stop,
            details={"row": row.id},
        )

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """pass@1: 1 if the completed function passes its tests, else 0. Raises: UserError without `execute`."""
        self._require_execution()
        program = self.program(example.details["row"], prediction)
        return {"pass@1": float(failure(program, timeout=self.timeout, memory=self.memory) is None)}

    def program(self, row_id: str, completion: str) -> str:
        """The source of the completed function followed by its tests. Raises: UserError for an unknown row."""
        row = self._by_id.get(row_id)
        if row is None:
            raise UserError(f"{self.data} ({self.split}) has no row {row_id!r}; has it changed since the run?")
        return f"{row.question}{completion}\n{row.meta['test']}\ncheck({row.meta['entry_point']})\n"

    @property
    def _rows(self) -> Questions:
        return questions(self.data, self.split, self.columns)

    @cached_property
    def _by_id(self) -> dict[str, Row]:
        return {row.id: row for row in self._usable()}

    @cached_property
    def _prompts(self) -> tuple[str, ...]:
        return tuple(row.question for row in self._usable())

    def _checked(self, sample: int) -> Row:
        """The row of a sample. Raises: RowError for one without prompt or tests."""
        row = self._rows.row(sample)
        texts = {"question": row.question, **{name: row.meta.get(name) for name in NEEDED}}
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                column = self.columns.get(name, name)
                raise RowError(f"row {row.id} of {self.data} has no `{column}`, which {self.name} needs.")
        return row

    def _usable(self) -> Iterator[Row]:
        for number in range(len(self._rows)):
            with contextlib.suppress(RowError):
                yield self._checked(number)

    def _require_execution(self) -> None:
        if not self.execute:
            raise UserError(
                f"{self.name} executes model-written code on this machine: in namespaces where Linux allows them, else "
                f"with resource limits only; to allow that, add execute=true to the task's name, as in "
                f"humaneval:execute=true."
            )


@lru_cache(maxsize=8)
def _longest_prompt(tokenizer: PreTrainedTokenizerBase, format_: PromptFormat, questions: tuple[str, ...]) -> int:
    """Number of tokens of the longest prompt, BOS included: all problems must fit, not only the first ones."""
    return max(len(_prompt(tokenizer, format_, question)) for question in questions)


def _prompt(tokenizer: PreTrainedTokenizerBase, format_: PromptFormat, question: str) -> list[int]:
    """The beginning of the file; in a chat it is both the user's message and the answer prefix, so that the model
    continues the file there, too."""
    begun = as_text(tokenizer, question)
    if not format_.in_chat(tokenizer):
        return format_.start(tokenizer, begun)
    return format_.start(tokenizer, ASK + begun) + format_.end(tokenizer, "", _file(tokenizer, question))


def _file(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The beginning of an answer in a chat."""
    return f"{FENCE.strip()}python\n{as_text(tokenizer, question)}"
