"""Parsers of command-line values: lengths, lists, and `name:option=value,option=value`."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from typing import Any, Literal, get_args, get_origin

from lcbench.core.errors import UserError, brief, unknown

UNITS = {"": 1, "k": 2**10, "m": 2**20}
LARGEST_SEED = 2**63 - 1  # what a column of a table holds
LONGEST = 2**27  # tokens of a run: beyond every model, and the prompt alone would take gigabytes


def parse_length(text: str) -> int:
    """`4k` -> 4096, `128k` -> 131072, `1m` -> 1048576, `3000` -> 3000. Raises: UserError."""
    match = re.fullmatch(r"(\d{1,300}(?:\.\d+)?)([km]?)", text.strip().lower())
    size = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not match or size < 1 or size != int(size):
        raise UserError(f"{brief(text)} is not a length in tokens; write 4096, 4k or 128k (k = 1024).")
    return int(size)


def parse_seq_len(text: str) -> int:
    """The length of a run. Raises: UserError."""
    length = parse_length(text)
    if length > LONGEST:
        raise UserError(f"{brief(text)} is longer than any run; --seq-len goes up to {LONGEST // UNITS['m']}m.")
    return length


def parse_lengths(text: str) -> list[int]:
    """A comma-separated list of lengths of runs, in the order typed, each once; `256..16k` is 256, 512, ... 16k.

    Raises: UserError.
    """
    lengths: list[int] = []
    for item in text.split(","):
        first, *rest = (parse_seq_len(end) for end in item.split("..", 1))
        last = rest[0] if rest else first
        if first > last:
            raise UserError(f"{item.strip()!r} goes down; write the shorter length first.")
        while first < last:
            lengths.append(first)
            first *= 2
        lengths.append(last)
    return list(dict.fromkeys(lengths))


def parse_depths(text: str) -> list[float]:
    """`11` -> eleven depths from 0 to 1 (at most 999 of them); `0,0.5,1` -> these. Raises: UserError."""
    if re.fullmatch(r"\s*\d{1,3}\s*", text) and int(text) >= 2:
        return [step / (int(text) - 1) for step in range(int(text))]
    try:
        numbers = [float(item) for item in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number <= 1 for number in numbers):
        raise UserError(
            f"{brief(text)} is not a list of depths; write a count such as 11, or fractions such as 0,0.5,1."
        )
    return list(dict.fromkeys(numbers))


def split_list(text: str) -> list[str]:
    """Split a list of `name:option=value,...` entries at the commas that start a new entry.

    A comma before `name=value` goes on with the options, one inside brackets belongs to a value; any other comma
    starts the next entry.
    """
    entries: list[str] = []
    for part in split_options(text):
        part = part.strip()
        if entries and re.match(r"\w+\s*=", part):
            entries[-1] += "," + part
        else:
            entries.append(part)
    return entries


def split_options(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    return re.split(r",(?![^\[]*\])", text)


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """`name:a=1,b=[2,3]` -> (`name`, {`a`: `1`, `b`: `[2,3]`}). Raises: UserError."""
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for item in split_options(rest) if rest.strip() else []:
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not option or not value:
            raise UserError(f"{item.strip()!r} in {spec!r} is not option=value.")
        if option in options:
            raise UserError(f"{spec!r} gives {option} twice.")
        options[option] = value
    return name.strip(), options


def convert_options(owner: str, cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """Options (strings or values) -> values of the types that the fields of dataclass `cls` declare.

    Raises: UserError for an unknown option or a value that does not fit, naming `owner`.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for option in options:
        if option not in known:
            raise unknown(f"option of {owner}", option, known) if known else UserError(f"{owner} has no options.")
    return {option: _convert(f"{owner}: {option}", value, hints[option]) for option, value in options.items()}


def _convert(what: str, value: Any, hint: Any) -> Any:
    """A value, or its text, as a type hint says: Literal, tuple, dict, str, bool, int, float, any of them or None."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
        if value is None:
            return None
    if get_origin(hint) is Literal:
        if {"on", "off"} <= set(get_args(hint)):  # which YAML takes for true and false
            value = {"true": "on", "false": "off"}.get(str(value).strip().lower(), value)
        if value not in get_args(hint):
            raise UserError(f"{what} must be {' or '.join(map(str, get_args(hint)))}, not {brief(value)}.")
        return value
    if get_origin(hint) is tuple:
        return _convert_list(what, value, get_args(hint))
    if get_origin(hint) is dict:
        return _require(what, value, dict, "a mapping, not {}.")
    if hint is str:
        return _require(what, value, str, "text, not {}; put it in quotes.")
    if hint is bool:
        text = str(value).strip().lower()
        if text not in ("true", "false"):
            raise UserError(f"{what} must be true or false, not {brief(value)}.")
        return text == "true"
    return _convert_number(what, value, hint) if hint in (int, float) else hint(value)


def _require(what: str, value: Any, kind: type, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{what} must be {wanted.format(brief(value))}")
    return value


def _convert_number(what: str, value: Any, kind: type) -> int | float:
    """A finite float, or an int, which may be written as a length is: 4k."""
    text = str(value).strip()
    try:
        if kind is float:
            number = float(text)
            if not math.isfinite(number):
                raise ValueError
            return number
        if text == "0":
            return 0
        return -parse_length(text[1:]) if text.startswith("-") else parse_length(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{what} must be {wanted}, not {brief(value)}.") from None


def _convert_list(what: str, value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list, or its text `[6,12,18]`, as a tuple; `hints` is (int, ...) for any number of them, (int, int) for two."""
    if isinstance(value, str) and re.fullmatch(r"\s*\[.*\]\s*", value):
        inside = value.strip()[1:-1]
        value = [item.strip() for item in inside.split(",")] if inside.strip() else []
    if not isinstance(value, list | tuple):
        raise UserError(f"{what} must be a list such as [1,2], not {brief(value)}.")
    if hints[-1] is not Ellipsis and len(value) != len(hints):
        raise UserError(f"{what} must be a list of {len(hints)}, not {brief(value)}.")
    return tuple(_convert(what, item, hints[0]) for item in value)


def write(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, tuple):
        return f"[{','.join(map(write, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0")
