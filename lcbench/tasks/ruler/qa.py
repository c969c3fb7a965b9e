"""Question answering: the documents with the answer among distractors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from lcbench.core.errors import UserError
from lcbench.core.tokens import as_text
from lcbench.metrics.ruler import strings_found
from lcbench.tasks.base import Cell, Example
from lcbench.tasks.ruler.base import Ruler, encode_line
from lcbench.tasks.ruler.documents import END, Collection, Question, bodies_of, collection
from lcbench.tasks.text.running_text import LINE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 64  # documents per call of the tokenizer


@dataclass(frozen=True, kw_only=True)
class DocumentQuestions(Ruler):
    """RULER's `qa_1` and `qa_2` (qa.py): a question, the documents that answer it, and others around them, in random
    order. Distractors are first those of the question (the rest of a SQuAD article, the eight distractors of
    HotpotQA), then any documents of the data. Sample n is the n-th answerable question. Data are those of `lcbench
    data prepare squad` or `hotpotqa`, or the published file as `source`; both give the same prompts.

    The length is exact: one distractor is cut at its end; a remainder too small for the label of a document is blank
    lines. Differences from RULER: HotpotQA's own distractors are left out where they do not fit, and no document occurs
    twice, so that a length beyond all documents is an error (RULER repeats them).

    Scores: `recall` is 1 if the answer contains one of the references, ignoring case (string_match_part); `exact` is 1
    if its first line equals one.
    """

    family: ClassVar[str] = "ruler_qa"

    dataset: Literal["squad", "hotpotqa"]
    source: str = ""

    def require_data(self) -> None:
        self._collection  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._collection.questions)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        shortest = _shortest(tokenizer, self)
        if cell.seq_len < shortest:
            raise self._too_short(cell, shortest)
        question, rng = self._collection.questions[sample], self.rng(cell, sample, seed)
        before, after, answer = self._ask(question)
        head = self.format.start(tokenizer, as_text(tokenizer, before))
        tail = self._end_line(tokenizer, after, answer)
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail)
        documents, left = self._fill(tokenizer, question, space, rng)
        rng.shuffle(documents)
        context = (encode_line(tokenizer, "\n") * left)[:left]
        needle_at, needle_tokens = None, 0
        for place, (number, body) in enumerate(documents, start=1):
            document = _label(tokenizer, place) + body
            if needle_at is None and number in question.answered_by:
                needle_at, needle_tokens = len(head) + len(context), len(document)
            context += document
        return Example(
            head=head,
            context=context,
            tail=tail,
            references=question.answers,
            max_new_tokens=self.max_new_tokens,
            begun=self.format.count_begun(tokenizer, answer),
            seed=self.sample_seed(cell, sample, seed),
            needle_at=needle_at,
            needle_tokens=needle_tokens,
        )

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        first_line = prediction.strip().lower().partition("\n")[0].strip()
        return {
            "recall": float(any(strings_found(prediction, example.references))),
            "exact": float(first_line in [reference.lower() for reference in example.references]),
        }

    @property
    def _collection(self) -> Collection:
        return collection(self.dataset, self.source)

    def _ask(self, question: Question) -> tuple[str, str, str]:
        """The text before the documents, the question after them, which starts on a new line, and the answer prefix."""
        before, after, answer = self._around(query=question.text)
        return before, after.removeprefix(END), answer

    def _longest_tail(self, tokenizer: PreTrainedTokenizerBase, needs: Sequence[int]) -> int:
        """The tokens of the longest question and of what it `needs` besides."""
        asked = [self._ask(question)[1:] for question in self._collection.questions]
        if self.format.in_chat(tokenizer):
            sizes = [len(self._end_line(tokenizer, *each)) for each in asked]
        else:  # in one call of the tokenizer
            sizes = [len(ids) for ids in encode_all(tokenizer, [after + answer for after, answer in asked], LINE)]
        return max(size + need for size, need in zip(sizes, needs, strict=True))

    def _fill(
        self, tokenizer: PreTrainedTokenizerBase, question: Question, space: int, rng: random.Random
    ) -> tuple[list[tuple[int, list[int]]], int]:
        """Documents (number, token ids) that fill `space` tokens together with their labels, and the tokens left
        over."""
        bodies, end = bodies_of(tokenizer, self._collection), encode_line(tokenizer, END)
        documents = list(zip(question.answered_by, bodies.of(question.answered_by), strict=True))
        left = space - sum(
            len(_label(tokenizer, place)) + len(body) for place, (_, body) in enumerate(documents, start=1)
        )
        others = self._others(question, rng)
        while batch := list(islice(others, BATCH)):
            for number, body in zip(batch, bodies.of(batch), strict=True):
                label = len(_label(tokenizer, len(documents) + 1))
                if label + len(body) <= left:
                    documents.append((number, body))
                    left -= label + len(body)
                elif label + len(end) < left:
                    return [*documents, (number, body[: left - label - len(end)] + end)], 0
                else:
                    return documents, left
        raise UserError(
            f"the documents of {self.source or self.dataset} have {space - left:,} tokens, and the prompt needs "
            f"{space:,}; give a larger file, or a shorter --seq-len."
        )

    def _others(self, question: Question, rng: random.Random) -> Iterator[int]:
        """The numbers of the distractors in random order, those of the question first."""
        yield from rng.sample(question.near, len(question.near))
        own = {*question.answered_by, *question.near}
        count = len(self._collection.documents)
        yield from (number for number in rng.sample(range(count), count) if number not in own)


@lru_cache(maxsize=4)
def _shortest(tokenizer: PreTrainedTokenizerBase, task: DocumentQuestions) -> int:
    """A length in tokens that fits every question with the documents that answer it."""
    questions = task._collection.questions
    starts = {task._ask(question)[0] for question in questions}
    head = max(len(task.format.start(tokenizer, as_text(tokenizer, before))) for before in starts)
    numbers = sorted({number for question in questions for number in question.answered_by})
    bodies = bodies_of(tokenizer, task._collection).of(numbers)
    sizes = dict(zip(numbers, map(len, bodies), strict=True))

    def needs(question: Question) -> int:
        labels = sum(len(_label(tokenizer, place)) for place in range(1, len(question.answered_by) + 1))
        return labels + sum(sizes[number] for number in question.answered_by)

    return head + task._longest_tail(tokenizer, [needs(question) for question in questions]) + task.max_new_tokens


def _label(tokenizer: PreTrainedTokenizerBase, place: int) -> list[int]:
    return encode_line(tokenizer, f"Document {place}:\n")
