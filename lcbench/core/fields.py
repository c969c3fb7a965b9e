"""Frozen dataclasses that are read from JSON: every field states its type, its unit and its meaning in one place.

A class declares its fields with `described`; `Reader(cls)` builds an instance from the result of `json.loads`, or names
the field that is wrong. pydantic would do as well, but importing it and building its models takes longer than a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast, get_type_hints

from lcbench.core.checks import Bounds, Check, FieldError, check_of, condition_of, describe, shown, without_none

T = TypeVar("T")


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

    `key` is its name in JSON if it is not a name of Python; `unit` completes "a number of"; `least` and `most` bound a
    number; `check` stands for the check of its type, and `wanted` for the words of its type in the documentation. A
    None is written only if the field `along` is given and not None.
    """
    about = {"sentence": sentence, "unit": unit, "key": key, "bounds": (least, most), "check": check, "along": along}
    about["wanted"] = wanted
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Spec:
    """One field: its name in Python and in JSON, the check of its value, which names what is wrong, a condition that
    all right values meet (if an expression can say so), its default (MISSING if required), and its documentation."""

    name: str
    key: str
    check: Check
    condition: str | None
    default: Any
    kind: Any
    sentence: str
    unit: str
    along: str | None
    bounds: Bounds
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
        self._specs = specs(cast(Any, cls))
        self._read = _compiled(self._specs)
        self.known = frozenset(spec.key for spec in self._specs)
        self._extra = any(each.name == "extra" for each in fields(cls))  # type: ignore[arg-type]

    def __call__(self, content: Any) -> T:
        """Raises: FieldError."""
        try:
            read = self._read(content)
        except (KeyError, FieldError):
            read = self._checked(content)
        if self._extra:
            read["extra"] = unknown(content, self.known)
        return made(self._cls, read)

    def fields(self, content: Any) -> dict[str, Any]:
        """The declared fields, by name. Raises: FieldError."""
        try:
            return self._read(content)
        except (KeyError, FieldError):
            return self._checked(content)

    def _checked(self, content: Any) -> dict[str, Any]:
        """The fields, one after another, so that the error names the one that is wrong."""
        if type(content) is not dict:
            raise FieldError(f"must be an object, not {shown(content)}")
        read = {}
        for spec in self._specs:
            if spec.key in content:
                try:
                    read[spec.name] = spec.check(content[spec.key])
                except FieldError as error:
                    raise error.within(spec.key) from None
            elif spec.required:
                raise FieldError("is missing", spec.key)
            else:
                read[spec.name] = spec.default
        return read


def _compiled(specs: tuple[Spec, ...]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that reads an object without a call for each of its fields; a KeyError or FieldError of its own means
    that one of them is wrong. Its source is written here, as dataclasses write `__init__`: a table reads thousands."""
    lines = ["def read(content):", "if type(content) is not dict: raise FieldError('')", "read = {}"]
    names: dict[str, Any] = {"FieldError": FieldError, "text": {str}}
    for number, spec in enumerate(specs):
        default, check, condition = f"default_{number}", f"check_{number}", spec.condition
        names |= {default: spec.default, check: spec.check}
        if spec.required:
            lines.append(f"value = content[{spec.key!r}]")
        else:
            lines.append(f"value = content.get({spec.key!r}, {default})")
        if condition is None:
            lines.append(f"if value is not {default}: value = {check}(value)")
        else:
            lines.append(f"if not ({condition} or value is {default}): raise FieldError('')")
        lines.append(f"read[{spec.name!r}] = value")
    exec("\n    ".join([*lines, "return read"]), names)
    return cast(Callable[[dict[str, Any]], dict[str, Any]], names["read"])


def unknown(content: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The entries of an object whose keys are not known."""
    return {} if known.issuperset(content) else {key: content[key] for key in content if key not in known}


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


def _spec(name: str, kind: Any, declared: Any) -> Spec:
    about = declared.metadata
    own, bounds = about["check"], about["bounds"]
    if declared.default is None and not own and not without_none(kind)[0]:
        raise TypeError(f"{name} has None as its default and not in its type")
    return Spec(
        name=name,
        key=about["key"] or name,
        check=own or check_of(kind, describe(kind, about["unit"], bounds), bounds, nested=Reader),
        condition=None if own else condition_of(kind, bounds),
        default=declared.default,
        kind=kind,
        sentence=about["sentence"],
        unit=about["unit"],
        along=about["along"],
        bounds=bounds,
        wanted=about["wanted"],
    )
