"""Bounds for Jinja: templates in YAML files and models come from anywhere, and must neither run forever nor exhaust
memory.

Jinja's sandbox protects Python's internals. In addition, a render has a time limit and a budget: the total number of
characters that its operations produce, where an entry of a list counts as eight. Operations whose result can be far
larger than their operands (`'x' * 10**9`, `'%1000000000d' % 1`, `replace`, `join`) are checked before they run.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lcbench.data.values import shortened

CHARACTERS = 2**26  # of a rendered text: a row may contain a book
BUDGET = 2**28  # characters that a render may produce in total
MADE = 2**20  # characters, items or bits that one operation may produce from short operands
ENTRY = 8  # characters that an entry of a list counts as: a pointer
WIDTH = re.compile(r"\d{6,}")  # in a format string, as in `%1000000d`
PADDING = {"center", "ljust", "rjust", "zfill", "to_bytes"}
SIZED = {"center", "indent", "format", "batch", "slice", "wordwrap", "truncate"}  # filters that take a width or count
_render = threading.local()  # `left`: of the budget of the render in this thread


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit the run time and the budget of a render in this thread: compiled templates are Python code, which a trace
    function sees line by line. Raises: SecurityError."""
    end, before, left = time.monotonic() + seconds, sys.gettrace(), getattr(_render, "left", None)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end and not _is_of_the_collector(frame):
            raise SecurityError(f"it takes more than {seconds:g} seconds")
        return trace

    _render.left = BUDGET
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        _render.left = left


def _is_of_the_collector(frame: FrameType) -> bool:
    """Whether Python's garbage collector called it, wherever it set in: what is raised there is lost, and no line is
    traced any more."""
    code = frame.f_code
    return code.co_name == "__del__" or any(getattr(one, "__code__", None) is code for one in gc.callbacks)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a check before each operation that can produce a large result. To be used within
    `deadline`."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"finalize": _small_enough} | options)
        self.code_generator_class = _Generator
        self.filters = _Filters(self.filters | {"random": _drawn})
        self.globals = self.globals | {"lipsum": _drawn}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Jinja's own join of what a template, a macro or a block has written."""
        written = []
        size = 0
        for part in parts:
            size += len(part)
            if size > CHARACTERS:
                raise SecurityError(f"it makes more than {CHARACTERS:,} characters")
            written.append(part)
        _spend(size)
        return "".join(written)

    def counted(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operands of `~`, within the bounds of a text and the budget."""
        size = sum(map(written_size, operands))
        if size > CHARACTERS:
            raise SecurityError(f"it makes more than {CHARACTERS:,} characters")
        _spend(size)
        return operands

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _spend(size_of(left) + size_of(right))
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
                    _allow(len(text) * times)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            digits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            _allow(digits)
        if operator == "%" and isinstance(left, str | bytes):
            _allow_format(left, "%", right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja names it)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str | bytes | int):
            _allow_method(owner, name, (*args, *kwargs.values()))
        made = super().call(__context, __obj, *args, **kwargs)
        _spend(size_of(made))
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _allow_format(value.__self__, "{", (args, kwargs))
            return wrapped(*args, **kwargs)

        return bounded


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 (as Jinja names it)
        """`a ~ b`, which no interception sees."""
        self.write("(markup_join if context.eval_ctx.autoescape else str_join)(environment.counted((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")


class _Filters(dict[str, Callable[..., Any]]):
    """Filters by name, each within bounds; those that are added later, too."""

    def __init__(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__({name: _bounded(original, name) for name, original in filters.items()})

    def __setitem__(self, name: str, original: Callable[..., Any]) -> None:
        super().__setitem__(name, _bounded(original, name))


def _drawn(*_: Any, **__: Any) -> Any:
    raise SecurityError("it draws at random, so that the same run would have other prompts each time")


def _bounded(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    passed = 1 if hasattr(original, "jinja_pass_arg") else 0  # the context, or what else Jinja passes first

    @wraps(original)  # with the mark of what Jinja passes
    def bounded(*given: Any, **options: Any) -> Any:
        value, *arguments = given[passed:] or ("",)
        arguments += options.values()
        _spend(written_size(value))
        if name in SIZED:
            numbers = [number for number in arguments if isinstance(number, int)]
            _allow(max(numbers, default=0) * (str(value).count("\n") + 1 if name == "indent" else 1))
        if name == "format":
            _allow_format(str(value), "%", tuple(arguments))
        elif name == "replace":
            _allow_method(str(value), name, tuple(map(str, arguments)))
        elif name == "join":
            items = value if isinstance(value, str | list | tuple) else list(value)
            _allow_method(str(arguments[0]) if arguments else "", name, (items,))
            given = (*given[:passed], items, *given[passed + 1 :])
        made = original(*given, **options)
        _spend(size_of(made))
        return made

    return bounded


def size_of(value: Any) -> int:
    """Characters of a text, and what the entries of a list or mapping take; 0 for everything else."""
    if isinstance(value, str | bytes):
        return len(value)
    return len(value) * ENTRY if isinstance(value, list | tuple | dict | set) else 0


def written_size(value: Any) -> int:
    """About how many characters a value has as text, entries within entries included; no more than `CHARACTERS` are
    counted."""
    size, waiting = 0, [value]
    while waiting and size <= CHARACTERS:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list | tuple | set):
            waiting.extend(one)
        size += len(one) if isinstance(one, str | bytes) else ENTRY
    return size


def _spend(size: int) -> None:
    left = getattr(_render, "left", None)
    if left is None:
        return
    _render.left = left - size
    if size > left:
        raise SecurityError(f"its operations make more than {BUDGET:,} characters")


def _small_enough(value: Any) -> Any:
    """A value that is about to be printed. Raises: SecurityError for nested lists of which the text has no bounds."""
    if isinstance(value, Mapping | list | tuple | set) and written_size(value) > CHARACTERS:
        raise SecurityError(f"it makes more than {CHARACTERS:,} characters")
    return value


def _allow(size: int) -> None:
    if size > MADE:
        raise SecurityError(f"one operation in it makes {size:,} characters or items; {MADE:,} are allowed")


def _allow_format(text: str | bytes, mark: str, values: Any) -> None:
    """Raises: SecurityError for a width without bounds, or a format that repeats long values."""
    shape = text if isinstance(text, str) else text.decode("latin-1")
    if WIDTH.search(shape):
        raise SecurityError(f"the width in its format {shortened(shape)} is too large")
    _allow_more(len(shape) + written_size(values), shape.count(mark) * written_size(values))


def _allow_method(owner: str | bytes | int, name: str, arguments: tuple[Any, ...]) -> None:
    """Raises: SecurityError for a method whose result would exceed both `MADE` and the size of its input."""
    first = arguments[0] if arguments else None
    if name in PADDING and isinstance(first, int):
        _allow(first)
    if isinstance(owner, int):
        return
    text: Any = owner  # whose methods take their own kind, str or bytes
    if name == "expandtabs":
        _allow((first if isinstance(first, int) else ENTRY) * text.count("\t" if isinstance(owner, str) else b"\t"))
    elif name == "replace" and len(arguments) > 1 and isinstance(arguments[1], str | bytes):
        _allow_more(len(owner), (text.count(first) if isinstance(first, type(owner)) else 0) * len(arguments[1]))
    elif name == "join" and isinstance(first, str | list | tuple):
        _allow_more(len(owner) + written_size(first), len(first) * len(owner))
        _spend(written_size(first))


def _allow_more(size: int, more: int) -> None:
    if more > size:
        _allow(more)
