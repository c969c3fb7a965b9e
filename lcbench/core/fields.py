"""Frozen dataclasses that are read from JSON: every field states its type, its unit and its meaning in one place.

A class declares its fields with `described`; `Reader(cls)` builds an instance from the result of `json.loads`, or names
the field that is wrong. pydantic would do as well, but importing it and building its models takes longer than a table.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Check = Callable[[Any], Any]  # JSON value -> value of the field; raises FieldError

DEEPEST = 64  # levels of nested lists and objects
FEW_BRACKETS = 500  # fewer cannot nest deeply enough to matter
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


def described(
    sentence: str,
    *,
    unit: str = "",
    key: str | None = None,
    default: Any = MISSING,
    least: float | None = None,
    most: float | None = None,
    check: Check | None = None,
    wanted: str = "",
    along: str | None = None,
) -> Any:
    """A field that JSON may lack if it has a `default`; None as default is not written.

    `key` is its name in JSON if it is no name of Python; `unit` completes "a number of"; `least` and `most` bound a
    number; `check` stands for the check of its type, and `wanted` for the words of its type in the documentation. A
    None is written only if the field `along` is given and not None.
    """
    about = {"sentence": sentence, "unit": unit, "key": key, "bounds": (least, most), "check": check, "along": along}
    about["wanted"] = wanted
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Spec:
    """One field: its name in Python and in JSON, the check of its value, its default (MISSING if required), and its
    documentation."""

    name: str
    key: str
    check: Check
    default: Any
    kind: Any
    sentence: str
    unit: str
    along: str | None
    bounds: tuple[float | None, float | None]
    wanted: str

    @property
    def optional(self) -> bool:
        return self.default is None

    @property
    def required(self) -> bool:
        return self.default is MISSING


class Reader(Generic[T]):
    """Builds a dataclass from parsed JSON. Unknown keys go into its field `extra`, if it has one."""

    def __init__(self, cls: type[T]) -> None:
        self._cls = cls
        self._specs = [(spec.name, spec.key, spec.check, spec.default) for spec in specs(cast(Any, cls))]
        self.known = frozenset(spec.key for spec in specs(cast(Any, cls)))
        self._extra = any(each.name == "extra" for each in fields(cls))  # type: ignore[arg-type]

    def __call__(self, content: Any) -> T:
        """Raises: FieldError."""
        read = self.fields(content)
        if self._extra:
            read["extra"] = {key: value for key, value in content.items() if key not in self.known}
        return made(self._cls, read)

    def fields(self, content: Any) -> dict[str, Any]:
        """The declared fields, by name. Raises: FieldError."""
        if type(content) is not dict:
            raise FieldError(f"must be an object, not {_shown(content)}")
        read = {}
        for name, key, check, default in self._specs:
            if key in content:
                try:
                    read[name] = check(content[key])
                except FieldError as error:
                    raise error.within(key) from None
            elif default is MISSING:
                raise FieldError("is missing", key)
            else:
                read[name] = default
        return read


def made(cls: type[T], read: dict[str, Any]) -> T:
    """A frozen dataclass with these fields, without the cost of its `__init__`."""
    instance = object.__new__(cls)
    object.__setattr__(instance, "__dict__", read)
    return instance


@cache
def specs(cls: Any) -> tuple[Spec, ...]:
    """The fields of a class that are declared with `described`, in order."""
    hints = get_type_hints(cls)
    return tuple(_spec(each.name, hints[each.name], each) for each in fields(cls) if "sentence" in each.metadata)


def as_json(part: Any) -> dict[str, Any]:
    """The JSON object from which a `Reader` of its class builds an equal instance."""
    written = {}
    for name, key, along in _written(cast(Any, type(part))):
        value = getattr(part, name)
        if value is None and along is not None and (not along or getattr(part, along) is None):
            continue
        written[key] = _plain(value)
    return written | getattr(part, "extra", {})


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and is_dataclass(value[0]):
        return [as_json(each) for each in value]
    if isinstance(value, dict):
        return {key: as_json(each) if is_dataclass(each) else each for key, each in value.items()}
    return as_json(value) if is_dataclass(value) else value


@cache
def _written(cls: Any) -> tuple[tuple[str, str, str | None], ...]:
    """(name, key, the field that decides whether a None is written; "" for never, None for always)."""
    return tuple((spec.name, spec.key, (spec.along or "") if spec.optional else None) for spec in specs(cast(Any, cls)))


def parse(text: bytes) -> dict[str, Any]:
    """An object of JSON in UTF-8; a lone surrogate, which JSON can express and UTF-8 cannot, becomes U+FFFD.

    Raises: FieldError for anything but an object, or for one that is nested too deeply.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FieldError("is no JSON in UTF-8") from error
    if type(content) is not dict:
        raise FieldError("is no JSON object")
    if text.count(b"[") + text.count(b"{") > FEW_BRACKETS:
        for key, value in content.items():
            if _deep(value, DEEPEST):
                raise FieldError("is nested too deeply", key)
    if b"\\ud" in text or b"\\uD" in text:
        return cast(dict[str, Any], _whole(content))
    return content


