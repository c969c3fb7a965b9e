"""Common parts of RULER's tasks other than needles: a template, an answer prefix, and string matching.

Hsieh et al. 2024, https://arxiv.org/abs/2404.06654, https://github.com/NVIDIA/RULER (scripts/data/synthetic,
constants.py and one script per task). RULER adds units (lines, words, documents) while they fit, so that its prompts
stay below the length; here prompt and answer budget together are exactly the length, and every task documents how the
remainder is filled. The needles of RULER are protocols of `lcbench.tasks.needle.task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.tokens import as_text
from lcbench.metrics.ruler import strings_found
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.text.running_text import LINE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Ruler(Task):
    """A prompt of RULER: `template`, which contains `{context}`, then `answer_prefix`, which the model continues.

    Scores: `recall` is the fraction of the references that the answer contains, ignoring case (RULER's
    string_match_all, from 0 to 1); `exact` is 1 if it contains all of them.
    """

    metric: ClassVar[str] = "recall"

    template: str
    answer_prefix: str
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.template.count("{context}") != 1:
            raise UserError(f"{self.name} says {{context}} once in its template.")
        if self.max_new_tokens < 1:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, not {self.max_new_tokens}.")

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        recall = sum(strings_found(prediction, example.references)) / len(example.references)
        return {"recall": recall, "exact": float(recall == 1)}

    def _around(self, **values: object) -> tuple[str, str, str]:
        """The text before and after the context, and the answer prefix, with each `{name}` replaced by its value."""
        template, answer = self.template, self.answer_prefix
        for name, value in values.items():
            template, answer = (text.replace(f"{{{name}}}", str(value)) for text in (template, answer))
        before, _, after = template.partition("{context}")
        return before, after, answer

    def _end_line(self, tokenizer: PreTrainedTokenizerBase, after: str, answer: str) -> list[int]:
        """Token ids of the end of a prompt that starts on a new line. What it spells out is data."""
        return self.format.end(tokenizer, as_text(tokenizer, after), as_text(tokenizer, answer), line=True)

    def _too_short(self, cell: Cell, shortest: int) -> UserError:
        return UserError(f"{self.name} does not fit into {cell.seq_len} tokens; use --seq-len {shortest} or more.")


def encode_line(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text at the start of a line inside a prompt."""
    return encode_all(tokenizer, [text], LINE)[0]
