"""BABILong: the facts of a story, in their order, between the sentences of a book."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lcbench.core.errors import UserError
from lcbench.metrics import example_numbers
from lcbench.tasks.babilong.stories import STORIES
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.text.running_text import (
    GENERATED,
    SENTENCE,
    encode_all,
    hide,
    require_text,
    running_text,
    too_short,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Babilong(Task):
    """Kuratov et al. 2024, https://arxiv.org/abs/2406.10149, at any length: prompt and answer together are exactly
    `seq_len` tokens of the model's own tokenizer. Facts are inserted between whole sentences, in order and at random
    places, several of which may coincide, as in the paper.

    Differences from the published rows (`babilong/qa1` to `babilong/qa5`, whose stories are those of bAbI): stories are
    drawn by templates here, and the book is generated, so that no model has read it; its people have other names than
    those of the stories. `haystack=FOLDER` takes a book of one's own, in which nothing is changed. In an answer about
    things that were given, the last time counts. A space stands before the first sentence.

    `template` contains `{context}` and `{question}`. Scores, from 0 to 100: see lcbench.metrics.babilong.
    """

    family: ClassVar[str] = "babilong"
    metric: ClassVar[str] = "score"

    story: Literal["qa1", "qa2", "qa3", "qa4", "qa5"]
    template: str
    max_new_tokens: int = 20
    haystack: str = GENERATED

    def __post_init__(self) -> None:
        if self.template.count("{context}") != 1 or self.template.count("{question}") != 1:
            raise UserError(f"{self.name} says {{context}} and {{question}} once each in its template.")
        if self.max_new_tokens < 1:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, not {self.max_new_tokens}.")

    def require_data(self) -> None:
        require_text(self.haystack)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        story = STORIES[self.story](self.rng(Cell(0), sample, seed))  # the same at every length
        before, after = self.template.replace("{question}", story.question).split("{context}")
        head, tail = self.format.start(tokenizer, before), self.format.end(tokenizer, after)
        facts = encode_all(tokenizer, [f" {fact}" for fact in story.facts], SENTENCE)
        space = cell.seq_len - self.max_new_tokens - len(head) - len(tail) - sum(map(len, facts))
        if space < 1:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens, even with hardly any text; use --seq-len "
                f"{cell.seq_len + 1 - space} or more."
            )
        text = running_text(tokenizer, self.haystack, f"{self.name}|haystack|{sample}|{seed}")
        if text.reach(space) < space:
            raise too_short(self.haystack, text.reach(space), space)
        hay, ends = text.cut(space)
        rng = self.rng(cell, sample, seed)
        places = sorted(rng.choice(ends) for _ in facts)
        needed = story.needed[-1]
        return Example(
            head=head,
            context=hide(hay, list(zip(places, facts, strict=True))),
            tail=tail,
            references=(story.answer, story.question),
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            depth=places[needed] / space,
            needle_at=len(head) + places[needed] + sum(map(len, facts[:needed])),
            needle_tokens=len(facts[needed]),
            details={"facts": len(facts), "supporting": [places[number] / space for number in story.needed]},
        )

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """The book of a sample begins with the same text at every length, up to its first fact."""
        return sample

    @property
    def corpus_scorer(self) -> str:
        return f"babilong/{self.story}"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return example_numbers(self.corpus_scorer, prediction, example.references)
