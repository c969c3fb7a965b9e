"""A thought before the answer: generated up to its end or its budget, then closed, so that the model answers after it.

Two engine calls: the prompt without the answer prefix, up to the end of the thought; then the prompt with the thought,
its end marker and the answer prefix, to which the task's own budget and stop strings apply. A thought that did not end
within its budget is closed for the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lcbench.core.thinking import Markers, begun_by, markers_of
from lcbench.core.tokens import as_text, encode_inside
from lcbench.engine.base import UNKNOWN_STOP, CallCost, Output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAST = 24  # tokens at the end of a prompt that show whether it begins a thought, or has ended one


@dataclass(frozen=True)
class Thought:
    """A thought as text, its tokens and whether it was cut (None: unknown); `behind` are the tokens between the prompt
    and the answer."""

    text: str
    tokens: int
    cut: bool | None
    behind: list[int]


class Thinking:
    """A model's thought markers, and the budget of a thought in tokens, its end marker included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Markers, budget: int) -> None:
        self.markers, self._tokenizer = markers, tokenizer
        self._close = encode_inside(tokenizer, markers.close)
        self.budget = max(budget - len(self._close), 1)

    def is_over(self, prompt: list[int]) -> bool:
        """Whether the prompt ends after a thought, as with `enable_thinking=false`."""
        return self.markers.is_over(self._end_of(prompt))

    def thought(self, prompt: list[int], output: Output) -> Thought | None:
        """The thought in an output; None if the model began none."""
        begun, text = has_begun(self._tokenizer, self.markers, prompt), output.text
        split = self.markers.split(text, begun=begun)
        if split is None and not (begun or not self.markers.begin or self.markers.starts(text)):
            return None
        bare = split[0] if split else self.markers.bare(text)
        opened = "" if begun or not self.markers.starts(text) else self.markers.begin
        ids = encode_inside(self._tokenizer, opened + as_text(self._tokenizer, bare))[: self.budget]
        cut = None if split is None and output.finish_reason == UNKNOWN_STOP else split is None
        # An answer may begin in its channel at once, without a thought that would have to be ended.
        at_once = text.lstrip().startswith(self.markers.end)
        close = encode_inside(self._tokenizer, self.markers.end) if at_once else self._close
        return Thought(bare.strip(), len(ids), cut, behind=ids + close)

    def _end_of(self, prompt: list[int]) -> str:
        return str(self._tokenizer.decode(prompt[-LAST:]))


def has_begun(tokenizer: PreTrainedTokenizerBase, markers: Markers, prompt: list[int]) -> bool:
    """Whether the prompt ends with the start marker of a thought, as in DeepSeek R1's template."""
    return bool(markers.begin) and str(tokenizer.decode(prompt[-LAST:])).rstrip().endswith(markers.begin)


def split_answer(
    tokenizer: PreTrainedTokenizerBase, end: str, prompt: list[int], text: str, *, templated: bool = False
) -> tuple[str | None, str, bool | None]:
    """The thought (None without one), the answer after it, and whether the thought was cut, in an output that may have
    both. A thought that did not end contains no answer. `templated`: after the prompt comes a template that is not seen
    here, and may begin a thought."""
    markers = markers_of(tokenizer, end) or begun_by(text)
    if markers is None:
        return None, text, None
    begun = markers.end in text if templated else has_begun(tokenizer, markers, prompt)
    split = markers.split(text, begun=begun)
    if split is not None:
        return split[0].strip(), split[1], False
    if begun or markers.starts(text):
        return markers.bare(text).strip(), "", True
    return None, markers.unwrapped(text), None


def cost_of_both(thinking: CallCost, answering: CallCost) -> CallCost:
    """The total cost of a thought and its answer: the first call prefills the prompt, and all else is decode."""
    return replace(
        CallCost.total([thinking, answering]),
        prefill_seconds=thinking.prefill_seconds,
        decode_seconds=thinking.decode_seconds + answering.prefill_seconds + answering.decode_seconds,
        reused_tokens=thinking.reused_tokens,
    )
