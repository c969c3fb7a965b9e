"""The rows that a task on documents asks about: which of them, and what each must have."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lcbench.core.errors import RowError, UserError, brief, unknown
from lcbench.data import Row
from lcbench.data.values import is_blank, text_of, texts_of
from lcbench.tasks.questions import KEY, Questions, drawn, questions

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class DocumentRows:
    """The rows of `split` that have what `only` lists as `column=value`, by the number of the sample that they become.

    `draw` takes some of them (`lcbench.tasks.questions.drawn`). `groups` are columns by which scores are given once
    more; `classes` is the column of the allowed answers. `owner` is the task's name, for errors.
    """

    owner: str
    data: str
    split: str
    columns: dict[str, str]
    only: tuple[str, ...]
    draw: str
    groups: tuple[str, ...]
    classes: str
    needs_references: bool
    needs_document: bool
    needs_question: bool

    def __len__(self) -> int:
        return len(self._questions)

    def row(self, sample: int) -> Row:
        """Raises: RowError for a row that cannot be scored, or lacks the document."""
        row = self.unchecked(sample)
        if self.needs_references and not row.references:
            raise RowError(f"{self.where(sample)} has no references to score an answer by{self._lacking(row)}.")
        if self.needs_document and row.document_id is None:
            raise self.without_document(sample)
        if self.needs_question and is_blank(row.question):
            raise RowError(f"{self.where(sample)} has no question, and the prompt of {self.owner} names one.")
        return row

    def unchecked(self, sample: int) -> Row:
        """Raises: RowError for a row that cannot be read."""
        return self._questions.row(sample)

    def document(self, row: Row) -> str:
        """The text of a row's document."""
        return self._questions.document(row)

    def where(self, sample: int) -> str:
        """The row of a sample, in words."""
        return f"row {self._questions.number(sample) + 1} of {self.data} ({self.split})"

    def without_document(self, sample: int) -> RowError:
        """The error for a row without the document that the prompt names."""
        return RowError(f"{self.where(sample)} has no document, and the prompt of {self.owner} names one.")

    def references(self, samples: int) -> Iterator[tuple[str, ...]]:
        """The references of the rows that can be used, of the first `samples`."""
        for sample in range(samples):
            with contextlib.suppress(RowError):
                yield self.row(sample).references

    def groups_of(self, row: Row, sample: int) -> dict[str, str]:
        """The value of each column that groups scores, of those that the row has. Raises: RowError, UserError."""
        for column in self.groups:
            if column not in row.meta:
                raise unknown(f"column of {self.data} in `groups`:", column, row.meta)
        found = {column: self._value(text_of, row.meta[column], column, sample) for column in self.groups}
        return {column: text for column, text in found.items() if text}

    def classes_of(self, row: Row, sample: int) -> list[str]:
        """The allowed answers of a row. Raises: RowError for a row without any; UserError for an unknown column."""
        fields = fields_of(row)
        if self.classes not in fields:
            raise unknown(f"column of {self.data} as `classes`:", self.classes, fields)
        classes = self._value(texts_of, fields[self.classes], self.classes, sample)
        if not classes:
            raise RowError(f"{self.where(sample)} has no classes in `{self.classes}`.")
        return list(classes)

    def demonstrations(self, row: Row, shots: int, split: str, rng: random.Random) -> list[Row]:
        """`shots` rows of a split, of its own never the row itself, or one that asks the same of its document; where a
        column tells questions apart, as many questions, and never the row's own.

        Raises: UserError if there are not so many.
        """
        if not shots:
            return []
        pool, keyed = questions(self.data, split, self.columns), KEY in row.meta
        same = pool is questions(self.data, self.split, self.columns)  # as with a file, which has no splits
        asked = (row.question, row.document_id)
        found: dict[int, Row] = {}
        seen = {row.meta.get(KEY)}
        # All rows, where too many of the first are left out.
        for count in (len(pool),) if keyed else (min(len(pool), shots + 1), len(pool)):
            for number in rng.sample(range(len(pool)), count) if len(found) < shots else ():
                other = pool.row(number)
                itself = other.id == row.id or (row.question and (other.question, other.document_id) == asked)
                left_out = other.meta.get(KEY) in seen if keyed else same and itself
                if len(found) < shots and not left_out:
                    found[number] = other
                    seen.add(other.meta.get(KEY))
        if len(found) < shots:
            what = " of other questions" if keyed else ""
            raise UserError(f"{self.data} has {len(pool)} rows in {split}, not enough{what} for {shots} shots.")
        return list(found.values())

    @property
    def _questions(self) -> Questions:
        rows = questions(self.data, self.split, self.columns, wanted(self.owner, self.only))
        return drawn(rows, f"{self.data} ({self.split})", self.draw) if self.draw else rows

    def _lacking(self, row: Row) -> str:
        """The columns that a row has instead, where it has none for references."""
        if self.columns.get("references", "references") in row.meta or not row.meta:
            return ""
        return f": its columns are {brief(list(row.meta))}; say in `columns` which is which"

    def _value(self, read: Callable[[Any, str], Value], value: Any, column: str, sample: int) -> Value:
        """Raises: RowError for a value that is not text."""
        try:
            return read(value, f"`{column}` of {self.where(sample)}")
        except UserError as error:
            raise RowError(str(error)) from error


def fields_of(row: Row) -> dict[str, Any]:
    """The fields of a row by which templates and columns name them."""
    return {**row.meta, "question": row.question, "choices": row.choices, "references": row.references}


def wanted(owner: str, only: tuple[str, ...]) -> dict[str, str]:
    """The value that each column must have, from `column=value`. Raises: UserError for another form."""
    pairs = [item.partition("=") for item in only]
    if broken := [item for item, (column, equals, _) in zip(only, pairs, strict=True) if not column or not equals]:
        raise UserError(f"{owner}: only={brief(broken[0])} is not column=value, as in only=[length=long].")
    return {column.strip(): value.strip() for column, _, value in pairs}
