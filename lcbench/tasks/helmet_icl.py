"""HELMET's in-context learning: texts with numbers as labels, whose meaning differs in every prompt."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import RowError, UserError, brief, unknown
from lcbench.core.tokens import as_text, encode_inside
from lcbench.data import Row
from lcbench.data.values import text_of
from lcbench.metrics import example_numbers
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.questions import Questions, Selected, questions, shuffled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRIC = "helmet/icl"
CUE = "label:"
REFERENCE = "references"  # the label is the reference, and no column


@dataclass(frozen=True, kw_only=True)
class HelmetIcl(Task):
    """Yen et al. 2024, https://arxiv.org/abs/2410.02694; princeton-nlp/HELMET@4526dfbd data.py, load_icl. Every
    question has its own demonstrations, in rounds with one text per label, and its own random numbers for the labels,
    so that their meaning can only be inferred from the prompt. The label is the column `label` of a row, or its
    reference.

    As many demonstrations as fit stand in the prompt, where HELMET has a fixed number for each of its lengths; a length
    is an upper limit. Draws are by seed, where HELMET draws by the hash of the text. Questions are asked in an order
    drawn by seed; HELMET asks as many of each label where the data have more than 500. Of data with one split, the
    share `held_out` of its rows is asked about, and the others are demonstrations: the same rows as in HELMET, by its
    seed.
    """

    family: ClassVar[str] = "helmet_icl"
    metric: ClassVar[str] = "score"

    data: str
    split: str = "test"
    demonstrations_split: str = "train"
    held_out: float = 0.0
    label: str = REFERENCE
    instruction: str
    max_new_tokens: int = 20
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not 0 <= self.held_out < 1:
            raise UserError(f"{self.name}: held_out must be a share from 0 to below 1, not {self.held_out:g}.")
        if self.held_out and self.split != self.demonstrations_split:
            raise UserError(
                f"{self.name}: held_out divides a single split, but split and demonstrations_split are {self.split} "
                f"and {self.demonstrations_split}."
            )

    def require_data(self) -> None:
        if not self._by_label:
            raise UserError(f"{self.data} ({self.demonstrations_split}) has no rows to demonstrate.")

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._questions)

    def check_row(self, sample: int, seed: int) -> None:
        """Questions without a label, or with one that no demonstration has."""
        row = self._asked(sample, seed)
        if not row.question.strip():
            raise RowError(f"{row.id} in {self.data} ({self.split}) has no question.")
        if self._label(row) not in self._by_label:
            raise RowError(
                f"{row.id} in {self.data} ({self.split}) has the label {brief(self._label(row))}, which no "
                "demonstration has."
            )

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """The demonstrations of a question at a shorter length are a prefix of those at a longer one."""
        return sample

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        self.check_row(sample, seed)
        row, rng = self._asked(sample, seed), self.rng(Cell(0), sample, seed)
        by_label = self._by_label
        numbers = dict(zip(by_label, rng.sample(range(len(by_label)), len(by_label)), strict=True))
        cue = "" if self.format.in_chat(tokenizer) else CUE
        head = self.format.start(tokenizer, self.instruction)
        tail = self.format.end(tokenizer, as_text(tokenizer, f"\n\n{row.question}" + (cue and f"\n{cue}")))
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail)
        context: list[int] = []
        count = 0
        for shot in _rounds(by_label, rng):
            text = f"\n\n{shot.question}\nlabel: {numbers[self._label(shot)]}"
            tokens = encode_inside(tokenizer, as_text(tokenizer, text))
            if len(context) + len(tokens) > space:
                break
            context += tokens
            count += 1
        if not count:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens with a demonstration; use a longer --seq-len."
            )
        return Example(
            head=head,
            context=context,
            tail=tail,
            references=(str(numbers[self._label(row)]),),
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            stop=self.stop,
            details={"row": row.id, "demonstrations": count, "cue": cue},
        )

    @property
    def corpus_scorer(self) -> str:
        return METRIC

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return example_numbers(METRIC, str(example.details.get("cue", "")) + prediction, example.references)

    def _label(self, row: Row) -> str:
        """Raises: UserError for an unknown column; RowError for a row whose label is missing, or no text."""
        if self.label == REFERENCE and row.references:
            return row.references[0]
        if self.label not in row.meta:
            raise unknown(f"column of {self.data} as label:", self.label, row.meta)
        where = f"`{self.label}` of {row.id} in {self.data}"
        try:
            label = text_of(row.meta[self.label], where)
        except UserError as error:
            raise RowError(str(error)) from error
        if not label.strip():
            raise RowError(f"{where} is missing.")
        return label

    def _asked(self, sample: int, seed: int) -> Row:
        """The question of a sample."""
        order = _shuffled(len(self._questions), self.sample_seed(Cell(0), -1, seed))
        return self._questions.row(order[sample])

    @property
    def _questions(self) -> Questions:
        rows = questions(self.data, self.split, {})
        return _parted(rows, self.held_out)[0] if self.held_out else rows

    @property
    def _pool(self) -> Questions:
        rows = questions(self.data, self.demonstrations_split, {})
        return _parted(rows, self.held_out)[1] if self.held_out else rows

    @property
    def _by_label(self) -> dict[str, list[Row]]:
        return _grouped(self._pool, self)


@lru_cache(maxsize=4)
def _grouped(pool: Questions, task: HelmetIcl) -> dict[str, list[Row]]:
    """The demonstrations by their labels, sorted by label."""
    found: dict[str, list[Row]] = {}
    for number in range(len(pool)):
        row = pool.row(number)
        found.setdefault(task._label(row), []).append(row)
    return dict(sorted(found.items()))


@lru_cache(maxsize=4)
def _parted(rows: Questions, share: float) -> tuple[Questions, Questions]:
    """A share of the rows, rounded up, and all others, as `datasets` parts them with HELMET's seed."""
    order = shuffled(len(rows))
    count = math.ceil(share * len(rows))
    return Selected(rows, order[:count]), Selected(rows, order[count:])


@lru_cache(maxsize=8)
def _shuffled(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def _rounds(by_label: dict[str, list[Row]], rng: random.Random) -> Iterator[Row]:
    """Rounds of one row per label, in random order; labels without further rows are left out of later rounds."""
    shuffled = [rng.sample(rows, len(rows)) for rows in by_label.values()]
    for turn in range(max(map(len, shuffled))):
        members = [rows[turn] for rows in shuffled if turn < len(rows)]
        yield from rng.sample(members, len(members))
