"""Jinja with bounds: templates come in YAML files from anywhere, and must neither run forever nor exhaust memory.

Jinja's sandbox keeps a template from Python's internals. This module adds a time limit, a limit on the rendered text,
and a limit on every operation whose result can be far larger than its operands (`'x' * 10**9`, `'%1000000000d' % 1`,
`replace`, `join`). Only text and numbers can be printed: a list, a mapping or a missing value would appear in the
prompt as its Python repr.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lcbench.core.errors import UserError
from lcbench.data.values import SHOWN, shortened

SECONDS = 2.0  # per prompt
CHARACTERS = 2**26  # per prompt: a row may contain a book
MADE = 2**20  # characters, items or bits that one operation may produce from short operands
WIDTH = re.compile(r"\d{6,}")  # in a format string, as in `%1000000d`
PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs"}


def render_bounded(owner: str, template: str, fields: Mapping[str, Any]) -> str:
    """The template rendered with these fields. Raises: UserError for any error in the template, or an exceeded
    limit."""
    parts: list[str] = []
    size = 0
    try:
        with deadline(SECONDS):
            for part in _compiled(template).generate(fields):
                parts.append(part)
                size += len(part)
                if size > CHARACTERS:
                    raise SecurityError(f"it makes more than {CHARACTERS:,} characters")
    except TemplateError as error:
        raise UserError(f"{owner}: {str(error.message).rstrip('.')}; known are {', '.join(fields)}.") from error
    except Exception as error:  # a template is a program and can raise anything
        gist = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{owner}: its template fails ({gist[:SHOWN]}); mend it.") from error
    return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a size check before each operation that can produce a large result."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _allow(len(text) * times)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            digits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            _allow(digits)
        if operator == "%" and isinstance(left, str):
            _allow_format(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja names it)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            _allow_method(owner, name, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _allow_format(value.__self__)
        return wrapped


def _allow(size: int) -> None:
    if size > MADE:
        raise SecurityError(f"one operation in it makes {size:,} characters or items; {MADE:,} are allowed")


def _allow_format(text: str) -> None:
    if WIDTH.search(text):
        raise SecurityError(f"the width in its format {shortened(text)} is too large")


def _allow_method(text: str, name: str, arguments: tuple[Any, ...]) -> None:
    """Raises: SecurityError for a string method whose result would exceed both `MADE` and the size of its input."""
    if name in PADDING and arguments and isinstance(arguments[0], int):
        _allow(arguments[0])
    elif name == "replace" and len(arguments) > 1 and isinstance(arguments[1], str):
        _allow_more(len(text), text.count(str(arguments[0])) * len(arguments[1]))
    elif name == "join" and arguments and isinstance(arguments[0], str | list | tuple):
        _allow_more(len(text), len(arguments[0]) * len(text))


def _allow_more(size: int, more: int) -> None:
    if more > size:
        _allow(more)


def _printed(value: Any) -> Any:
    """The value itself, if it is text or a number. Raises: TemplateError for a missing value, a list or a mapping."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise TemplateError("it prints a value that is missing in this row; write {% if ... %} around it")
    if isinstance(value, Mapping | list | tuple | set):
        raise TemplateError(
            f"it prints a list or mapping ({shortened(value)}); write `| join(', ')` or name the part that is meant"
        )
    return value


def _filter(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def bounded(value: Any, *arguments: Any, **options: Any) -> Any:
        numbers = [number for number in (*arguments, *options.values()) if isinstance(number, int)]
        _allow(max(numbers, default=0) * (str(value).count("\n") + 1 if name == "indent" else 1))
        if name == "format":
            _allow_format(str(value))
        return original(value, *arguments, **options)

    return bounded


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_printed)
    for name in ("center", "indent", "format"):
        environment.filters[name] = _filter(environment.filters[name], name)
    plain_replace, plain_join = environment.filters["replace"], environment.filters["join"]

    def replace(context: Any, text: str, old: str, new: str, count: int | None = None) -> Any:
        _allow_method(str(text), "replace", (old, new))
        return plain_replace(context, text, old, new, count)

    def join(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
        items = list(value)
        _allow_method(str(d), "join", (items,))
        return plain_join(context, items, d, attribute)

    replace.jinja_pass_arg = plain_replace.jinja_pass_arg  # type: ignore[attr-defined]
    join.jinja_pass_arg = plain_join.jinja_pass_arg  # type: ignore[attr-defined]
    environment.filters |= {"replace": replace, "join": join}
    return environment


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit the run time of this thread's Python code: compiled templates are Python code, which a trace function sees
    line by line. Raises: SecurityError."""
    end, before = time.monotonic() + seconds, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise SecurityError(f"it takes more than {seconds:g} seconds")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
