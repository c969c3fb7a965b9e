"""A line or a file of JSON, parsed to an object that can be written as UTF-8 again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from lcbench.core.checks import FieldError

DEEPEST = 64  # levels of nested lists and objects
FEW_BRACKETS = 500  # fewer cannot nest deeply enough to matter
SURROGATE = re.compile(rb"\\u[dD]")


def parse(text: bytes) -> dict[str, Any]:
    """An object of JSON in UTF-8; a lone surrogate, which JSON can express and UTF-8 cannot, becomes U+FFFD.

    Raises: FieldError for anything but an object, or for one that is nested too deeply.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FieldError("is not JSON in UTF-8") from error
    if type(content) is not dict:
        raise FieldError("is not a JSON object")
    if text.count(b"[") + text.count(b"{") > FEW_BRACKETS:
        for key, value in content.items():
            if _deep(value, DEEPEST):
                raise FieldError("is nested too deeply", key)
    if SURROGATE.search(text):
        return cast(dict[str, Any], _whole(content))
    return content


def _deep(value: Any, left: int) -> bool:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not left or any(_deep(entry, left - 1) for entry in entries if isinstance(entry, dict | list))


def without_halves(text: str) -> str:
    """A text whose halves of surrogate pairs became whole characters, and those without the other half U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _whole(value: Any) -> Any:
    """The same value with lone surrogates replaced."""
    if isinstance(value, str):
        return without_halves(value)
    if isinstance(value, dict):
        return {_whole(key): _whole(entry) for key, entry in value.items()}
    return [_whole(entry) for entry in value] if isinstance(value, list) else value
