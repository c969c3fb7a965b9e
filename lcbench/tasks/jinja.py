"""Prompts and chats from Jinja templates, within the bounds of `lcbench.tasks.jinja_limits`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.exceptions import SecurityError

from lcbench.core.errors import UserError
from lcbench.data.values import SHOWN, shortened
from lcbench.tasks.jinja_limits import BoundedEnvironment, deadline

SECONDS = 2.0  # per prompt
_compiling = threading.RLock()


def render_bounded(owner: str, template: str, fields: Mapping[str, Any]) -> str:
    """The template rendered with these fields; only text and numbers can be printed: a list, a mapping or a missing
    value would appear in the prompt as its Python repr.

    Raises: UserError for any error in the template, or an exceeded limit.
    """
    try:
        with deadline(SECONDS):
            return _compiled(template).render(fields)
    except SecurityError as error:
        raise UserError(f"{owner}: {str(error.message).rstrip('.')}; mend its template.") from error
    except TemplateError as error:
        raise UserError(f"{owner}: {str(error.message).rstrip('.')}; known are {', '.join(fields)}.") from error
    except Exception as error:  # a template is a program and can raise anything
        gist = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{owner}: its template fails ({gist[:SHOWN]}); correct it.") from error


@contextmanager
def bounded_chat(seconds: float) -> Iterator[None]:
    """Inside, chat templates that transformers renders in this process are bounded.

    transformers compiles a chat template in its own environment, with filters and globals that templates rely on. Only
    its sandbox class is replaced by the bounded one, so that everything else stays as in transformers.

    Raises: SecurityError for a template that exceeds them.
    """
    from transformers.utils import chat_template_utils as theirs

    with _compiling:
        before = theirs._compile_jinja_template
        theirs._compile_jinja_template = _compiled_chat
        try:
            with deadline(seconds):
                yield
        finally:
            theirs._compile_jinja_template = before


@lru_cache(maxsize=256)
def _compiled_chat(template: str) -> Template:
    from transformers.utils import chat_template_utils as theirs

    before = theirs.ImmutableSandboxedEnvironment
    theirs.ImmutableSandboxedEnvironment = BoundedEnvironment
    try:
        compiled: Template = theirs._cached_compile_jinja_template(template)
    finally:
        theirs.ImmutableSandboxedEnvironment = before
    return compiled


def _printed(value: Any) -> Any:
    """The value itself, if it is text or a number. Raises: TemplateError for a missing value, a list or a mapping."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise TemplateError("it prints a value that is missing in this row; write {% if ... %} around it")
    if isinstance(value, Mapping | list | tuple | set):
        raise TemplateError(
            f"it prints a list or mapping ({shortened(value)}); write `| join(', ')` or name the part that is meant"
        )
    return value


@lru_cache(maxsize=1)
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_printed)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)
