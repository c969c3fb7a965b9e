"""NoLiMa: a needle in a book whose connection to the question must be inferred."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import RowError, UserError
from lcbench.core.tokens import as_text
from lcbench.data import Books, Row, load_rows
from lcbench.metrics import score_example
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.needle.task import nearest
from lcbench.tasks.text.running_text import LINE, RunningText, encode_all, hide, too_short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

METRIC = "nolima/contains"
NEEDLES, BOOKS = "nolima/needles", "nolima/books"
CHARACTER = "{CHAR}"


@dataclass(frozen=True, kw_only=True)
class NoLiMa(Task):
    """Modarressi et al. 2025, https://arxiv.org/abs/2502.05167, with the rows of `lcbench data prepare nolima`, whose
    licence allows research only; none of them ship with lcbench. Samples iterate over the needles and their questions
    of this `kind`, book by book; the name in a needle is drawn for each sample. The needle is a separate line, at the
    line end nearest to its depth.

    Prompt and answer together are exactly `seq_len` tokens, where NoLiMa counts only the book. `template` contains
    `{haystack}` and `{question}`; a needle with its own template uses that. The wording here is lcbench's: for
    published numbers, use theirs from evaluation/run_tests.py of their repository.
    """

    family: ClassVar[str] = "nolima"
    metric: ClassVar[str] = "score"

    template: str
    kind: str = "onehop"
    max_new_tokens: int = 192

    def __post_init__(self) -> None:
        if self.template.count("{haystack}") != 1 or self.template.count("{question}") != 1:
            raise UserError(f"{self.name} says {{haystack}} and {{question}} once each in its template.")
        if self.max_new_tokens < 1:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, not {self.max_new_tokens}.")

    def require_data(self) -> None:
        if not self._rows:
            raise UserError(
                f"{NEEDLES} has no question of the kind {self.kind}; name another as {self.name}:kind=KIND."
            )
        self._books  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._rows) * len(self._books)

    def check_row(self, sample: int, seed: int) -> None:
        """Needles without name and answer, without text, or with a template that has not one place for the book."""
        row = self._rows[sample % len(self._rows)]
        template = row.meta.get("task_template") or self.template
        if template.count("{haystack}") != 1:
            raise RowError(
                f"the template of {row.id} in {NEEDLES} says {{haystack}} {template.count('{haystack}')} times."
            )
        if not str(row.meta.get("needle") or "").strip():
            raise RowError(f"{row.id} in {NEEDLES} has no needle.")
        if not row.meta.get("characters") and not row.references:
            raise RowError(f"{row.id} in {NEEDLES} has no name and no answer.")

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """The grid of lengths and depths; without depths each sample draws its own."""
        grid: list[float] | list[None] = depths or [None]
        return [Cell(seq_len, depth) for seq_len in seq_lens for depth in grid]

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Prompts in one book begin with the same text."""
        return sample // len(self._rows)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        self.check_row(sample, seed)
        number, row = sample // len(self._rows), self._rows[sample % len(self._rows)]
        rng = self.rng(cell, sample, seed)
        template = row.meta.get("task_template") or self.template
        name = rng.choice(row.meta["characters"]) if row.meta["characters"] else ""
        before, after = template.replace("{question}", row.question).split("{haystack}")
        head = self.format.start(tokenizer, as_text(tokenizer, before))
        tail = self.format.end(tokenizer, as_text(tokenizer, after))
        (needle,) = encode_all(tokenizer, [row.meta["needle"].replace(CHARACTER, name) + "\n"], LINE)
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail) - len(needle)
        if space < 1:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens; use --seq-len {cell.seq_len + 1 - space} or "
                "more."
            )
        title, text = self._books[number]
        book = _lines(tokenizer, text)
        if book.reach(space) < space:
            raise too_short(f"{BOOKS} ({title})", book.reach(space), space)
        hay, ends = book.cut(space)
        place = rng.choice(ends) if cell.depth is None else nearest(ends, cell.depth * space)
        return Example(
            head=head,
            context=hide(hay, [(place, needle)]),
            tail=tail,
            references=row.references or (name,),
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            depth=place / space,
            needle_at=len(head) + place,
            needle_tokens=len(needle),
            details={"row": row.id, "book": title},
        )

    @property
    def corpus_scorer(self) -> str:
        return METRIC

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"score": float(score_example(METRIC, prediction, example.references)["score"])}

    @property
    def _rows(self) -> Sequence[Row]:
        return _of_kind(load_rows(NEEDLES, "test"), self.kind)

    @property
    def _books(self) -> Books:
        return Books(BOOKS, "test")


@lru_cache(maxsize=4)
def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.meta["kind"] == kind]


@lru_cache(maxsize=8)
def _lines(tokenizer: PreTrainedTokenizerBase, text: str) -> RunningText:
    """The lines of a book, each with its line break."""
    return RunningText(tokenizer, (f"{line}\n" for line in text.split("\n")), LINE)
