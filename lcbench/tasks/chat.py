"""Chat templates: what a task says must come out of them whole, and the same on every day.

Templates come with models and are programs (Jinja, in the sandbox of `transformers`). Some drop a system message, some
want content as a list of parts, some write today's date: each of these has its right form here, or is refused by name.
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

# "Today" of every prompt: Llama 3.1's own default date. With the true one a run would ask other prompts each day.
TODAY = datetime.date(2024, 7, 26)
DATE_CALL = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])(.*?)\1\s*\)""")
PART = "{'type': 'text'"  # of a template that prints the list of parts as Python would
ANSWER = "theanswerstandshere"  # in place of an answer, to see what ends its turn


@dataclass(frozen=True)
class Said:
    """One message of a chat, by the name of its role."""

    role: str
    content: str


def render_chat(owner: str, tokenizer: PreTrainedTokenizerBase, text: str, system: str = "") -> str:
    """The prompt of a user who says `text`, up to where the answer begins, in the tokenizer's chat template.

    A template without a place for `system` gets it before the user's text, one that wants content as a list of parts
    gets it so. What the tokenizer puts before every text (BOS) stands there, too, if the template writes none.

    Raises: UserError for a tokenizer without chat template or with several and no default, for a template that fails,
    that loses what was said, or whose date cannot be fixed.
    """
    template = chat_template(owner, tokenizer)
    user = Said("user", text)
    ways = [[Said("system", system), user], [Said("user", f"{system}\n\n{text}")]] if system else [[user]]
    refusal = ""
    for messages in ways:
        for parts in (False, True):
            try:
                rendered = _render(tokenizer, template, messages, parts=parts)
            except Exception as error:  # a template is a program of somebody else's, and may raise anything
                refusal = refusal or f"refuses the prompt: {_gist(error)}"
                continue
            if all(one.content.strip() in rendered for one in messages) and not (parts and PART in rendered):
                return rendered
            refusal = refusal or "leaves out a part of the prompt"
    raise UserError(f"{owner}: the tokenizer's chat template {refusal}; use another model, or a task without chat.")


def chat_prefix(tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[int]:
    """What the tokenizer itself puts before every text, where a rendered chat does not begin with it."""
    prefix = tokenizer_prefix(tokenizer)
    written = str(tokenizer.decode(prefix)) if prefix else ""
    return [] if rendered.lstrip().startswith(written.strip()) else prefix


def chat_template(owner: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that is used, its date fixed to `TODAY`. Raises: UserError; see `render_chat`."""
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
    """Whether the chat template asks for today's date."""
    return "strftime_now" in str(tokenizer.chat_template)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The control token that the chat template puts behind an answer, such as `<|im_end|>`; empty where there is none.

    `generation_config.json` of many checkpoints names another one only, with which an answer would not end.
    """
    return _end_of_turn(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else frozenset()


@lru_cache(maxsize=64)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[int]:
    """`template` tells states of a tokenizer apart."""
    messages = [Said("user", "a"), Said("assistant", ANSWER)]
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
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Said], *, parts: bool, prompt: bool = True
) -> str:
    said: list[dict[str, Any]] = [
        {"role": one.role, "content": [{"type": "text", "text": one.content}] if parts else one.content}
        for one in messages
    ]
    return str(
        tokenizer.apply_chat_template(said, chat_template=template, tokenize=False, add_generation_prompt=prompt)
    )


def _written(date: str) -> str:
    """As it stands in a string of Jinja."""
    return date.replace("\\", "\\\\").replace('"', '\\"')


def _gist(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
