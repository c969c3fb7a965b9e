"""Needles: exact to the token in every tokenizer, at the sentence asked for, in text that does not repeat."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.apps.train.facts import activity
from lcbench.core.errors import UserError
from lcbench.tasks import Cell, load_task
from lcbench.tasks.needle.facts import KINDS
from lcbench.tasks.text.running_text import running_text
from tests.helpers import cli, records_of
from tests.tasks.needle.tasks import COUNTS, PROTOCOLS, STATEMENTS, answered, shortest, task_of, text_of
from tests.tokenizers import STYLES, build, own_start


@given(
    style=st.sampled_from(STYLES),
    protocol=st.sampled_from(PROTOCOLS),
    extra=st.integers(1, 1500),
    depth=st.none() | st.floats(0, 1),
    sample=st.integers(0, 3),
)
def test_a_prompt_is_exact_and_whole(style: str, protocol: str, extra: int, depth: float | None, sample: int) -> None:
    task, tokenizer = task_of(protocol), build(style)
    seq_len = shortest(style, protocol) + extra
    example = task.example(Cell(seq_len, depth), sample, tokenizer, 0)
    assert len(example.prompt) + example.max_new_tokens == seq_len
    start = own_start(style)
    assert example.prompt[: len(start)] == start
    assert sum(token in tokenizer.all_special_ids for token in example.prompt) == len(start)

    text, wording = text_of(tokenizer, example), task.wording
    assert text.startswith(wording.instruction)
    stated = re.findall(STATEMENTS[protocol], text)
    needles, asked = COUNTS[protocol]
    assert len(stated) == needles and len({value for _, value in stated}) == needles
    assert len({key for key, _ in stated}) == (1 if protocol == "multi_value" else needles)
    assert len(example.references) == asked
    assert example.needle_at is not None
    hidden = tokenizer.decode(example.prompt[example.needle_at :][: example.needle_tokens])
    (value,) = (value for _, value in re.findall(STATEMENTS[protocol], hidden))
    assert value == example.references[0]
    keys = [next(key for key, value in stated if value == answer) for answer in example.references]
    question = re.split(r"\. |\n", text)[-1]
    assert "?" in question and all(question.count(key) == 2 for key in keys)
    assert not any(key in question for key, _ in stated if key not in keys)


@pytest.mark.parametrize(
    "style",
    [
        style if style in ("lcbench-tiny", "llama-2") else pytest.param(style, marks=pytest.mark.slow)
        for style in STYLES
    ],
)
def test_too_short_tells_what_fits(style: str) -> None:
    tokenizer = build(style)
    for protocol in PROTOCOLS:
        length = shortest(style, protocol)
        with pytest.raises(UserError, match=f"--seq-len {length} or more"):
            task_of(protocol).example(Cell(length - 1), 0, tokenizer, 0)
        for sample in range(4):
            example = task_of(protocol).example(Cell(length), sample, tokenizer, 0)
            assert len(example.prompt) + example.max_new_tokens == length


@pytest.mark.parametrize("style", ["lcbench-tiny", "llama-2", "llama-3"])
def test_depth_is_exact_to_a_sentence(style: str) -> None:
    """Between two sentences, and no other place between two is nearer to the depth."""
    task, tokenizer = task_of("niah"), build(style)
    for step in range(11):
        cell = Cell(900, step / 10)
        example = task.example(cell, 1, tokenizer, 0)
        text = text_of(tokenizer, example)
        before, after = re.split(STATEMENTS["niah"].replace("(", "(?:"), text, maxsplit=1)
        assert before.endswith((". ", '" ', "? "))
        question = after[after.rindex(" What is the best") :]
        words = after.removesuffix(question)
        assert (step < 10) == bool(words) and (step > 0) == (before.strip() != task.wording.instruction)
        assert example.depth is not None
        room = 900 - example.max_new_tokens - len(example.head) - len(example.tail)
        longest = 60 if style != "lcbench-tiny" else 20
        assert abs(example.depth - step / 10) * room <= longest / 2


def test_the_depth_is_that_of_the_needle_asked_for() -> None:
    tokenizer = build("lcbench-tiny")
    for depth, early in ((0.0, True), (1.0, False)):
        for sample in range(5):
            example = task_of("codes").example(Cell(800, depth), sample, tokenizer, 0)
            stated = [value for _, value in re.findall(STATEMENTS["codes"], text_of(tokenizer, example))]
            assert example.depth == depth
            assert (stated if early else stated[::-1]).index(example.references[0]) <= (0 if sample else 1)


def test_random_depths_reach_everywhere() -> None:
    tokenizer = build("lcbench-tiny")
    depths = [task_of("multi_key").example(Cell(900), sample, tokenizer, 0).depth or 0.0 for sample in range(60)]
    assert min(depths) < 0.1 and max(depths) > 0.9 and 0.35 < sum(depths) / 60 < 0.65


def test_the_text_does_not_repeat_and_begins_alike() -> None:
    """Lengths and depths of a sample share what stands before the needle; samples share nothing."""
    task, tokenizer = task_of("niah"), build("lcbench-tiny")
    late = task.example(Cell(4000, 1.0), 3, tokenizer, 0).prompt
    for cell in (Cell(4000, 0.5), Cell(2000, 0.9)):
        example = task.example(cell, 3, tokenizer, 0)
        shared = next(n for n, (a, b) in enumerate(zip(example.prompt, late)) if a != b)
        assert shared >= len(example.head) + round((example.depth or 0.0) * (cell.seq_len - 120))
    assert task.example(Cell(4000, 1.0), 4, tokenizer, 0).prompt[40:80] != late[40:80]
    windows = [tuple(late[start : start + 60]) for start in range(len(late) - 60)]
    assert len(set(windows)) == len(windows)


def test_a_sample_is_the_same_whatever_else_runs() -> None:
    tokenizer, cell = build("lcbench-tiny"), Cell(700, 0.3)
    alone = load_task("needle").example(cell, 7, tokenizer, 3)
    running_text.cache_clear()
    task = load_task("needle")
    for other in (9, 7, 0):
        for seq_len in (3000, 400):
            task.example(Cell(seq_len, 0.1), other, tokenizer, 3)
    assert task.example(cell, 7, tokenizer, 3) == alone
    assert task.example(cell, 7, tokenizer, 4).references != alone.references


def test_samples_of_this_version() -> None:
    """Published numbers stay comparable: change these only with a new name for the task."""
    example = load_task("needle").example(Cell(256, 0.5), 0, build("lcbench-tiny"), 0)
    assert example.references == ("eat a blue hat near the strange inn",)


def test_128k_tokens_build_at_once() -> None:
    tokenizer = build("lcbench-tiny")
    task_of("niah").example(Cell(2**17, 0.0), 0, tokenizer, 11)
    started = time.process_time()
    example = task_of("niah").example(Cell(2**17, 0.5), 0, tokenizer, 11)
    assert time.process_time() - started < 0.5
    assert len(example.prompt) + example.max_new_tokens == 2**17


# Grids and protocols


def test_cells_are_the_grid_of_the_protocol() -> None:
    assert [cell.depth for cell in task_of("niah").cells([256], None)] == [step / 10 for step in range(11)]
    assert [cell.depth for cell in task_of("passkey_grid").cells([256], None)] == [n / 16 for n in range(1, 17)]
    assert task_of("multi_query").cells([256, 512], None) == [Cell(256), Cell(512)]
    assert task_of("niah").cells([256], [0.5]) == [Cell(256, 0.5)]


@pytest.mark.parametrize("style", STYLES)
def test_passkey_grid(style: str) -> None:
    task, tokenizer = task_of("passkey_grid"), build(style)
    for sample in range(5):
        example = task.example(Cell(600, 0.25), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == 600
        (key,) = example.references
        assert 50000 <= int(key) <= 499999
        text = text_of(tokenizer, example)
        assert text.count(f"The pass key is {key}. Remember it. {key} is the pass key.") == 1
        assert text.count("The grass is green.") > 1 and example.depth == pytest.approx(0.25, abs=0.1)
    assert answered(task, ("213829",), " 213829") == (1, 1)
    assert answered(task, ("213829",), "The key is 213829") == (0, 0)


def test_activities_are_those_of_training() -> None:
    one, other = KINDS["activity"].draw(random.Random(3)), activity(random.Random(3))
    pattern = r"(\w+) a (\w+) (\w+) near the (\w+) (\w+)"
    assert re.fullmatch(pattern, one) and re.fullmatch(pattern, other)
    known = [set(slot) for slot in KINDS["activity"].slots]
    for seed in range(50):
        assert all(word in slot for word, slot in zip(activity(random.Random(seed)).split(), known, strict=True))


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("run", "needle", "--seq-len", "200", "--depths", "0,1", "--samples", "2", "-o", "mine")
    assert done.code == 0, done.err
    records = list(records_of(Path("mine")).values())
    assert len(records) == 4 and {record["metric"] for record in records} == {"recall"}
    assert sum(record["scores"]["recall"] for record in records) >= 3
    assert "did you mean 'niah'" in cli("run", "needle:protocol=nia").err
