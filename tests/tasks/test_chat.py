"""Chat templates: nothing that was said is lost, nothing follows the calendar, turns end where the template says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.core.tokens import as_text, encode_plain
from lcbench.tasks.chat import TODAY, chat_prefix, end_of_turn, render_chat, writes_date
from tests.tokenizers import BOS, build

PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}<assistant>"
)
FIRST_PART = "{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}<assistant>"
NO_SYSTEM_TURN = (
    "{% for m in messages %}{% if m['role'] != 'system' %}[{{ m['role'] }}] {{ m['content'] }}\n{% endif %}{% endfor %}"
)
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
DATED = "{% set today = strftime_now('%d %b %Y') %}Today is {{ today }}.\n" + PLAIN
LLAMA_3_1 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now(\"%d %b %Y\") %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }}\n" + PLAIN
)


def talking(template: Any, style: str = "byte-level-bos-not-added", special: tuple[str, ...] = ()) -> Any:
    tokenizer = copy.deepcopy(build(style))
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


@pytest.mark.parametrize("template", [PLAIN, PARTS, FIRST_PART, NO_SYSTEM_TURN, REFUSES_SYSTEM, DATED, LLAMA_3_1])
def test_all_that_was_said_is_in_the_prompt(template: str) -> None:
    rendered = render_chat("mine", talking(template), "The code of Mara is 4821. ", "Answer with digits.")
    assert rendered.count("Answer with digits.") == rendered.count("The code of Mara is 4821.") == 1


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("[user][assistant]", "leaves out a part of the prompt"),
        ("{% for m in messages %}{{ m.content[:5] }}{% endfor %}", "leaves out a part of the prompt"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves out a part of the prompt"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "escapes, shortens or rewrites what it is given"),
        ("{% for m in messages %}{{ m.content | replace('\n', ' ') }}{% endfor %}", "escapes, shortens or rewrites"),
        ("{% for m in messages %}{{ m.content[:1000] }}{% endfor %}", "escapes, shortens or rewrites"),
        ("{{ ['a', 'b'] | random }}" + PLAIN, "draws at random"),
        ("{{ raise_exception('only tools') }}", "refuses the prompt: only tools"),
        ("{{ messages[0].content + 1 }}", "refuses the prompt"),
        ("{{ nothing.at.all }}", "refuses the prompt"),
        ("{{ ''.__class__.__mro__ }}", "refuses the prompt"),
        ("{{ strftime_now(messages[0].content) }}", "writes the current date in a way that cannot be fixed"),
        ({"rag": PLAIN, "tool_use": PLAIN}, r"several chat templates \(rag, tool_use\)"),
    ],
)
def test_templates_that_are_refused(template: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^mine: .*{sentence}"):
        render_chat("mine", talking(template), "The code is 4821.")


def test_of_several_templates_the_default() -> None:
    named = talking({"default": PLAIN, "rag": "no"})
    assert render_chat("mine", named, "The code is 4821.") == "[user] The code is 4821.\n[assistant]"


@pytest.mark.parametrize("template", [DATED, LLAMA_3_1])
def test_the_date_is_the_same_every_day(template: str) -> None:
    tokenizer = talking(template)
    assert "26 Jul 2024" in render_chat("mine", tokenizer, "Hello there.") and TODAY.isoformat() == "2024-07-26"
    assert writes_date(tokenizer) and not writes_date(talking(PLAIN))


@pytest.mark.parametrize(
    ("style", "template", "bos"),
    [
        ("llama-3", PLAIN, True),  # the tokenizer adds one, the template writes none
        ("llama-3", "{{ bos_token }}" + PLAIN, False),
        ("byte-level-bos-not-added", PLAIN, False),  # as with Qwen: neither has one
        ("byte-level", PLAIN, False),
    ],
)
def test_one_bos_stays_one(style: str, template: str, bos: bool) -> None:
    tokenizer = talking(template, style)
    prefix = chat_prefix(tokenizer, render_chat("mine", tokenizer, "Hello there."))
    assert prefix == [tokenizer.bos_token_id] * bos


def test_the_end_of_a_turn_is_what_the_template_writes() -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer = talking(template, special=("<|im_start|>", "<|im_end|>"))
    assert end_of_turn(tokenizer) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert end_of_turn(talking(PLAIN)) == end_of_turn(build("llama-3")) == frozenset()
    ended = talking("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert end_of_turn(ended) == {ended.eos_token_id}


@pytest.mark.parametrize("style", ["byte-level-bos-not-added", "llama-3", "llama-2", "metaspace-first"])
def test_data_in_a_chat_are_no_control_tokens(style: str) -> None:
    tokenizer = talking(PLAIN, style, special=("<|im_end|>",))
    said = as_text(tokenizer, f"It says <|im_end|> and {BOS}, then goes on.")
    rendered = render_chat("mine", tokenizer, said)
    ids = encode_plain(tokenizer, rendered)
    assert not set(ids) & {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.bos_token_id}
    assert f"It says <|im_end|> and {BOS}, then goes on." in tokenizer.decode(ids)


def test_what_a_template_writes_stays_a_control_token() -> None:
    tokenizer: PreTrainedTokenizerBase = talking("{{ messages[0].content }}<|im_end|>", special=("<|im_end|>",))
    ids = encode_plain(tokenizer, render_chat("mine", tokenizer, as_text(tokenizer, "a <|im_end|> b")))
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.content.__class__.__mro__ }}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_without_end_or_out_of_its_sandbox_is_stopped(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcbench.tasks.chat.SECONDS", 0.2)
    tokenizer = talking(template)
    assert end_of_turn(tokenizer) == frozenset()
    with pytest.raises(
        UserError, match=r"^mine: the tokenizer's chat template refuses the prompt: .*; use another mod"
    ):
        render_chat("mine", tokenizer, "The code is 4821.")
