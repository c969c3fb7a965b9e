"""Templates of one's own: text in, text out, within a second or two, or a sentence."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks.jinja import MADE, render_bounded

FIELDS: dict[str, Any] = {
    "document": "D",
    "question": "Who is it?",
    "choices": ("one", "two"),
    "meta": {"a": 1},
    "none": None,
    "nan": math.nan,
    "year": 1999,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ document }}: {{ question }}\n", "D: Who is it?\n"),
        ("{% for c in choices %}{{ loop.index }}. {{ c }} {% endfor %}", "1. one 2. two "),
        ("{{ choices | join(', ') }} {{ ', '.join(choices) }} {{ year + 1 }}", "one, two one, two 2000"),
        ("{{ question | replace('i', 'o') }} {{ question.replace('W', 'w') }}", "Who os ot? who is it?"),
        ("{{ '-' * 3 }}{{ '%05d' % 7 }}{{ '{:>4}'.format(7) }}{{ 'x' | center(5) }}", "---00007   7  x  "),
        ("{% if none %}{{ none }}{% endif %}{{ meta.a }}", "1"),
        ("{{ 2 ** 10 }} {{ 3 * 4 }}", "1024 12"),
    ],
)
def test_what_a_template_makes(template: str, text: str) -> None:
    assert render_bounded("mine", template, FIELDS) == text


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ choices }}", r"prints a list or mapping \(\('one', 'two'\)\)"),
        ("{{ meta }}", "prints a list or mapping"),
        ("{{ none }}", "prints a value that is missing"),
        ("{{ nan }}", "prints a value that is missing"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ question", "unexpected end of template"),
        ("{% for %}", ""),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ question + 1 }}", "TypeError"),
        ("{{ meta.b }}", "has no attribute 'b'"),
        ("{{ 'é'.encode('ascii') }}", "UnicodeEncodeError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ year.__init__.__globals__ }}", "unsafe|undefined"),
        ("{% include 'x' %}", ""),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", ""),
        ("{{ " + "-" * 5000 + "1 }}", ""),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
    ],
)
def test_what_is_refused(template: str, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^mine: (.|\n)*(?:{sentence})"):
        render_bounded("mine", template, FIELDS)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ ([1] * 10**9) | length }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x\n' | indent(1000000000) }}",
        "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999) | join('y' * 99999) }}",
        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    ],
)
def test_bombs(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.tasks.jinja.SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^mine: "):
        render_bounded("mine", template, FIELDS)
    assert time.monotonic() - started < 10  # less than one on a quiet machine


def test_a_long_row_is_no_bomb() -> None:
    text = "word " * MADE
    fields = {**FIELDS, "question": text}
    assert render_bounded("mine", "{{ question | replace('word', 'w') }}", fields) == "w " * MADE
    assert render_bounded("mine", "{{ question.strip() }}{{ question | trim }}", fields) == 2 * text.strip()


def test_tracing_is_as_it_was() -> None:
    before = sys.gettrace()
    render_bounded("mine", "{{ question }}", FIELDS)
    assert sys.gettrace() is before
