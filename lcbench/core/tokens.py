"""Prompts as tokens: exact in length, one BOS, no stray spaces."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters after which a tokenizer starts afresh before a space or a line break; tried in turn.
ANCHORS = ("a", "1", ".")
SHORT = 4096  # characters of a text that is worth remembering with its tokens


def encode_start(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of text at the start of a prompt, with what the tokenizer itself puts there (BOS; `[gMASK]<sop>` of GLM).

    A tokenizer that has a BOS but adds none gets one all the same: exactly one everywhere. No EOS.
    """
    plain, full = _encode(tokenizer, "a"), list(tokenizer("a").input_ids)
    starts = [n for n in range(len(full)) if full[n : n + len(plain)] == plain]
    prefix = full[: starts[0]] if starts else []
    if not prefix and tokenizer.bos_token_id is not None:
        prefix = [tokenizer.bos_token_id]
    return prefix + _encode(tokenizer, text)


def encode_inside(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of text as it stands inside a prompt, where it starts with a space or a line break (or is a new word).

    Tokenizers of the SentencePiece family put a space before whatever they are given; that space belongs to the start
    of a prompt only.
    """
    for anchor in ANCHORS:
        before, ids = _encode(tokenizer, anchor), _encode(tokenizer, anchor + text)
        if ids[: len(before)] == before:
            return ids[len(before) :]
    return _encode(tokenizer, text)


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text as it is, special tokens that it spells out among them, and none added."""
    return list(_encode(tokenizer, text))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _encode_short(tokenizer, text) if len(text) <= SHORT else _encode_anew(tokenizer, text)


@lru_cache(maxsize=4096)
def _encode_short(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _encode_anew(tokenizer, text)


def _encode_anew(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids
