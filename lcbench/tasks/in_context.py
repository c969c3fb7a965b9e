"""In-context learning: as many demonstrations as fit the length, then a question of the same kind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lcbench.core.errors import RowError, UserError, unknown
from lcbench.data import Row
from lcbench.metrics import example_numbers
from lcbench.metrics import names as metric_names
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.demonstrations import Layout, Shot, Shots, filled, longest_question
from lcbench.tasks.questions import questions
from lcbench.tasks.template import MARKER, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "thelabelstandshere"  # placeholder of the label while a demonstration is rendered


@dataclass(frozen=True, kw_only=True)
class InContextTask(Task):
    """Demonstrations from one part of the data, questions from another (lcbench/tasks/questions.py).

    `prompt` is the Jinja template of one demonstration, with `question`, `label` and the other columns of the row. It
    ends with the separator before the next demonstration; the question is rendered with the same template, up to its
    label. `label` is the first of the row's references, replaced by its words in `labels` if that is given.

    Demonstrations come from `demonstrations_split` of `demonstrations` (default: `data`), drawn `draws` times from all
    rows: at random, or with `balance: balanced` in rounds of one row per label. Each draw keeps as many as fit beside
    the longest question of the split and its answer. All questions of a draw and length share the same
    demonstrations, and those of a shorter length are a prefix of those of a longer one. Sample k is question k // draws
    of a shuffled list, after the demonstrations of draw k % draws: every draw has the same questions, however few
    samples there are.

    scoring likelihood   The answer is the label with the highest log-likelihood (summed over its tokens); it is correct
                         if it is one of the references. Candidates are all of `labels`, or the labels of both splits.
                         If one label is a prefix of another, the separator after the label is scored, too, since the
                         shorter label would always win otherwise.
    scoring generate     Up to `max_new_tokens` tokens, ended by a `stop` string, scored by `scorer` (lcbench.metrics).

    In a chat all demonstrations and the question are one message; with `multiturn` each is a user turn and an answer.
    Scores are from 0 to 100.
    """

    family: ClassVar[str] = "in_context"
    metric: ClassVar[str] = "score"

    data: str
    split: str = "test"
    demonstrations: str = ""
    demonstrations_split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)
    prompt: str
    labels: dict[str, str] = field(default_factory=dict)
    balance: Literal["random", "balanced"] = "random"
    draws: int = 5
    scoring: Literal["likelihood", "generate"] = "likelihood"
    scorer: str = "trec"
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 16
    multiturn: bool = False

    def __post_init__(self) -> None:
        if self.scorer not in metric_names():
            raise unknown(f"scorer of {self.name}:", self.scorer, metric_names())
        if self.draws < 1 or self.max_new_tokens < 1:
            raise UserError(f"{self.name}: draws and max_new_tokens must be at least 1.")
        if strange := [words for words in self.labels.values() if not isinstance(words, str) or not words.strip()]:
            raise UserError(f"{self.name}: labels must be text, not {strange[0]!r}; put it in quotes.")

    @property
    def measure(self) -> str:  # type: ignore[override]  # a class variable in other families
        return "choice" if self.scoring == "likelihood" else "answer"

    def identity(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        found = super().identity(tokenizer)
        return found if self.multiturn else {name: value for name, value in found.items() if name != "multiturn"}

    def require_data(self) -> None:
        self._questions  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._questions) * self.draws

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Samples of one draw: their demonstrations at a shorter length are a prefix of those at a longer one."""
        return sample % self.draws

    def check_row(self, sample: int, seed: int) -> None:
        """Questions without a label, with one that is not in `labels`, or with a value that is not text."""
        if (number := self._row_number(sample, seed)) in self._questions.problems:
            raise RowError(self._questions.problems[number])

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        draw, number = sample % self.draws, self._row_number(sample, seed)
        self.check_row(sample, seed)
        shot = self._questions.shots[number]
        layout = self._layout(tokenizer)
        choices = self._choices(tokenizer, layout) if self.scoring == "likelihood" else {}
        budget = max(map(len, choices.values()), default=self.max_new_tokens)
        longest = longest_question(self._questions, layout, tokenizer)
        space = cell.seq_len - budget - longest
        draw_seed = self.sample_seed(Cell(0), draw, seed)
        context, count = filled(layout, tokenizer, draw_seed, self.balance, space)
        if not count:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens: its longest question and the answer take "
                f"{budget + longest} of them, which leaves no space for a demonstration; use a longer --seq-len."
            )
        return Example(
            head=[],
            context=list(context),
            tail=layout.question(tokenizer, shot),
            begun=self.format.count_begun(tokenizer, self._pool.answer),
            references=shot.references,
            max_new_tokens=budget,
            seed=draw_seed,
            stop=self.stop if self.scoring == "generate" else (),
            choices=choices,
            details={"row": shot.id, "draw": draw, "demonstrations": count},
        )

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        if self.scoring == "likelihood":
            return {self.metric: 100.0 * (prediction in example.references)}
        return example_numbers(self.scorer, prediction, example.references)

    @property
    def corpus_scorer(self) -> str | None:
        return self.scorer if self.scoring == "generate" else None

    def _row_number(self, sample: int, seed: int) -> int:
        """The row that the question of a sample comes from."""
        return _shuffled(len(self._questions), self.sample_seed(Cell(0), -1, seed))[sample // self.draws]

    @cached_property
    def _questions(self) -> Shots:
        """The rows that questions come from, rendered as demonstrations."""
        return self._read(self.data, self.split)

    @cached_property
    def _pool(self) -> Shots:
        """The rows that demonstrations are drawn from, all of which are part of prompts. Raises: UserError if one of
        them cannot be used, or if they are also the questions."""
        source = self.demonstrations or self.data
        same = (
            _is_file(source)
            and _is_file(self.data)
            and Path(source).expanduser().samefile(Path(self.data).expanduser())
        )
        if same or (source == self.data and self.split == self.demonstrations_split):
            raise UserError(
                f"{self.name} would use the rows of {source} both as demonstrations and questions; name another split "
                "as `demonstrations_split`, or another file as `demonstrations`."
            )
        pool = self._read(source, self.demonstrations_split)
        if pool.problems:
            raise UserError(next(iter(pool.problems.values())))
        return pool

    @cached_property
    def _label_words(self) -> dict[str, str]:
        return {str(label): words for label, words in self.labels.items()}

    def _layout(self, tokenizer: PreTrainedTokenizerBase) -> Layout:
        return Layout(self.format, self._pool, self.format.turns(tokenizer) if self.multiturn else None)

    def _choices(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> dict[str, list[int]]:
        """Token ids of every label as it continues a question."""
        pool = self._pool
        labels = sorted(set(self._label_words.values()) or {*pool.labels, *self._questions.labels})
        begun = any(longer.startswith(label) for label, longer in pairwise(labels))
        return {label: layout.label(tokenizer, label, ended=begun) for label in labels}

    def _read(self, data: str, split: str) -> Shots:
        rows, source = questions(data, split, self.columns), data if _is_file(data) else f"{data} ({split})"
        if not len(rows):
            raise UserError(f"{self.name}: {source} has no rows.")
        shots: dict[int, Shot] = {}
        problems: dict[int, str] = {}
        for number in range(len(rows)):
            try:
                shots[number] = self._shot(rows.row(number), f"row {number + 1} of {source}")
            except RowError as error:
                problems[number] = str(error)
        named = Counter(shot.id for shot in shots.values())  # a column `id` may tell documents, and not questions
        shots = {n: replace(shot, id=f"{shot.id}#{n}") if named[shot.id] > 1 else shot for n, shot in shots.items()}
        if not shots:
            raise UserError(f"{self.name}: none of {len(rows)} rows of {source} can be used; {problems[0]}")
        read = Shots(shots, problems)
        if not read.after:
            raise UserError(
                f"{self.name}: in the prompt, a separator between demonstrations must follow the label, such as a line "
                "break."
            )
        for number, shot in shots.items():
            if (shot.lead, shot.after) != (read.lead, read.after):
                raise UserError(
                    f"{self.name}: the text after the label must be the same for all rows; row {number + 1} "
                    f"of {source} has {shot.after!r}, the first {read.after!r}."
                )
        return read

    def _shot(self, row: Row, what: str) -> Shot:
        """Raises: RowError for a row that cannot be used; UserError for a prompt that no row can be used with."""
        if not row.references:
            raise RowError(f"{what} has no label; `columns: {{references: NAME}}` names its column.")
        try:
            text = render(self.name, self.prompt, {**row.meta, "question": row.question, "label": LABEL})
        except UserError as error:
            raise RowError(f"{what}: {error}") from error
        if text.count(LABEL) != 1 or MARKER in text:
            raise UserError(f"{self.name}: the prompt must name `label` once, as it is, and no document.")
        before, _, after = text.partition(LABEL)
        question = before.rstrip(" ")
        words = tuple(self._words(reference, what) for reference in row.references)
        return Shot(row.id, question, before[len(question) :], words, after)

    def _words(self, label: str, what: str) -> str:
        if not self.labels:
            return label
        if label not in self._label_words:
            raise RowError(str(unknown(f"label of {self.name} in {what}:", label, self._label_words)))
        return self._label_words[label]


def _is_file(data: str) -> bool:
    """Whether `data` is a local file, which has no splits."""
    return Path(data).expanduser().is_file()


@lru_cache(maxsize=8)
def _shuffled(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)
