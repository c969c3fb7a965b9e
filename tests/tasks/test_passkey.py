"""Passkey: exact to the token, the needle once and where it was asked for, the same sample whatever else runs."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.passkey import Passkey
from tests.tokenizers import STYLES, build, own_start

PROTOCOLS = ["chunkllama", "longlm", "longllama"]
INSTRUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = ["The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."]


@cache
def task_of(protocol: str) -> Passkey:
    task = load_task(f"passkey:protocol={protocol}")
    assert isinstance(task, Passkey)
    return task


def text_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def whole_sentences(text: str) -> int:
    return sum(text.count(sentence) for sentence in FILLER)


@given(
    style=st.sampled_from(STYLES),
    protocol=st.sampled_from(PROTOCOLS),
    seq_len=st.integers(150, 3000),
    depth=st.none() | st.floats(0, 1),
    sample=st.integers(0, 1000),
    seed=st.integers(0, 2**40),
)
def test_a_prompt_is_exact_and_whole(
    style: str, protocol: str, seq_len: int, depth: float | None, sample: int, seed: int
) -> None:
    task, tokenizer = task_of(protocol), build(style)
    wording = task.wording
    example = task.example(Cell(seq_len, depth), sample, tokenizer, seed)
    assert len(example.prompt) + example.max_new_tokens == seq_len
    assert example.prompt == example.head + example.context + example.tail
    start = own_start(style)
    assert example.prompt[: len(start)] == start
    assert sum(token in tokenizer.all_special_ids for token in example.prompt) == len(start)

    (key,) = example.references
    assert wording.lowest <= int(key) <= wording.highest and key == str(int(key))
    text = text_of(tokenizer, example)
    needle = f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
    assert example.needle_at is not None
    assert tokenizer.decode(example.prompt[example.needle_at :][: example.needle_tokens]).strip() == needle.strip()
    assert text.startswith(wording.instruction + "\n")
    assert text.endswith(wording.glue + wording.question)
    assert text.count(needle) == 1 and text.count(key) == 2
    before, _, after = text.partition(needle)
    before = before.removeprefix(wording.instruction + "\n")
    after = after.removesuffix(wording.question).removesuffix(wording.glue)
    endless = " ".join(FILLER * (seq_len // 4))
    assert endless.endswith(after) and (not after or after.split(". ")[0].rstrip(".") + "." in FILLER)
    if after:
        endless = endless[: -len(after)].rstrip()
    assert endless.endswith(before.removeprefix(" "))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_depth_is_exact_to_a_sentence(style: str, protocol: str) -> None:
    """Depth 0 has every whole sentence behind the needle, 1 none, and d the nearest whole number of them."""
    task, tokenizer = task_of(protocol), build(style)
    for seq_len in (180, 700):
        for step in range(11):
            example = task.example(Cell(seq_len, step / 10), 0, tokenizer, 0)
            text = text_of(tokenizer, example)
            after = whole_sentences(text.rpartition("is the pass key.\n")[2])
            total = whole_sentences(text)
            # a sentence takes other tokens at the start of a line, so one more or less may be whole than at depth 0
            assert after in {count - round(step / 10 * count) for count in (total - 1, total, total + 1)}
            assert step < 10 or after == 0
            assert step > 0 or total - after <= 1
            assert example.depth == pytest.approx(step / 10, abs=0.1 if seq_len == 700 else 0.35)


def test_random_depths_reach_everywhere() -> None:
    task, tokenizer = task_of("chunkllama"), build("lcbench-tiny")
    depths = [task.example(Cell(600), sample, tokenizer, 0).depth or 0.0 for sample in range(200)]
    assert min(depths) < 0.05 and max(depths) > 0.95
    assert all(sum(low <= depth <= low + 0.25 for depth in depths) > 30 for low in (0, 0.25, 0.5, 0.75))


def test_keys_differ_between_samples_cells_and_seeds() -> None:
    task, tokenizer = task_of("chunkllama"), build("lcbench-tiny")
    keys = [
        task.example(Cell(seq_len, depth), sample, tokenizer, seed).references[0]
        for seq_len in (256, 300)
        for depth in (None, 0.0, 0.5)
        for sample in range(5)
        for seed in (0, 1)
    ]
    assert len(set(keys)) >= len(keys) - 1  # 60 of 49999: chance alone may repeat one


def test_keys_fill_the_range_of_the_protocol() -> None:
    tokenizer = build("lcbench-tiny")
    for protocol, lowest, highest in (("chunkllama", 1, 49999), ("longlm", 10000, 99999)):
        keys = [int(task_of(protocol).example(Cell(256), n, tokenizer, 0).references[0]) for n in range(200)]
        span = highest - lowest
        assert lowest <= min(keys) < lowest + span / 20 and highest - span / 20 < max(keys) <= highest


def test_a_sample_is_the_same_whatever_else_runs() -> None:
    tokenizer, cell = build("lcbench-tiny"), Cell(400, 0.3)
    alone = load_task("passkey").example(cell, 7, tokenizer, 3)
    task = dataclasses.replace(load_task("passkey"), samples=500)
    for other in (9, 7, 0):
        for seq_len in (256, 400):
            task.example(Cell(seq_len), other, tokenizer, 5)
    assert task.example(cell, 7, tokenizer, 3) == alone
    assert load_task("passkey").example(cell, 7, tokenizer, 3) == alone
    assert task.example(cell, 7, tokenizer, 4).references != alone.references


def test_samples_of_this_version() -> None:
    """Published numbers stay comparable: change these only with a new name for the task."""
    task, tokenizer = load_task("passkey"), build("lcbench-tiny")
    keys = [task.example(Cell(256), sample, tokenizer, 0).references[0] for sample in range(2)]
    assert keys == ["44999", "28729"]
    assert task.example(Cell(256), 0, tokenizer, 0).seed == 56842091474258


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_short_tells_what_fits(style: str, protocol: str) -> None:
    """The length that the message names fits every sample, and one token less fits none."""
    task, tokenizer = task_of(protocol), build(style)
    with pytest.raises(UserError, match=r"does not fit into 20 tokens") as error:
        task.example(Cell(20), 0, tokenizer, 0)
    found = re.search(r"--seq-len (\d+) or more", str(error.value))
    assert found
    shortest = int(found[1])
    for sample in range(50):
        example = task.example(Cell(shortest), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == shortest
        with pytest.raises(UserError, match=rf"--seq-len {shortest} or more"):
            task.example(Cell(shortest - 1), sample, tokenizer, 0)


@pytest.mark.parametrize("seq_len", [2**11, 2**17])
def test_a_long_prompt_needs_no_more_calls_of_the_tokenizer(seq_len: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filler is tokenised once a sentence, whatever the length."""
    tokenizer, lengths = build("byte-level-bos-added"), []
    original = type(tokenizer).__call__

    def counted(self: PreTrainedTokenizerBase, text: str, **options: Any) -> Any:
        lengths.append(len(text))
        return original(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    task = dataclasses.replace(task_of("chunkllama"), name=f"counted-{seq_len}")
    for sample in range(3):
        example = task.example(Cell(seq_len), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == seq_len
    assert len(lengths) < 100 and max(lengths) < 300


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("protocol", ["chunkllama", "longllama"])
def test_the_budget_is_the_answer(style: str, protocol: str) -> None:
    """As many tokens as the model needs to say the key behind the question, and not one more."""
    task, tokenizer = task_of(protocol), build(style)
    question = task.wording.question
    for sample in range(20):
        example = task.example(Cell(256), sample, tokenizer, 0)
        asked, answered = (len(tokenizer(text).input_ids) for text in (question, f"{question} {example.references[0]}"))
        assert example.max_new_tokens == answered - asked


def test_wordings() -> None:
    """As in the published harnesses; see the sources named in passkey.yaml."""
    for protocol in PROTOCOLS:
        wording = task_of(protocol).wording
        assert list(wording.filler) == FILLER
        assert wording.needle == "The pass key is {key}. Remember it. {key} is the pass key."
    for protocol in ("chunkllama", "longllama"):
        wording = task_of(protocol).wording
        assert wording.instruction == INSTRUCTION
        assert wording.glue + wording.question == "\nWhat is the pass key? The pass key is"
        assert (wording.lowest, wording.highest) == (1, 49999)
    wording = task_of("longlm").wording
    assert wording.instruction == INSTRUCTION.replace("memorize them", "memorize it")
    assert wording.glue + wording.question == "What is the pass key? The pass key is "
    assert (wording.lowest, wording.highest) == (10000, 99999)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("48213", 1.0),
        (" 48213", 1.0),
        ("48213\n", 1.0),
        ("48213.", 0.0),
        ("4821", 0.0),
        ("482133", 0.0),
        ("048213", 0.0),
        ("4 8213", 0.0),
        ("The pass key is 48213", 0.0),
        ("", 0.0),
        (" ", 0.0),
    ],
)
def test_score(prediction: str, score: float) -> None:
    example = Example([], [], [], references=("48213",), max_new_tokens=6, seed=0)
    assert load_task("passkey").score(example, prediction) == {"exact_match": score}


def test_options_that_change_the_question_are_part_of_the_name() -> None:
    assert load_task("passkey").name == "passkey"
    assert load_task("passkey:protocol=longlm").name == "passkey:protocol=longlm"
    one, other = (load_task(name).sample_seed(Cell(256), 0, 0) for name in ("passkey", "passkey:protocol=longlm"))
    assert one != other


def test_cells_are_the_grid() -> None:
    task = load_task("passkey")
    assert task.cells([256, 512], None) == [Cell(256), Cell(512)]
    assert task.cells([512, 256], [0.0, 1.0]) == [Cell(512, 0.0), Cell(512, 1.0), Cell(256, 0.0), Cell(256, 1.0)]
    assert len({cell.key for cell in task.cells([256], [step / 100 for step in range(101)])}) == 101
