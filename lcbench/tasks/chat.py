"""Chat templates: rendering a prompt completely and reproducibly.

A template comes with the model and is a program (Jinja, in the sandbox of `transformers`). Some drop the system
message, some expect content as a list of parts, some write today's date. Each of these cases is rendered correctly
here, or refused with an error that names it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.tokens import tokenizer_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date in every prompt: Llama 3.1's own default. With the true date, prompts would differ from day to day.
TODAY = datetime.date(2024, 7, 26)
DATE_CALL = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])(.*?)\1\s*\)""")
PART = "{'type': 'text'"  # in the output of a template that prints the list of parts itself
ANSWER = "theanswerstandshere"  # placeholder of an answer, to see which token ends its turn


@dataclass(frozen=True)
class Message:
    """One message of a chat: role (system, user, assistant) and text."""

    role: str
    content: str


def render_chat(owner: str, tokenizer: PreTrainedTokenizerBase, text: str, system: str = "") -> str:
    """The chat prompt of a user message `text`, up to the generation prompt, rendered with the tokenizer's chat
    template.

    If the template has no system role, `system` goes in front of the user's text; if it expects content as a list of
    parts, it gets one.

    Raises: UserError for several templates without a `default`, and for a template that fails, that leaves out a
    message, or whose date cannot be fixed.
    """
    template = chat_template(owner, tokenizer)
    user = Message("user", text)
    ways = [[Message("system", system), user], [Message("user", f"{system}\n\n{text}")]] if system else [[user]]
    refusal = ""
    for messages in ways:
        for parts in (False, True):
            try:
                rendered = _render(tokenizer, template, messages, parts=parts)
            except Exception as error:  # a template is third-party code, and may raise anything
                refusal = refusal or f"refuses the prompt: {_gist(error)}"
                continue
            if all(one.content.strip() in rendered for one in messages) and not (parts and PART in rendered):
                return rendered
            refusal = refusal or "leaves out a part of the prompt"
    raise UserError(f"{owner}: the tokenizer's chat template {refusal}; use another model, or a task without chat.")


def chat_prefix(tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[int]:
    """Token ids that the tokenizer puts before every text (BOS), if the rendered chat does not begin with them; else
    []."""
    prefix = tokenizer_prefix(tokenizer)
    written = str(tokenizer.decode(prefix)) if prefix else ""
    return [] if rendered.lstrip().startswith(written.strip()) else prefix


def chat_template(owner: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the tokenizer's (default) chat template, its date replaced by `TODAY`.

    Raises: UserError for several templates without a `default`, or a date that cannot be replaced.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise UserError(
                f"{owner}: this tokenizer has several chat templates ({', '.join(sorted(template))}), and none is "
                "called `default`; name one so in its tokenizer_config.json."
            )
        template = template["default"]
    if not isinstance(template, str):
        raise UserError(f"{owner}: the tokenizer's chat template is no text.")
    fixed = DATE_CALL.sub(lambda found: f'"{_written(TODAY.strftime(found[2]))}"', template)
    if "strftime_now" in fixed.replace("strftime_now is defined", ""):
        raise UserError(
            f"{owner}: the tokenizer's chat template asks for the date in a way that cannot be fixed, so that the same "
            "run would differ from day to day; write a date into the template."
        )
    return fixed


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the current date."""
    return "strftime_now" in str(tokenizer.chat_template)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The id of the control token that the chat template writes after an answer, such as `<|im_end|>`; empty if none.

    `generation_config.json` of many checkpoints lists only another token, with which an answer would not end.
    """
    return _end_of_turn(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else frozenset()


@lru_cache(maxsize=64)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[int]:
    """`template` is part of the cache key only: a tokenizer's template may be replaced."""
    messages = [Message("user", "a"), Message("assistant", ANSWER)]
    for parts in (False, True):
        try:
            rendered = _render(tokenizer, chat_template("", tokenizer), messages, parts=parts, prompt=False)
        except Exception:
            continue
        if ANSWER in rendered:
            ids = tokenizer(rendered.rpartition(ANSWER)[2].lstrip(), add_special_tokens=False).input_ids
            return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)
    return frozenset()


def _render(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], *, parts: bool, prompt: bool = True
) -> str:
    said: list[dict[str, Any]] = [
        {"role": one.role, "content": [{"type": "text", "text": one.content}] if parts else one.content}
        for one in messages
    ]
    return str(
        tokenizer.apply_chat_template(said, chat_template=template, tokenize=False, add_generation_prompt=prompt)
    )


def _written(date: str) -> str:
    """Escaped for a string literal of Jinja."""
    return date.replace("\\", "\\\\").replace('"', '\\"')


def _gist(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
