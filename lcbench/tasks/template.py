"""Prompts rendered from Jinja templates and split into the segments before and after the document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside, encode_start
from lcbench.tasks.format import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = "thedocumentstandshere"  # placeholder of the document while a prompt is rendered


@dataclass(frozen=True)
class Segments:
    """A prompt without its document: token ids before it (`head`) and after it (`tail`); `lead` are the spaces before
    the document, which are tokenised with it."""

    head: list[int]
    lead: str
    tail: list[int]
    has_document: bool
    at_start: bool  # nothing but the tokenizer's own prefix (BOS) precedes the document


def render(owner: str, template: str, fields: dict[str, Any]) -> str:
    """The template rendered with these fields, and with a marker for `document`.

    Control tokens spelled out in the fields must be marked as text (`lcbench.core.tokens.as_text`); the template itself
    may write control tokens.

    Raises: UserError for a template that is malformed, exceeds a limit, prints a value that is not text, or names an
    unknown field.
    """
    from lcbench.tasks.jinja import render_bounded

    return render_bounded(owner, template, fields | {"document": MARKER})


def segments(format_: PromptFormat, tokenizer: PreTrainedTokenizerBase, text: str) -> Segments:
    """Token ids of a rendered prompt, inside the tokenizer's chat template if the format says so.

    Spaces before the document are tokenised with it, since most tokenizers join a space to the following word.
    Raises: UserError for a template with two documents, or a tokenizer without the chat template that is asked for.
    """
    if text.count(MARKER) > 1:
        raise UserError(f"{format_.owner}: the template has its document {text.count(MARKER)} times; name it once.")
    chat = format_.in_chat(tokenizer)
    before, marker, after = (format_.render(tokenizer, text) if chat else text).partition(MARKER)
    if MARKER in after:
        raise UserError(f"{format_.owner}: the tokenizer's chat template writes the prompt twice; use --chat off.")
    head = before.rstrip(" ") if marker else before
    start = format_.encode_chat(tokenizer, head) if chat else encode_start(tokenizer, head, format_.bos)
    return Segments(
        head=start,
        lead=before[len(head) :],
        tail=encode_inside(tokenizer, after) if after else [],
        has_document=bool(marker),
        at_start=not head,
    )
