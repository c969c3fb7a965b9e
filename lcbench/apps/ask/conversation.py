"""One document and a steered model: prompts, answers as they come, one prefill of the document for all questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lcbench.apps.ask.pages import Pages
from lcbench.core.errors import UserError
from lcbench.core.tokens import as_text, encode_inside
from lcbench.data.raw import require_whole_characters
from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.prefix_cache import PrefixCache
from lcbench.methods import Method
from lcbench.methods.base import READING
from lcbench.tasks.chat import end_of_turn
from lcbench.tasks.format import PromptFormat
from lcbench.tasks.template import MARKER, segments

# ChunkLlama's words (test_zero_shot.py, https://github.com/HKUNLP/ChunkLlama), without its call for short answers.
PROMPT = f"Document is as follows. {MARKER}\n\n{{question}}"
BEFORE = 8  # tokens of the prompt that are decoded with the answer: alone, it would lose or gain a space at its start


class Prompts:
    """The prompts about a document: in the tokenizer's chat template, where it has one; else the question ends the
    prompt, and the model continues it."""

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase, pages: Pages) -> None:
        self._model, self._pages, self.tokenizer = model, pages, tokenizer
        self.chat = bool(tokenizer.chat_template)

    def __call__(self, question: str) -> list[int]:
        """Tokens of the prompt. Raises: UserError for a question that is empty, or that the template drops."""
        if not question.strip():
            raise UserError("the question is empty.")
        require_whole_characters(question, "the question")
        text = PROMPT.format(question=as_text(self.tokenizer, question.strip()))
        parts = segments(PromptFormat(self._model), self.tokenizer, text)
        return parts.head + self._document + parts.tail

    @cached_property
    def _document(self) -> list[int]:
        return encode_inside(self.tokenizer, as_text(self.tokenizer, " " + self._pages.text))


class Conversation:
    """Questions to a steered model, one after another; `length` is that of the steered block, in tokens."""

    def __init__(
        self, model: PreTrainedModel, method: Method, prompts: Prompts, length: int, max_new_tokens: int
    ) -> None:
        self._model, self._prompts, self._length, self._budget = model, prompts, length, max_new_tokens
        # Within a block the length of the run stays the same, so a prefix comes out the same unless the method counts
        # from the end of the prompt, or selects keys by the queries behind them.
        shares = method.for_prompt(1) == method.for_prompt(2) and not method.hooks & READING
        self._prefixes = PrefixCache(model.config) if shares else None
        self.reused = 0

    def ask(self, question: str, show: Callable[[str], bool]) -> str:
        """The answer. `show` is called with each piece of text as it is generated, and ends the answer by returning
        True. Afterwards `reused` is the number of prompt tokens whose keys and values came from the last question.

        A model without chat template does not end its answers: the first line is taken.
        Raises: UserError for a question that leaves no tokens for its answer.
        """
        prompt = self._prompts(question)
        if len(prompt) + self._budget > self._length:
            raise UserError(
                f"with this question, document and answer need {len(prompt) + self._budget} tokens, and the run has "
                f"{self._length}; ask a shorter one, or use a longer --seq-len."
            )
        shown = ""

        def watch(tokens: list[int]) -> bool:
            nonlocal shown
            text, ended = self._answer(prompt, tokens)
            piece = text[len(shown) :]
            shown = text
            return (show(piece) if piece else False) or ended

        ends = stop_tokens(self._model, self._prompts.tokenizer) | end_of_turn(self._prompts.tokenizer)
        done = generate(self._model, prompt, self._budget, ends, self._prefixes, watch)
        self.reused = done.reused
        rest = self._answer(prompt, done.tokens, complete=True)[0]
        if len(rest) > len(shown):
            show(rest[len(shown) :])
        return rest

    def _answer(self, prompt: Sequence[int], tokens: list[int], *, complete: bool = False) -> tuple[str, bool]:
        """The text of the tokens so far, and whether it has ended. An incomplete UTF-8 character at the end is held
        back until it is complete, trailing white space until more text follows."""
        before = list(prompt[-BEFORE:])
        text = self._decode(before + tokens)[len(self._decode(before)) :].lstrip()
        if not self._prompts.chat and "\n" in text:
            return text.partition("\n")[0].rstrip(), True
        return (text if complete else text.rstrip("\ufffd")).rstrip(), False

    def _decode(self, tokens: list[int]) -> str:
        return str(self._prompts.tokenizer.decode(tokens, skip_special_tokens=True))