def describe(kind: Any, unit: str = "", bounds: tuple[float | None, float | None] = (None, None)) -> str:
    """A type in words: `a whole number of tokens`, `a text or null`."""
    optional, inner = _without_none(kind)
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


def _spec(name: str, kind: Any, declared: Any) -> Spec:
    about = declared.metadata
    bounds = about["bounds"]
    check = about["check"] or _check(kind, describe(kind, about["unit"], bounds), bounds)
    if declared.default is None and not about["check"] and not _without_none(kind)[0]:
        raise TypeError(f"{name} has None as its default and not in its type")
    return Spec(
        name=name,
        key=about["key"] or name,
        check=check,
        default=declared.default,
        kind=kind,
        sentence=about["sentence"],
        unit=about["unit"],
        along=about["along"],
        bounds=bounds,
        wanted=about["wanted"],
    )


def _check(kind: Any, wanted: str, bounds: tuple[float | None, float | None] = (None, None)) -> Check:
    optional, inner = _without_none(kind)
    check = _exact(inner, wanted, bounds)
    if not optional:
        return check

    def null_too(value: Any) -> Any:
        return None if value is None else check(value)

    return null_too


def _exact(kind: Any, wanted: str, bounds: tuple[float | None, float | None]) -> Check:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if kind in (int, float):
        return _number(kind, wanted, *bounds)
    if is_dataclass(kind):
        return Reader(kind)  # type: ignore[arg-type]
    if kind in (str, bool) or (origin is dict and arguments[1] is Any):
        return _of_type(origin or kind, wanted)
    if origin is dict:
        return _object(_check(arguments[1], describe(arguments[1])), wanted)
    if origin is list and arguments[0] is str:
        return _texts(wanted)
    if origin is list:
        return _list(_check(arguments[0], describe(arguments[0])), wanted)
    if origin is tuple:
        return _fixed([_check(each, describe(each)) for each in arguments], wanted)
    raise TypeError(f"no check for {kind}")


def _wrong(wanted: str, value: Any) -> FieldError:
    return FieldError(f"must be {wanted}, not {_shown(value)}")


def _of_type(kind: type, wanted: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise _wrong(wanted, value)

    return check


def _number(kind: type, wanted: str, least: float | None, most: float | None) -> Check:
    """A finite number within bounds and 64 bits; an int is accepted as a float."""
    lowest, highest = (-INT64, INT64 - 1) if kind is int else (-FINITE, FINITE)
    low: float = lowest if least is None else least
    high: float = highest if most is None else most

    def check(value: Any) -> Any:
        found: Any = type(value)
        if (found is kind or found is int) and low <= value <= high:
            return value
        raise _wrong(wanted, value)

    return check


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


def _texts(wanted: str) -> Check:
    """A list of texts, the most frequent list, checked without a call per entry."""
    entries = _list(_of_type(str, describe(str)), wanted)
    texts = {str}

    def check(value: Any) -> Any:
        return value if type(value) is list and texts.issuperset(map(type, value)) else entries(value)

    return check


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


def _without_none(kind: Any) -> tuple[bool, Any]:
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


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        words = "null" if value is None else json.dumps(value) if isinstance(value, bool) else repr(value)
    except ValueError:  # more digits than Python prints
        return "a number beyond all use"
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


def _deep(value: Any, left: int) -> bool:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not left or any(_deep(entry, left - 1) for entry in entries if isinstance(entry, dict | list))


def _whole(value: Any) -> Any:
    """The same value with lone surrogates replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(entry) for key, entry in value.items()}
    return [_whole(entry) for entry in value] if isinstance(value, list) else value
