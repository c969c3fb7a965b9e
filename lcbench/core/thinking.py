"""Reasoning before an answer: how families of thinking models mark it in their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Markers:
    """What stands before a thought (empty: it begins with the output), what ends it, what a model is given to write
    between the end of a thought and the answer (`close`, with the end in it), and what it writes behind its answer."""

    begin: str
    end: str
    close: str
    done: str = ""

    def split(self, text: str, *, begun: bool) -> tuple[str, str] | None:
        """A finished thought, without its markers, and the text behind it; None without one. `begun`: the prompt ends
        with the begin of the thought."""
        if self.end not in text or not (begun or self.starts(text) or not self.begin or self.end == HARMONY.end):
            return None
        thought, _, answer = text.partition(self.end)
        return self.bare(thought), self.behind(answer)

    def behind(self, text: str) -> str:
        """The answer in a text behind a thought."""
        return self.unwrapped(text.lstrip().removeprefix(self._open).lstrip())

    def unwrapped(self, text: str) -> str:
        """The answer without the tags that some families put around it."""
        inside = text.lstrip().removeprefix(self._open) if self.wraps(text) else text
        return inside.partition(self.done)[0].rstrip() if self.done and self.done in inside else inside

    def wraps(self, text: str) -> bool:
        """Whether an answer stands in the tags of the family."""
        return bool(self.done) and text.lstrip().startswith(self._open)

    def is_over(self, text: str) -> bool:
        """Whether a prompt ends behind a thought, or in the channel of answers."""
        _, end, rest = text.rpartition(self.end)
        return bool(end) and not self.behind(rest)

    @property
    def _open(self) -> str:
        return self.close.partition(self.end)[2].strip()

    def starts(self, text: str) -> bool:
        """Whether an output begins with a thought, as far as it tells."""
        return bool(self.begin) and text.lstrip().startswith(self.begin)

    def bare(self, thought: str) -> str:
        """A thought without what marks its begin, and the beginning of `close`."""
        thought = thought.lstrip().removeprefix(self.begin) if self.starts(thought) else thought
        return thought.removesuffix(self.close.partition(self.end)[0])


HARMONY = Markers(  # gpt-oss
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
)
GENERAL = Markers("<think>", "</think>", "</think>\n\n")  # Qwen 3, DeepSeek R1, SmolLM3, GLM 4.5 and most others
FAMILIES = (
    Markers("<think>", "</think>", "</think>\n<answer>\n", "</answer>"),  # Hunyuan
    Markers("<think>", "</think>", "</think>\n\n<response>\n", "</response>"),  # Granite 3.3, ERNIE 4.5
    GENERAL,
    Markers("[THINK]", "[/THINK]", "[/THINK]"),  # Magistral
    Markers("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),  # Command A
    Markers("◁think▷", "◁/think▷", "◁/think▷"),  # Kimi-VL
    Markers("<seed:think>", "</seed:think>", "</seed:think>"),  # Seed-OSS
    Markers("<thought>", "</thought>", "</thought>\n\n"),  # EXAONE Deep
    Markers("<|channel>thought", "<channel|>", "<channel|>"),  # Gemma 4
    Markers("Here is my thought process:", "Here is my response:", "\n\nHere is my response: "),  # Granite 3.2
    HARMONY,
)


def markers_of(tokenizer: PreTrainedTokenizerBase, end: str = "") -> Markers | None:
    """The markers of the model's thoughts: those that its tokenizer has as tokens, or its chat template writes; `end`
    names another end. None for a model that does not tell."""
    template, added = str(tokenizer.chat_template), tokenizer.get_added_vocab()
    families = [one for one in FAMILIES if one.done in template]
    if end:
        return next((one for one in families if one.end == end), Markers("", end, end))
    return next((one for one in families if one.end in template or one.end in added or _parts(one, added)), None)


def begun_by(text: str) -> Markers | None:
    """The markers of an output that begins with a thought, whatever model wrote it."""
    return next((one for one in FAMILIES if not one.done and one.starts(text)), None)


def _parts(markers: Markers, added: dict[str, int]) -> bool:
    return markers is HARMONY and {"<|channel|>", "<|message|>"} <= added.keys()


def require_markers(owner: str, tokenizer: PreTrainedTokenizerBase, end: str = "") -> Markers:
    """Raises: UserError for a model that does not tell how its thoughts end."""
    markers = markers_of(tokenizer, end)
    if markers is None:
        raise UserError(
            f"{owner}: neither the tokenizer nor its chat template tells how a thought ends; name it, as in "
            "--think-end '</think>', or leave --think-budget out."
        )
    return markers


def without_thought(text: str, families: Sequence[Markers] = FAMILIES) -> str:
    """The answer behind the last finished thought, whatever its family; empty behind a thought that is not finished.

    The begin is missing where the chat template writes it at the end of the prompt.
    """
    for one in families:
        _, end, answer = text.rpartition(one.end)
        if not end or (one.end[0].isalpha() and not one.starts(text)):  # words may stand in any answer
            continue
        if not one.done or one.wraps(answer):
            return one.behind(answer)
    return "" if any(one.starts(text) for one in families) else text
