"""Templates of one's own: text in, text out, within a second or two, or a sentence."""

from __future__ import annotations

import copy
import gc
import math
import resource
import sys
import time
from functools import partial
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks.chat import render_chat
from lcbench.tasks.jinja import render_bounded
from lcbench.tasks.jinja_limits import MADE
from tests.tokenizers import build

FIELDS: dict[str, Any] = {
    "document": "D",
    "question": "Who is it?",
    "choices": ("one", "two"),
    "meta": {"a": 1},
    "none": None,
    "nan": math.nan,
    "year": 1999,
}
MODERN = """{%- set ns = namespace(system='', last=0) -%}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% set ns.system = ns.system ~ (m['content'] | trim) + '\n' %}{% continue %}{% endif %}
    {%- set ns.last = loop.index0 %}
    {{- '<|' + m.role + '|>' ~ loop.index ~ "\n" }}{% generation %}{{ m.content }}{% endgeneration %}
{%- endfor %}
{%- macro tag(name, inside='') %}<{{ name }}>{{ inside }}</{{ name }}>{% endmacro %}
{{ tag('system', ns.system) }}{{ {'é': [1, ns.last]} | tojson }}{{ '%s|%s' % (1, 'b') }}{{ "{}".format(2) }}
{{- ['a', 'b'] | join('+') }}{{ ('a' * 3) | replace('a', 'bc') | upper | list }}{{ eos_token }}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def talking(template: str) -> Any:
    tokenizer = copy.copy(build("byte-level-bos-not-added"))
    tokenizer.chat_template = template
    return tokenizer


def test_a_chat_is_what_transformers_makes_of_it() -> None:
    said = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Who is it?"}]
    tokenizer = talking(MODERN)
    rendered = render_chat("mine", tokenizer, "Who is it?", "Be brief.")
    said[0]["content"] = "Be brief."
    assert rendered == tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert "<system>Be brief.\n</system>" in rendered and rendered.endswith("</s><|assistant|>")


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


def test_a_bound_of_size_needs_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text of nested lists takes for ever in one operation, which no time limit sees."""
    monkeypatch.setattr("lcbench.tasks.jinja_limits.CHARACTERS", 2**12)
    nested = "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
    with pytest.raises(UserError, match="it makes more than 4,096 characters"):
        render_bounded("mine", f"{nested}{{{{ 'x' ~ ns.s }}}}", FIELDS)


def test_time_that_is_up_while_garbage_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a callback of the collector is lost: it is raised behind it."""
    monkeypatch.setattr("lcbench.tasks.jinja.SECONDS", 0.05)

    def slow(phase: str, info: object) -> None:
        time.sleep(0.06)
        assert phase

    made = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = collect(0) %}{% endfor %}{% endfor %}"
    gc.callbacks.append(slow)
    try:
        with pytest.raises(UserError, match=r"it takes more than 0\.05 seconds"):
            render_bounded("mine", made, {"collect": gc.collect})
    finally:
        gc.callbacks.remove(slow)


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
        "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
        "{{ 'x' ~ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
        "{{ ns.s | tojson }}",
        "{% set s = 'x' * 999999 %}{% set t %}{% for a in range(99999) %}{{ s }}{% endfor %}{% endset %}",
        "{% macro m() %}{% for a in range(99999) %}{{ 'x' * 999999 }}{% endfor %}{% endmacro %}{{ m() }}",
        "{{ (['x' * 999999] * 99999) | join | length }}",
        "{{ ''.join(['x' * 999999] * 99999) | length }}",
        "{{ (['x' * 999999] * 99999) | sum(start='') }}",
        "{{ 'x'.encode() * 10**10 }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ ('\t' * 99999).expandtabs(99999) }}",
        "{{ ('{0}' * 99999).format('x' * 99999) }}",
        "{{ ('%s' * 99999) % (('x' * 99999,) * 99999) }}",
        "{{ ('%(a)s' * 99999) % {'a': 'x' * 99999} }}",
        "{{ range(9) | batch(10**10, 'x') | list | length }}",
        "{{ range(10**9) | list | length }}",
        "{% set ns = namespace(s='x' * 999999, l=[]) %}{% for a in range(9999) %}{% set ns.l = ns.l + [ns.s | upper] %}"
        "{% endfor %}",
    ],
)
@pytest.mark.parametrize("chat", [False, True])
def test_bombs(template: str, chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second and some memory, in a prompt of one's own and in the chat template of a model."""
    monkeypatch.setattr("lcbench.tasks.jinja.SECONDS", 0.3)
    monkeypatch.setattr("lcbench.tasks.chat.SECONDS", 0.3)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    render = (
        partial(render_chat, tokenizer=talking(template), text="a")
        if chat
        else partial(render_bounded, template=template, fields=FIELDS)
    )
    with pytest.raises(UserError, match=r"^mine: "):
        render("mine")
    assert time.monotonic() - started < 10  # less than one on a quiet machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # a gigabyte


def test_a_long_row_is_no_bomb() -> None:
    text = "word " * MADE
    fields = {**FIELDS, "question": text}
    assert render_bounded("mine", "{{ question | replace('word', 'w') }}", fields) == "w " * MADE
    assert render_bounded("mine", "{{ question.strip() }}{{ question | trim }}", fields) == 2 * text.strip()


def test_tracing_is_as_it_was() -> None:
    before = sys.gettrace()
    render_bounded("mine", "{{ question }}", FIELDS)
    assert sys.gettrace() is before
