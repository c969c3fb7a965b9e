"""Learning in context: as many demonstrations as fit the length, then a question of the same kind."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from lcbench.core.errors import UserError, unknown
from lcbench.core.tokens import as_text, encode_inside, encode_start
from lcbench.data import Row
from lcbench.metrics import names as metric_names
from lcbench.metrics import score_example
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.questions import questions
from lcbench.tasks.template import MARKER, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "thelabelstandshere"  # in place of the label while a demonstration is put together


@dataclass(frozen=True)
class Shot:
    """A row as text: what stands before its label, without spaces at the end; the label with the spaces before it; and
    what parts it from the next one. `references` are all of its labels, in words."""

    id: str
    question: str
    lead: str
    references: tuple[str, ...]
    behind: str

    @property
    def text(self) -> str:
        return f"{self.question}{self.lead}{self.references[0]}"


class Shots:
    """The rows of a split. One object a task, so that what was made of it can be kept."""

    def __init__(self, shots: list[Shot]) -> None:
        """`lead` and `behind` are those of all."""
        self.shots = shots
        self.lead, self.behind = shots[0].lead, shots[0].behind

    @property
    def labels(self) -> set[str]:
        return {label for shot in self.shots for label in shot.references}

    def order(self, rng: random.Random, balance: str) -> list[int]:
        """All rows in the order of a draw. Balanced: rounds, each with one row of every label that has any left."""
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

    `prompt` is the Jinja template of one demonstration, with `question`, `label` and the further columns of the row. It
    ends with what parts it from the next one; the question is the same up to its label. `label` is the first of the
    row's references, in the words of `labels` if there are any.

    Demonstrations come from `demonstrations_split` of `demonstrations` (default: of `data`), drawn `draws` times from
    all rows: at random, or with `balance: balanced` one of each label by turns. Of each draw as many as fit are taken,
    so that also the longest question of the split and its answer have room. All questions of a draw and length have
    the same ones, and a longer run begins with those of a shorter. Sample k is question k // draws of a shuffled list,
    asked behind draw k % draws: every draw has the same questions, however few samples there are.

    scoring likelihood   The label with the highest log-likelihood, the sum over its tokens, is the answer, right if it
                         is one of the references. The labels are all of `labels`, or those of both splits. Where one
                         begins another, what follows a label in the prompt counts as well: the shorter would always
                         win.
    scoring generate     Up to `max_new_tokens` tokens, ended by a `stop` string, scored by `scorer` (lcbench.metrics).

    The score is on the scale of 0 to 100.
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
    def measure(self) -> str:  # type: ignore[override]  # of other families it is fixed
        return "choice" if self.scoring == "likelihood" else "answer"

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """One cell a length: the most tokens that demonstrations, question and answer may have together."""
        if depths is not None:
            raise UserError(f"{self.name} hides no needle; leave the depths out.")
        return [Cell(seq_len) for seq_len in seq_lens]

    def require_data(self) -> None:
        self._asked  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._asked.shots) * self.draws

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """The demonstrations of a draw are those of all lengths, or their beginning."""
        return sample % self.draws

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        number, draw = divmod(sample, self.draws)
        shot = self._asked.shots[_shuffled(len(self._asked.shots), self.sample_seed(Cell(0), -1, seed))[number]]
        choices = self._choices(tokenizer) if self.scoring == "likelihood" else {}
        budget = max(map(len, choices.values()), default=self.max_new_tokens)
        longest = _longest_question(self._asked, self._pool.behind, tokenizer)
        room = cell.seq_len - budget - longest
        draw_seed = self.sample_seed(Cell(0), draw, seed)
        context, count = _fill(self._pool, tokenizer, draw_seed, self.balance, room)
        if not count:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens: its longest question and the answer take "
                f"{budget + longest} of them, which leaves no room for a demonstration; use a longer --seq-len."
            )
        return Example(
            head=[],
            context=list(context),
            tail=encode_inside(tokenizer, as_text(tokenizer, self._pool.behind + shot.question)),
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

    @cached_property
    def _asked(self) -> Shots:
        """What is asked, as it would stand in a demonstration."""
        return self._read(self.data, self.split)

    @cached_property
    def _pool(self) -> Shots:
        """What demonstrations are drawn from."""
        source = self.demonstrations or self.data
        if source == self.data and (self.split == self.demonstrations_split or _is_file(source)):
            raise UserError(
                f"{self.name} would demonstrate with the rows of {source} that it asks; name another split as "
                "`demonstrations_split`, or another file as `demonstrations`."
            )
        return self._read(source, self.demonstrations_split)

    @cached_property
    def _label_words(self) -> dict[str, str]:
        return {str(label): words for label, words in self.labels.items()}

    def _choices(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
        """The tokens of every label behind a question."""
        pool = self._pool
        labels = sorted(set(self._label_words.values()) or {*pool.labels, *self._asked.labels})
        begun = any(longer.startswith(label) for label, longer in pairwise(labels))
        end = pool.behind if begun else ""
        return {label: encode_inside(tokenizer, as_text(tokenizer, pool.lead + label + end)) for label in labels}

    def _read(self, data: str, split: str) -> Shots:
        rows, source = questions(data, split, self.columns), data if _is_file(data) else f"{data} ({split})"
        if not len(rows):
            raise UserError(f"{self.name}: {source} has no rows.")
        shots = [self._shot(rows.row(number), f"row {number + 1} of {source}") for number in range(len(rows))]
        if not shots[0].behind:
            raise UserError(
                f"{self.name}: the prompt must go on behind its label with what parts one demonstration from the next, "
                "such as a line break."
            )
        for number, shot in enumerate(shots, start=1):
            if (shot.lead, shot.behind) != (shots[0].lead, shots[0].behind):
                raise UserError(
                    f"{self.name}: what the prompt has behind the label must be the same for all rows; row {number} of "
                    f"{source} has {shot.behind!r}, the first {shots[0].behind!r}."
                )
        return Shots(shots)

    def _shot(self, row: Row, what: str) -> Shot:
        if not row.references:
            raise UserError(f"{what} has no label; `columns: {{references: NAME}}` names the column that holds it.")
        text = render(self.name, self.prompt, {**row.meta, "question": row.question, "label": LABEL})
        if text.count(LABEL) != 1 or MARKER in text:
            raise UserError(f"{self.name}: the prompt must name `label` once, as it is, and no document.")
        before, _, behind = text.partition(LABEL)
        question = before.rstrip(" ")
        words = tuple(self._words(reference, what) for reference in row.references)
        return Shot(row.id, question, before[len(question) :], words, behind)

    def _words(self, label: str, what: str) -> str:
        if not self.labels:
            return label
        if label not in self._label_words:
            raise unknown(f"label of {self.name} in {what}:", label, self._label_words)
        return self._label_words[label]


def _is_file(data: str) -> bool:
    """A file has no splits."""
    return Path(data).expanduser().is_file()


@lru_cache(maxsize=8)
def _fill(
    pool: Shots, tokenizer: PreTrainedTokenizerBase, seed: int, balance: str, room: int
) -> tuple[tuple[int, ...], int]:
    """Demonstrations in the order of a draw until the next one does not fit into so many tokens; and how many they are.

    Each is tokenised with what parts it from the one before, at which tokenizers start afresh: so every label, also
    the answer to come, stands between the same tokens.
    """
    tokens: list[int] = []
    order = pool.order(random.Random(seed), balance)
    for count, number in enumerate(order):
        shot = pool.shots[number]
        text = as_text(tokenizer, shot.behind + shot.text if count else shot.text)
        more = encode_inside(tokenizer, text) if count else encode_start(tokenizer, text)
        if len(tokens) + len(more) > room:
            return tuple(tokens), count
        tokens += more
    return tuple(tokens), len(order)


@lru_cache(maxsize=8)
def _longest_question(asked: Shots, behind: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest question, with what parts it from the last demonstration."""
    questions = (as_text(tokenizer, behind + shot.question) for shot in asked.shots)
    return max(len(encode_inside(tokenizer, question)) for question in questions)


@lru_cache(maxsize=8)
def _shuffled(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)
