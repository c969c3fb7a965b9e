"""Learning in context: as many demonstrations as fit the length, then a question of the same kind."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from lcbench.core.errors import RowError, UserError, unknown
from lcbench.core.tokens import as_text, encode_inside, encode_start
from lcbench.data import Row
from lcbench.metrics import names as metric_names
from lcbench.metrics import score_example
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.questions import questions
from lcbench.tasks.template import MARKER, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "thelabelstandshere"  # placeholder of the label while a demonstration is rendered


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
    """The rendered rows of a split by their number, and what is wrong with the others. Hashed by identity, so that
    tokens of the same object are cached."""

    def __init__(self, shots: dict[int, Shot], problems: dict[int, str]) -> None:
        """All rows have the same `lead` and `after`."""
        self.shots, self.problems = shots, problems
        first = next(iter(shots.values()))
        self.lead, self.after = first.lead, first.after

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

    scoring likelihood   The answer is the label with the highest log-likelihood (summed over its tokens); it is right
    if
                         it is one of the references. Candidates are all of `labels`, or the labels of both splits.
                         Where one label is a prefix of another, the separator after the label is scored too, since
                         the shorter label would win every time.
    scoring generate     Up to `max_new_tokens` tokens, ended by a `stop` string, scored by `scorer` (lcbench.metrics).

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

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """One cell per length, the maximum of demonstrations, question and answer together, in tokens."""
        if depths is not None:
            raise UserError(f"{self.name} hides no needle; leave the depths out.")
        return [Cell(seq_len) for seq_len in seq_lens]

    def require_data(self) -> None:
        self._questions  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._questions) * self.draws

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Samples of one draw: their demonstrations at a shorter length are a prefix of those at a longer one."""
        return sample % self.draws

    def problems(self, samples: int, seed: int) -> dict[int, str]:
        """Samples whose question has no label, a label that is not in `labels`, or a value that is not text."""
        wrong, numbers = self._questions.problems, map(self._row_number, range(samples), [seed] * samples)
        return {sample: wrong[number] for sample, number in enumerate(numbers) if number in wrong}

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        draw, number = sample % self.draws, self._row_number(sample, seed)
        if number in self._questions.problems:
            raise RowError(self._questions.problems[number])
        shot = self._questions.shots[number]
        choices = self._choices(tokenizer) if self.scoring == "likelihood" else {}
        budget = max(map(len, choices.values()), default=self.max_new_tokens)
        longest = _longest_question(self._questions, self._pool.after, tokenizer)
        space = cell.seq_len - budget - longest
        draw_seed = self.sample_seed(Cell(0), draw, seed)
        context, count = _fill(self._pool, tokenizer, draw_seed, self.balance, space)
        if not count:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens: its longest question and the answer take "
                f"{budget + longest} of them, which leaves no space for a demonstration; use a longer --seq-len."
            )
        return Example(
            head=[],
            context=list(context),
            tail=encode_inside(tokenizer, as_text(tokenizer, self._pool.after + shot.question)),
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
        scored = score_example(self.scorer, prediction, example.references)
        return {name: float(value) for name, value in scored.items() if isinstance(value, int | float)}

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
        if source == self.data and (self.split == self.demonstrations_split or _is_file(source)):
            raise UserError(
                f"{self.name} would demonstrate with the rows of {source} that it asks; name another split as "
                "`demonstrations_split`, or another file as `demonstrations`."
            )
        pool = self._read(source, self.demonstrations_split)
        if pool.problems:
            raise UserError(next(iter(pool.problems.values())))
        return pool

    @cached_property
    def _label_words(self) -> dict[str, str]:
        return {str(label): words for label, words in self.labels.items()}

    def _choices(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
        """Token ids of every label as it continues a question."""
        pool = self._pool
        labels = sorted(set(self._label_words.values()) or {*pool.labels, *self._questions.labels})
        begun = any(longer.startswith(label) for label, longer in pairwise(labels))
        end = pool.after if begun else ""
        return {label: encode_inside(tokenizer, as_text(tokenizer, pool.lead + label + end)) for label in labels}

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
        if not shots:
            raise UserError(f"{self.name}: none of {len(rows)} rows of {source} can be used; {problems[0]}")
        read = Shots(shots, problems)
        if not read.after:
            raise UserError(
                f"{self.name}: the prompt must go on after its label with what parts one demonstration from the next, "
                "such as a line break."
            )
        for number, shot in shots.items():
            if (shot.lead, shot.after) != (read.lead, read.after):
                raise UserError(
                    f"{self.name}: what the prompt has after the label must be the same for all rows; row {number + 1} "
                    f"of {source} has {shot.after!r}, the first {read.after!r}."
                )
        return read

    def _shot(self, row: Row, what: str) -> Shot:
        """Raises: RowError for a row that cannot be used; UserError for a prompt that no row can be used with."""
        if not row.references:
            raise RowError(f"{what} has no label; `columns: {{references: NAME}}` names the column that holds it.")
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
def _fill(
    pool: Shots, tokenizer: PreTrainedTokenizerBase, seed: int, balance: str, space: int
) -> tuple[tuple[int, ...], int]:
    """Token ids of demonstrations in the order of a draw until the next one would exceed `space` tokens, and their
    count.

    Each is tokenised together with the separator before it, where tokenizers begin a new word: so every label, and the
    final answer, has the same tokens on both sides.
    """
    tokens: list[int] = []
    order = pool.order(random.Random(seed), balance)
    for count, number in enumerate(order):
        shot = pool.shots[number]
        text = as_text(tokenizer, shot.after + shot.text if count else shot.text)
        more = encode_inside(tokenizer, text) if count else encode_start(tokenizer, text)
        if len(tokens) + len(more) > space:
            return tuple(tokens), count
        tokens += more
    return tuple(tokens), len(order)


@lru_cache(maxsize=8)
def _longest_question(rows: Shots, after: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the longest question, with the separator before it."""
    questions = (as_text(tokenizer, after + shot.question) for shot in rows.shots.values())
    return max(len(encode_inside(tokenizer, question)) for question in questions)


@lru_cache(maxsize=8)
def _shuffled(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)
