"""The format of a prompt: in the tokenizer's chat template or as plain text, and the tokens before it.

    plain    [prefix] text before the context | context | text after it, answer prefix
    chat     [prefix] template, text before the context | context | text after it, template, answer prefix

The template is rendered with a placeholder for the text that is not rendered with it, so that spaces at either end are
trimmed as the template trims them, and lengths count what the model reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lcbench.core.errors import UserError
from lcbench.core.thinking import HARMONY, markers_of
from lcbench.core.tokens import BosRule, encode_inside, encode_plain, encode_start, former_prefix, prompt_prefix
from lcbench.tasks.chat import Message, around_answer, chat_prefix, read_options, render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatRule = Literal["auto", "on", "off"]
REST = "therestofthetextstandshere"  # placeholder of the text before or after the one that is rendered
ASKED, ANSWERED = "thequestionstandshere", "thelabelstandshere"  # placeholders in the turns of demonstrations


def begun_answer(question: str) -> tuple[str, str]:
    """A question with an answer prefix, split after the last question mark: `What is the pass key?`, ` The pass key
    is`."""
    asked, mark, answer = question.rpartition("?")
    return (asked + mark, answer) if mark else (question, "")


@dataclass(frozen=True)
class PromptFormat:
    """The format of a task's prompts; `owner` is the task's name, for errors, and `instead` what to use without a chat
    template.

    chat: in the chat template; `auto` if the tokenizer has one. `system` is the system message, `chat_options` are
    variables of the template as `name=value`. bos: see `lcbench.core.tokens.prompt_prefix`; in a chat, a BOS that the
    template writes is kept, and never doubled.
    """

    owner: str
    chat: ChatRule = "auto"
    bos: BosRule = "auto"
    system: str = ""
    chat_options: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    thinks: bool = False

    def in_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts are in the chat template. Raises: UserError for `on` with a tokenizer that has none."""
        if self.chat == "on" and not tokenizer.chat_template:
            raise UserError(
                f"{self.owner} uses the tokenizer's chat template, but this tokenizer has none: use a chat "
                f"model, or {' or '.join(self.instead or ('--chat off',))}."
            )
        return self.chat != "off" and bool(tokenizer.chat_template)

    def start(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Token ids of the start of a prompt, up to the end of `text`."""
        if not self.in_chat(tokenizer):
            return encode_start(tokenizer, text, self.bos)
        return self.encode_chat(tokenizer, self._split(self.render(tokenizer, text + REST), REST)[0])

    def end(self, tokenizer: PreTrainedTokenizerBase, text: str, answer: str = "", *, line: bool = False) -> list[int]:
        """Token ids of the end of a prompt, from `text` on (`line`: at the start of a line), with the answer prefix
        `answer`, which follows the generation prompt."""
        if self.in_chat(tokenizer):
            text = self._split(self.render(tokenizer, REST + text), REST)[1]
            answer = self.begun(tokenizer, answer)
        return self.joined(tokenizer, text, answer, line=line)

    def count_begun(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
        """The number of tokens of the answer prefix at the end of a prompt, which may follow a thought instead."""
        apart = self.thinks and self.in_chat(tokenizer) and answer
        return len(encode_inside(tokenizer, self.begun(tokenizer, answer))) if apart else 0

    def joined(self, tokenizer: PreTrainedTokenizerBase, text: str, answer: str, *, line: bool = False) -> list[int]:
        """Token ids of the end of a prompt, template included."""
        if self.count_begun(tokenizer, answer):  # tokens of their own
            return encode_inside(tokenizer, text, line=line) + encode_inside(tokenizer, answer)
        return encode_inside(tokenizer, text + answer, line=line)

    def begun(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
        """The answer prefix as it follows the generation prompt: after a space if the template writes one before
        answers, and in the answer channel if there is one (gpt-oss)."""
        before = around_answer(tokenizer, self.chat_options)[0]
        lead = " " if before.endswith(" ") else ""
        if before.endswith(HARMONY.end) and not self.thinks:  # else the thought ends with it
            lead = HARMONY.end
        return answer and lead + answer.lstrip()

    def after_answer(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text that the chat template writes after an answer, stripped of white space; may be empty."""
        return around_answer(tokenizer, self.chat_options)[1].strip()

    def turns(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str, str]:
        """The text that the chat template writes around demonstrations in turns: before the first question, between a
        question and its answer, between an answer and the next question, and after the last question.

        Raises: UserError if it is not the same around every turn.
        """
        if not self.in_chat(tokenizer):
            raise UserError(f"{self.owner}: multiturn needs a chat template; leave it out.")
        said = [Message("user", ASKED), Message("assistant", ANSWERED)] * 2
        rendered = self.render(tokenizer, ASKED, said)
        before, *parts = rendered.split(ASKED)
        pairs = [part.split(ANSWERED) for part in parts[:-1]]
        if len(parts) != 3 or any(len(pair) != 2 for pair in pairs) or pairs[0] != pairs[1]:
            raise UserError(
                f"{self.owner}: the tokenizer's chat template does not render all turns alike, so demonstrations "
                "cannot be separate turns; leave multiturn out."
            )
        return before, pairs[0][0], pairs[0][1], parts[-1]

    def begins_thought(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the generation prompt ends with the start marker of a thought, as DeepSeek R1's does."""
        markers = markers_of(tokenizer)
        if markers is None or not markers.begin or not self.in_chat(tokenizer):
            return False
        return self.render(tokenizer, REST).rstrip().endswith(markers.begin)

    def render(self, tokenizer: PreTrainedTokenizerBase, text: str, earlier: list[Message] | None = None) -> str:
        """The chat prompt that ends with the user message `text`, after `earlier` turns."""
        variables = self.variables(tokenizer)
        return render_chat(self.owner, tokenizer, text, self.system, earlier=earlier or [], variables=variables)

    def encode_chat(self, tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[int]:
        """Token ids of the start of a rendered chat."""
        prefix = [] if self.bos == "never" else chat_prefix(tokenizer, rendered, self.bos)
        return prefix + encode_plain(tokenizer, rendered)

    def variables(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The template's variables that `chat_options` set. Raises: UserError for one that it does not know."""
        return read_options(self.owner, tokenizer, self.chat_options)

    def identity(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The format's part of a run's identity: all that differs from the former fixed format, which was plain text
        after a BOS."""
        if self.in_chat(tokenizer):
            options = {"system": self.system, "chat_options": list(self.chat_options)}
            return (
                {"chat": True}
                | ({} if self.bos == "auto" else {"bos": self.bos})
                | {name: value for name, value in options.items() if value}
            )
        prefix = prompt_prefix(tokenizer, self.bos)
        return {} if prefix == former_prefix(tokenizer) else {"bos": tokenizer.convert_ids_to_tokens(prefix)}

    def _split(self, rendered: str, marker: str) -> tuple[str, str]:
        if rendered.count(marker) != 1:
            raise UserError(
                f"{self.owner}: the tokenizer's chat template writes the prompt {rendered.count(marker)} times; use "
                "--chat off."
            )
        before, _, after = rendered.partition(marker)
        return before, after
