"""Prompts as tokens: exact in length, one BOS, no stray spaces."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters that no tokenizer merges with a following space or line break; tried in turn.
ANCHORS = ("a", "1", ".")
LINE = "\n"
BosRule = Literal["auto", "always", "never", "text"]
SHORT = 4096  # characters, up to which the tokens of a text are cached
# Unicode noncharacters, which no text contains: they enclose the number of a control token that is spelled out.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKED = re.compile(f"{OPEN}([0-9]+){CLOSE}")


def tokenizer_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that the tokenizer itself prepends to every text: BOS, `[gMASK]<sop>` (GLM), or none. Never EOS."""
    plain, full = _encode(tokenizer, "a"), list(tokenizer("a").input_ids)
    starts = [n for n in range(len(full)) if full[n : n + len(plain)] == plain]
    return full[: starts[0]] if starts else []


def prompt_prefix(tokenizer: PreTrainedTokenizerBase, bos: BosRule = "auto") -> list[int]:
    """Token ids before the text of a prompt, by the BOS rule: the tokenizer's own prefix, which is none where it adds
    none (`auto`); that, or else one BOS (`always`); or nothing (`never`). Before a `text` whose likelihood is measured,
    so that its first token has one too: the tokenizer's prefix, else BOS, else EOS, if it has any of them.

    Raises: UserError for `always` with a tokenizer that has no BOS token.
    """
    if bos == "never":
        return []
    prefix = tokenizer_prefix(tokenizer)
    if prefix or bos == "auto":
        return prefix
    if bos == "text":
        return [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if tokenizer.bos_token_id is None:
        raise UserError("the model's tokenizer has no BOS token; leave --bos always out.")
    return [tokenizer.bos_token_id]


def former_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids before every prompt of runs before there was a BOS rule: `always`, or nothing without a BOS token."""
    return prompt_prefix(tokenizer, "auto" if tokenizer.bos_token_id is None else "always")


def encode_start(tokenizer: PreTrainedTokenizerBase, text: str, bos: BosRule = "auto") -> list[int]:
    """Token ids of a text at the start of a prompt, with the prefix of `prompt_prefix`."""
    return prompt_prefix(tokenizer, bos) + _encode(tokenizer, text)


def encode_inside(tokenizer: PreTrainedTokenizerBase, text: str, *, line: bool = False) -> list[int]:
    """Token ids of a text inside a prompt, where it starts with a space or a line break (or is a new word); with
    `line`, at the start of a line.

    Tokenizers of the SentencePiece family prepend a space to every text they encode; that space belongs to the start
    of a prompt only.
    """
    for anchor in (LINE, *ANCHORS) if line and OPEN not in text else ANCHORS:
        before, ids = _encode(tokenizer, anchor), _encode(tokenizer, anchor + text)
        if ids[: len(before)] == before:
            return ids[len(before) :]
    return _encode(tokenizer, text)


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, special tokens that it spells out included, none added."""
    return list(_encode(tokenizer, text))


def as_text(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """Data for a prompt: a control token that a document or question spells out stays text when it is encoded.

    `value` is a text, or lists and mappings with texts in them. Control tokens are the tokenizer's special tokens, and
    the added ones that its chat template writes, such as `<think>`; in the result they are marked, and `encode_*`
    encode their characters. A value without any is returned unchanged.
    """
    pattern, _ = _control_tokens(tokenizer)
    if pattern is None:
        return value
    if isinstance(value, str):
        return pattern.sub(lambda found: f"{OPEN}{(found.lastindex or 1) - 1}{CLOSE}", value)
    if isinstance(value, dict):
        return {key: as_text(tokenizer, item) for key, item in value.items()}
    return type(value)(as_text(tokenizer, item) for item in value) if isinstance(value, list | tuple) else value


def spelled_out(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The inverse of `as_text`."""
    spellings = _control_tokens(tokenizer)[1]
    return MARKED.sub(lambda found: spellings[int(found[1])], text) if OPEN in text else text


@lru_cache(maxsize=64)
def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[re.Pattern[str] | None, list[str]]:
    """A pattern that matches control tokens in a text (None without any), a group each, and how they are written."""
    templates = tokenizer.chat_template or ""
    written = "".join(templates.values()) if isinstance(templates, dict) else templates
    added = tokenizer.added_tokens_decoder.values()
    tokens = [token for token in added if token.content.strip() and (token.special or token.content in written)]
    tokens.sort(key=lambda token: len(token.content), reverse=True)
    same = _same_characters(tokenizer) if any(token.normalized for token in tokens) else {}
    forms = (
        "".join(same.get(character, re.escape(character)) if token.normalized else re.escape(character)
                for character in token.content)
        for token in tokens
    )  # fmt: skip
    pattern = re.compile("|".join(f"({form})" for form in forms)) if tokens else None
    return pattern, [token.content for token in tokens]


def _same_characters(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """For characters of which the tokenizer's normalizer makes one (`<` and its full width form, A and a), a pattern
    for all of them: a token that is looked for in normalized text is spelled by any."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None or normalizer.normalize_str("aA\uff1c").endswith("A\uff1c"):
        return {}
    start, same = normalizer.normalize_str("a"), dict[str, list[str]]()
    for character in map(chr, (*range(0x20, 0xD800), *range(0xE000, 0xFFD0), *range(0xFFE0, 0xFFF0))):
        same.setdefault(normalizer.normalize_str("a" + character).removeprefix(start), []).append(character)
    classes = (f"[{''.join(map(re.escape, group))}]" for group in same.values())
    return {
        character: pattern
        for group, pattern in zip(same.values(), classes, strict=True)
        if group[1:]
        for character in group
    }


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _encode_short(tokenizer, text) if len(text) <= SHORT else _encode_anew(tokenizer, text)


@lru_cache(maxsize=4096)
def _encode_short(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _encode_anew(tokenizer, text)


def _encode_anew(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if OPEN not in text:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids
    spellings = _control_tokens(tokenizer)[1]
    ids = []
    for place, part in enumerate(MARKED.split(text)):  # text and number alternate
        if place % 2:
            ids += _encode_characters(tokenizer, spellings[int(part)])
        elif part:
            ids += encode_inside(tokenizer, part) if place else _encode(tokenizer, part)
    return ids


def _encode_characters(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """Tokens of the characters of a control token."""
    # Split in two, since no tokenizer recognises a control token from its parts.
    return [*encode_inside(tokenizer, token[:1]), *encode_inside(tokenizer, token[1:])]
