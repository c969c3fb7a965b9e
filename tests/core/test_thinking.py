"""Thoughts by family: found, cut out, and never taken for an answer."""

from __future__ import annotations

import copy

import pytest

from lcbench.core.errors import UserError
from lcbench.core.thinking import FAMILIES, GENERAL, HARMONY, Markers, markers_of, require_markers, without_thought
from lcbench.metrics import score_example
from tests.families import talking
from tests.tokenizers import build

every_family = pytest.mark.parametrize("markers", FAMILIES, ids=lambda one: one.end)


@every_family
def test_a_thought_and_its_answer(markers: Markers) -> None:
    text = f"{markers.begin}\nOne and one, so 3? No.{markers.close}2{markers.done}"
    assert markers.split(text, begun=False) == ("\nOne and one, so 3? No.", "2")
    behind = text.removeprefix(markers.begin)  # where the prompt has begun it
    assert markers.split(behind, begun=True) == markers.split(text, begun=False)
    assert markers.split(f"{markers.begin} on and on", begun=False) is None
    assert markers.split("2", begun=False) is None
    assert score_example("exact_match", text, "2")["score"] == 100
    assert without_thought(f"{markers.begin} on and on") == ""
    assert without_thought("2") == "2"
    assert markers.unwrapped(" 2") == " 2"
    assert markers.is_over(f"user{markers.begin}{markers.close}") and not markers.is_over(f"user{markers.begin}")
    # An earlier turn may have had a thought, too.
    assert not markers.is_over(f"{markers.begin}{markers.close}2{markers.done}, and now?{markers.begin}")


@every_family
def test_the_model_tells_its_markers(markers: Markers) -> None:
    tokenizer = copy.deepcopy(build("llama-3"))
    assert markers_of(tokenizer) is None
    tokenizer.chat_template = "{{ messages[0].content.split('" + markers.end + "')[-1] }}" + markers.done
    assert markers_of(tokenizer) == markers and require_markers("mine", tokenizer, markers.end) == markers
    if markers.done:
        return  # which the template alone tells
    tokenizer.chat_template = None
    parts = ["<|channel|>", "<|message|>"] if markers is HARMONY else [markers.end]
    tokenizer.add_tokens(parts)
    assert markers_of(tokenizer) == markers


def test_of_real_families() -> None:
    found = {name: markers_of(talking(name)) for name in ("qwen-3", "smollm-3", "deepseek-r1", "llama-3", "qwen-2.5")}
    assert [name for name, one in found.items() if one == GENERAL] == ["qwen-3", "smollm-3", "deepseek-r1"]
    assert found["llama-3"] is None and found["qwen-2.5"] is None


def test_an_end_of_ones_own() -> None:
    tokenizer = build("llama-3")
    with pytest.raises(UserError, match="mine: neither the tokenizer nor its chat template tells how a thought ends"):
        require_markers("mine", tokenizer)
    assert require_markers("mine", tokenizer, "[/THINK]") in FAMILIES
    own = require_markers("mine", tokenizer, "So:")
    assert own.split("One and one. So: 2", begun=False) == ("One and one. ", "2")


def test_words_that_end_a_thought_may_stand_in_any_answer() -> None:
    """Granite 3.2 marks thoughts in words."""
    assert without_thought("Sure. Here is my response: 2") == "Sure. Here is my response: 2"


def test_tags_around_an_answer() -> None:
    """Hunyuan's, also where its template was told not to think."""
    (hunyuan,) = [one for one in FAMILIES if one.done == "</answer>"]
    assert hunyuan.unwrapped("\n<answer>\n2\n</answer>") == "\n2" and hunyuan.unwrapped(" 2\n</answer> or") == " 2"
