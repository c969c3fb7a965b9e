"""Checks of the values of JSON, made of a field's type and bounds; what is wrong with a value is a clause."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Union, cast, get_args, get_origin

Check = Callable[[Any], Any]  # JSON value -> value of the field; raises FieldError
Bounds = tuple[float | None, float | None]

SHOWN = 40  # characters of a wrong value
INT64 = 2**63
FINITE = sys.float_info.max


class FieldError(ValueError):
    """A field of JSON with a wrong value; the message is a clause with the full path of the field."""

    def __init__(self, wrong: str, name: str = "") -> None:
        super().__init__(f"field `{name}` {wrong}" if name else wrong)
        self.wrong, self.name = wrong, name

    def within(self, outer: str) -> FieldError:
        """The same error, with the path seen from one level above."""
        inner = self.name if not self.name or self.name[0] == "[" else f".{self.name}"
        return FieldError(self.wrong, f"{outer}{inner}")


def describe(kind: Any, unit: str = "", bounds: Bounds = (None, None)) -> str:
    """A type in words: `a whole number of tokens`, `a text or null`."""
    optional, inner = without_none(kind)
    least, most = bounds
    if inner in (int, float):
        words = "a whole number" if inner is int else "a number"
        words += f" of {unit}" if unit else ""
        if least is not None and most is not None:
            words += f" from {least:g} to {most:g}"
        elif least is not None and (least or not unit):
            words += f" from {least:g} up"
    elif inner in (str, bool, Any):
        words = {str: "a text", bool: "true or false", Any: "anything"}[inner]
    elif get_origin(inner) is list:
        words = f"a list of {_plural(get_args(inner)[0])}"
    elif get_origin(inner) is tuple:
        words = f"a list of {len(get_args(inner))} numbers"
    elif get_origin(inner) is dict and get_args(inner)[1] is not Any:
        words = f"an object of {_plural(get_args(inner)[1])}"
    else:
        words = "an object"
    return f"{words} or null" if optional else words


def check_of(kind: Any, wanted: str, bounds: Bounds = (None, None), *, nested: Callable[[type], Check]) -> Check:
    """The check of a type, whose name in words is `wanted`; `nested` makes the checks of dataclasses."""
    optional, inner = without_none(kind)
    check = _check_of(inner, wanted, bounds, nested)
    if not optional:
        return check

    def null_too(value: Any) -> Any:
        return None if value is None else check(value)

    return null_too


def condition_of(kind: Any, bounds: Bounds) -> str | None:
    """What holds for every right `value` of a scalar type, and for a list of texts, as an expression in Python; None
    for types that no expression describes."""
    optional, inner = without_none(kind)
    if inner in (int, float):
        lowest, highest = (-INT64, INT64 - 1) if inner is int else (-FINITE, FINITE)
        low, high = (unbounded if bound is None else bound for bound, unbounded in zip(bounds, (lowest, highest)))
        typed = "type(value) is int" if inner is int else "(type(value) is float or type(value) is int)"
        condition = f"{typed} and {low!r} <= value <= {high!r}"
    elif inner in (str, bool):
        condition = f"type(value) is {inner.__name__}"
    elif inner == dict[str, Any]:
        condition = "type(value) is dict"
    elif inner == list[str]:
        condition = "type(value) is list and text.issuperset(map(type, value))"
    else:
        return None
    return f"value is None or {condition}" if optional else condition


def _check_of(kind: Any, wanted: str, bounds: Bounds, nested: Callable[[type], Check]) -> Check:
    def inner(kind: Any) -> Check:
        return check_of(kind, describe(kind), nested=nested)

    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return nested(kind)  # type: ignore[arg-type]
    if origin is list:
        return _list(inner(arguments[0]), wanted)
    if origin is tuple:
        return _fixed([inner(each) for each in arguments], wanted)
    if origin is dict and arguments[1] is not Any:
        return _object(inner(arguments[1]), wanted)
    condition = condition_of(kind, bounds)
    if condition is None:
        raise TypeError(f"no check for {kind}")
    return _scalar(condition, wanted)


@cache
def _predicate(condition: str) -> Callable[[Any], bool]:
    return cast(Callable[[Any], bool], eval(f"lambda value: {condition}"))


def _scalar(condition: str, wanted: str) -> Check:
    def check(value: Any) -> Any:
        if _predicate(condition)(value):
            return value
        raise _wrong(wanted, value)

    return check


def _wrong(wanted: str, value: Any) -> FieldError:
    return FieldError(f"must be {wanted}, not {shown(value)}")


def _object(check: Check, wanted: str) -> Check:
    def entries(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(wanted, value)
        read = {}
        for key, entry in value.items():
            try:
                read[key] = check(entry)
            except FieldError as error:
                raise error.within(key) from None
        return read

    return entries


def _list(check: Check, wanted: str) -> Check:
    def entries(value: Any) -> Any:
        if type(value) is not list:
            raise _wrong(wanted, value)
        read = []
        for number, entry in enumerate(value):
            try:
                read.append(check(entry))
            except FieldError as error:
                raise error.within(f"[{number}]") from None
        return read

    return entries


def _fixed(checks: list[Check], wanted: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise _wrong(wanted, value)
        return tuple(each(entry) for each, entry in zip(checks, value, strict=True))

    return check


def without_none(kind: Any) -> tuple[bool, Any]:
    """Whether a type allows None, and the type without it."""
    if get_origin(kind) not in (Union, types.UnionType):
        return False, kind
    (inner,) = (each for each in get_args(kind) if each is not types.NoneType)
    return True, inner


def _plural(kind: Any) -> str:
    words = {str: "texts", int: "whole numbers", float: "numbers", Any: "anything"}
    if get_origin(kind) in (list, tuple):
        return f"{describe(kind).replace('a list', 'lists', 1)}"
    return words.get(kind, "objects")


def shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        words = "null" if value is None else json.dumps(value) if isinstance(value, bool) else repr(value)
    except ValueError:  # more digits than Python prints
        return "a number beyond all use"
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."
