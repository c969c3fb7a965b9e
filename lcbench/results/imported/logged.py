"""A task and its samples as read from another harness's log, and checked access to the fields of a log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcbench.core.checks import FieldError, shown
from lcbench.core.errors import UserError, unknown
from lcbench.core.files import read_whole
from lcbench.core.json_objects import parse

WORDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class LoggedSample:
    """One answer. `key` identifies the sample in its task, the same in every log; `document` is the data it was made
    from. Fields that the log lacks are None."""

    key: str
    epoch: int | None = None
    document: str
    prompt: str
    references: list[str]
    prediction: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    max_new_tokens: int | None = None
    finish_reason: str | None = None
    choices: dict[str, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoggedTask:
    """The samples of a task with one model; `metric` is the score to use. `method` and `seq_len` are None if the log
    lacks them. `expected` is the planned number of samples."""

    path: Path
    harness: str
    name: str
    model: str
    metric: str
    samples: list[LoggedSample]
    method: str | None = None
    seq_len: int | None = None
    expected: int = 0
    description: str | None = None
    protocol: str | None = None
    started_at: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Entry:
    """A JSON object of a log and its location, for errors."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise UserError(f"{where} must be an object, not {shown(content)}; is it a harness's log?")
        self.content, self.where = content, where

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The value of a field of type `kind`; the default if it is missing or null. Raises: UserError."""
        value = self.content.get(name)
        if value is None:
            return default
        if kind is float and type(value) is int:
            return value
        if type(value) is not kind:
            raise UserError(f"{self.where}: {name} must be {WORDS[kind]}, not {shown(value)}.")
        return value

    def need(self, name: str, kind: type) -> Any:
        """As `get`, for a field that every log has. Raises: UserError."""
        value = self.get(name, kind)
        if value is None:
            raise UserError(f"{self.where}: {name} is missing; is it a log of another version?")
        return value

    def inside(self, name: str) -> Entry:
        """The object in a field; an empty one if it is missing."""
        return Entry(self.get(name, dict, {}), f"{self.where}: {name}")


def read_object(path: Path) -> Entry:
    """The object in a JSON file. Raises: UserError."""
    try:
        return Entry(parse(read_whole(path)), str(path))
    except FieldError as error:
        raise UserError(f"{path}: {error}; is the log complete?") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def number(value: Any) -> float | None:
    """A finite number, True and False included; None for everything else."""
    known = isinstance(value, int | float) and abs(value) < 1e150  # False for NaN
    return float(value) if known and math.isfinite(value) else None


def chosen_metric(wanted: str | None, known: Mapping[str, Any], where: str) -> str:
    """The requested metric, or the first. Raises: UserError."""
    if wanted is None:
        return next(iter(known))
    if wanted not in known:
        raise unknown(f"--metric of {where}:", wanted, known)
    return wanted
