"""The meaning of a value in a user's row: a text, several texts, or missing; never the Python repr of an object.

    references: "4821", ["4821", "4,821"], 4821, 4821.0, {"text": ["4821"], "answer_start": [20]}
    document:   a text, or a list of paragraphs

A number becomes the text a reader would write (`4821.0`, which pandas writes for a column with gaps, is 4821). NaN,
null and blank texts are missing. A mapping with a key `text` (SQuAD's answers, ARC's choices) is replaced by that
value. Any other object is refused, since it is ambiguous.
"""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from lcbench.core.errors import UserError

RawRow = Mapping[str, Any]  # a row as its source has it: columns and their values
BYTE_ORDER_MARK = "\ufeff"
PARAGRAPHS = "\n\n"  # separator of the paragraphs of a document
SHOWN = 120  # characters of a value that are shown in an error
APART = re.compile(r"(['\"])\s+(['\"])")
PRINTED = re.compile(r"[\[{]\s*['\"]|\{.*\barray\(", re.DOTALL)


def clean(text: str) -> str:
    """A text without byte order mark and with \\n as line break: the same text from a .txt file, JSON or parquet."""
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def require_distinct(columns: Iterable[str], name: str) -> None:
    """Raises: UserError for columns of one name, of which only the last would be read."""
    for column, count in Counter(filter(None, columns)).items():
        if count > 1:
            raise UserError(f"{name} has {count} columns {column!r}; give each a name of its own.")


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """The texts in a value, without missing ones. Raises: UserError, beginning with `where`, for any other object."""
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]
    found = [text_of(item, where) for item in (value if isinstance(value, list | tuple) else [value])]
    return tuple(text for text in found if not is_blank(text))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, zero-width and control characters."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def text_of(value: Any, where: str) -> str:
    """The single text in a value; empty if it is missing. Raises: UserError, beginning with `where`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        whole = isinstance(value, int) or value == int(value)
        return str(int(Decimal(repr(value)))) if whole else format(Decimal(repr(value)), "f")  # no 4821.0, no 1e+22
    kind = {bool: "true or false", dict: "a mapping", list: "a list"}.get(type(value), type(value).__name__)
    raise UserError(
        f"{where} is {kind} ({shortened(value)}), where a text is needed; write it as text, or name another column."
    )


def document_of(value: Any, where: str) -> str:
    """A text, or a list of paragraphs joined by blank lines. Raises: UserError, beginning with `where`."""
    return clean(PARAGRAPHS.join(texts_of(value, where)) if isinstance(value, list | tuple) else text_of(value, where))


def spelled_out(cell: str, where: str, opening: str = "[") -> Any:
    """The list (or mapping) that a cell of a CSV spells out, as JSON or as a Python literal; else the text itself.

    Raises: UserError, beginning with `where`, for a Python repr that cannot be parsed.
    """
    if cell[:1] not in opening or cell.rstrip()[-1:] not in "]}":
        return cell
    for read in (json.loads, _python):
        try:
            found = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    if PRINTED.match(cell):
        raise UserError(
            f"{where} is an object that Python printed ({shortened(cell)}); write the file again with a JSON list."
        )
    return cell


def _python(cell: str) -> Any:
    """A Python literal. Raises: ValueError or SyntaxError for anything else, and for an array as numpy prints it,
    without commas: Python would concatenate its strings."""
    if APART.search(cell):
        raise ValueError
    return ast.literal_eval(cell)


def shortened(value: Any) -> str:
    """The beginning of a value, for an error."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = SHOWN
    shown = short.repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
