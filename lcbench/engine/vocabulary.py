"""Check that the model was trained with its tokenizer's BOS and EOS tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_ends(name: str, tokenizer: PreTrainedTokenizerBase, file: Callable[[str], Path | None]) -> None:
    """Raises: UserError for a BOS or EOS token that none of the tokenizer's files has: transformers adds it at the end
    of the vocabulary, where the embedding may have a row that was never trained. `file` finds a file by its name.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python code, whose vocabulary cannot be checked
        return
    known: set[str] | None = None
    for kind in ("bos", "eos"):
        token, number = getattr(tokenizer, f"{kind}_token"), getattr(tokenizer, f"{kind}_token_id")
        if token is None or backend.model.token_to_id(token) is not None:
            continue
        known = set(_added(file)) if known is None else known
        if token not in known:
            raise UserError(
                f"the tokenizer of {name} has the {kind.upper()} token {brief(token)}, which its vocabulary lacks, so "
                f"it would use an untrained row of the embedding ({number}); set {kind}_token to one of its tokens in "
                "its tokenizer_config.json and special_tokens_map.json."
            )


def _added(file: Callable[[str], Path | None]) -> Iterator[str]:
    """The tokens that the files list besides the vocabulary."""
    for entry in _content(file, "tokenizer.json", "added_tokens", []):
        yield _text(entry)
    for entry in _content(file, "tokenizer_config.json", "added_tokens_decoder", {}).values():
        yield _text(entry)
    yield from _content(file, "added_tokens.json", None, {})


def _content(file: Callable[[str], Path | None], name: str, part: str | None, default: Any) -> Any:
    """A part of a JSON file, or all of it; the default if it is missing or of another type."""
    path = file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else default
        found = content if part is None else content.get(part, default)
    except (OSError, ValueError, AttributeError, RecursionError):  # the tokenizer's loader has accepted it
        return default
    return found if isinstance(found, type(default)) else default


def _text(entry: Any) -> str:
    return str(entry.get("content")) if isinstance(entry, dict) else ""
