"""Whether the tokens that begin and end texts are tokens that the model knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_ends(name: str, tokenizer: PreTrainedTokenizerBase, file: Callable[[str], Path | None]) -> None:
    """Tell a BOS or EOS token that none of the tokenizer's files has: transformers adds it at the end of the
    vocabulary, where the embedding may have a row, which no training has touched. `file` finds a file by its name.

    Raises: UserError.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python, whose vocabulary is its own
        return
    known: set[str] | None = None
    for kind in ("bos", "eos"):
        token, number = getattr(tokenizer, f"{kind}_token"), getattr(tokenizer, f"{kind}_token_id")
        if token is None or backend.model.token_to_id(token) is not None:
            continue
        known = set(_added(file)) if known is None else known
        if token not in known:
            raise UserError(
                f"the tokenizer of {name} has {brief(token)} as its {kind.upper()} token, which its vocabulary lacks, "
                f"so that an unused row of the embedding would stand for it ({number}); name one of its tokens as "
                f"{kind}_token in its tokenizer_config.json and special_tokens_map.json."
            )


def _added(file: Callable[[str], Path | None]) -> Iterator[str]:
    """The tokens that the files list besides the vocabulary proper."""
    for entry in _content(file, "tokenizer.json", "added_tokens", []):
        yield _text(entry)
    for entry in _content(file, "tokenizer_config.json", "added_tokens_decoder", {}).values():
        yield _text(entry)
    yield from _content(file, "added_tokens.json", None, {})


def _content(file: Callable[[str], Path | None], name: str, part: str | None, default: Any) -> Any:
    """A part of a file, or the whole; the default where it is not there, or something else."""
    path = file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else default
        found = content if part is None else content.get(part, default)
    except (OSError, ValueError, AttributeError, RecursionError):  # which the tokenizer's loader has let pass
        return default
    return found if isinstance(found, type(default)) else default


def _text(entry: Any) -> str:
    return str(entry.get("content")) if isinstance(entry, dict) else ""
