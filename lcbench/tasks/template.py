"""Prompts written as Jinja templates, cut into what comes before, in and behind the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside, encode_plain, encode_start

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

MARKER = "thedocumentstandshere"  # in place of the document while a prompt is put together


@dataclass(frozen=True)
class Segments:
    """A prompt around its document: what stands before and behind it as tokens, `lead` what belongs to its text."""

    head: list[int]
    lead: str
    tail: list[int]
    has_document: bool
    at_start: bool  # nothing but what the tokenizer itself puts there stands before the document


def render(owner: str, template: str, fields: dict[str, Any]) -> str:
    """A template with these fields filled in; `document`, where the template has it, as a marker.

    Templates come from YAML files: they run in Jinja's sandbox. Raises: UserError for one that is broken, or names
    what no row has.
    """
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(fields | {"document": MARKER})
    except TemplateError as error:
        raise UserError(f"{owner}: {error.message}; known are document, {', '.join(fields)}.") from error


def segments(
    owner: str,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    chat: bool = False,
    system: str = "",
    instead: Sequence[str] = (),
) -> Segments:
    """The tokens of a rendered prompt, inside the tokenizer's chat template if `chat`.

    Spaces before the document go with its text, as tokenizers have it. Raises: UserError for two documents in a
    template, or a tokenizer without chat template; `instead` are tasks to name then.
    """
    if text.count(MARKER) > 1:
        raise UserError(f"{owner}: the template has its document {text.count(MARKER)} times; name it once.")
    if chat:
        text = _in_chat(owner, tokenizer, text, system, instead)
    before, marker, behind = text.partition(MARKER)
    head = before.rstrip(" ") if marker else before
    start = encode_plain(tokenizer, head) if chat else encode_start(tokenizer, head)
    return Segments(
        head=start,
        lead=before[len(head) :],
        tail=encode_inside(tokenizer, behind) if behind else [],
        has_document=bool(marker),
        at_start=not head,
    )


def _in_chat(owner: str, tokenizer: PreTrainedTokenizerBase, text: str, system: str, instead: Sequence[str]) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"{owner} asks in the chat template of the tokenizer, and this tokenizer has none: "
            f"use a chat model{', or ' * bool(instead)}{' or '.join(instead)}."
        )
    user = {"role": "user", "content": text}
    for messages in ([{"role": "system", "content": system}, user], [{**user, "content": f"{system}\n\n{text}"}]):
        try:
            chosen = messages if system else [user]
            return str(tokenizer.apply_chat_template(chosen, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:  # templates without a system role refuse it: Gemma's, Mistral's first
            refusal = error
    raise UserError(f"{owner}: the tokenizer's chat template refuses the prompt: {refusal}.")


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template)
