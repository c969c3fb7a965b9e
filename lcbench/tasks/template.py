"""Prompts written as Jinja templates, cut into what comes before, in and behind the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside, encode_plain, encode_start
from lcbench.tasks.chat import chat_prefix, render_chat

if TYPE_CHECKING:
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

    What the fields spell out of control tokens is to be marked as text (`lcbench.core.tokens.as_text`); a template may
    write them. Raises: UserError for one that is broken, takes too much, prints what is no text, or names what no row
    has.
    """
    from lcbench.tasks.jinja import render_bounded

    return render_bounded(owner, template, fields | {"document": MARKER})


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
        if not tokenizer.chat_template:
            raise UserError(
                f"{owner} asks in the chat template of the tokenizer, and this tokenizer has none: "
                f"use a chat model{', or ' * bool(instead)}{' or '.join(instead)}."
            )
        text = render_chat(owner, tokenizer, text, system)
    before, marker, behind = text.partition(MARKER)
    head = before.rstrip(" ") if marker else before
    start = chat_prefix(tokenizer, text) + encode_plain(tokenizer, head) if chat else encode_start(tokenizer, head)
    return Segments(
        head=start,
        lead=before[len(head) :],
        tail=encode_inside(tokenizer, behind) if behind else [],
        has_document=bool(marker),
        at_start=not head,
    )
