"""Needles: exact to the token in every tokenizer, at the sentence asked for, in text that does not repeat."""

from __future__ import annotations

import json
import random
import re
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lcbench.apps.train.facts import activity
from lcbench.core.errors import UserError
from lcbench.core.specs import convert_options
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.needle.facts import KINDS
from lcbench.tasks.needle.task import Needle
from lcbench.tasks.needle.wording import Wording
from lcbench.tasks.text.running_text import RunningText, running_text, split_sentences
from tests.helpers import REPOSITORY, cli, records_of
from tests.tokenizers import STYLES, build, own_start

RULER = ["multi_key", "multi_value", "multi_query"]
PROTOCOLS = ["niah", "codes", *RULER]
STATEMENTS = {
    "niah": r"The best thing to do in (\w+) is ([\w ]+)\.",
    "codes": r"The code of (\w+) is (\d{4})\.",
    **dict.fromkeys(RULER, r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\."),
}
COUNTS = {"niah": (1, 1), "codes": (4, 1), "multi_key": (4, 1), "multi_value": (4, 4), "multi_query": (4, 4)}
PG19 = REPOSITORY.parent / "shared" / "data" / "pg19" / "books.jsonl"
ESSAY = " ".join(f"Sentence number {number} says {number * 7919 % 1000}." for number in range(3000))


@cache
def task_of(protocol: str, haystack: str = "books") -> Needle:
    task = load_task(f"needle:protocol={protocol},haystack={haystack}")
    assert isinstance(task, Needle)
    return task


@cache
def shortest(style: str, protocol: str) -> int:
    with pytest.raises(UserError, match="does not fit into 5 tokens") as error:
        task_of(protocol).example(Cell(5), 0, build(style), 0)
    found = re.search(r"--seq-len (\d+) or more", str(error.value))
    assert found
    return int(found[1])


def text_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def answered(task: Needle, references: tuple[str, ...], prediction: str) -> tuple[float, float]:
    scores = task.score(Example([], [], [], references, 9, seed=0), prediction)
    assert set(scores) == {"recall", "exact"}
    return scores["recall"], scores["exact"]


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
        for sample in range(8):
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


def test_wordings_of_ruler() -> None:
    magic = "One of the special magic numbers for {key} is: {value}."
    assert [(w.keys, w.values, w.queries) for w in (task_of(name).wording for name in RULER)] == [
        (4, 1, 1),
        (1, 4, 1),
        (4, 1, 4),
    ]
    for name in RULER:
        assert task_of(name).wording.needle == magic and task_of(name).wording.max_new_tokens == 128
    assert (
        task_of("multi_query")
        .wording.ask(["a", "b", "c"])
        .startswith(
            "What are all the special magic numbers for a, b, and c mentioned in the provided text? The special magic"
        )
    )
    assert task_of("multi_key").wording.ask(["a"]).endswith("number for a mentioned in the provided text is")


# Scores

VALUE = "paint a red lantern near the old mill"


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        (f" {VALUE}", 1, 1),
        (f" {VALUE}. Mara went", 1, 1),
        (VALUE.upper(), 1, 1),
        (f" to {VALUE}", 1, 0),
        ("mill, old; lantern: red! paint", 1, 0),
        (" paint a red lantern near the new mill", 0.8, 0),
        (" paint", 0.2, 0),
        ("paints redder lanterns", 0, 0),
        (" a near the", 0, 0),
        ("", 0, 0),
        (" \n", 0, 0),
    ],
)
def test_key_words(prediction: str, recall: float, exact: float) -> None:
    assert answered(task_of("niah"), (VALUE,), prediction) == (pytest.approx(recall), exact)


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        (" 1234567, 2345678, 3456789, and 4567890.", 1, 1),
        ("4567890 1234567", 0.5, 0),
        ("It says 3456789, I think", 0.25, 0),
        ("1234 567", 0, 0),
        ("", 0, 0),
    ],
)
def test_values(prediction: str, recall: float, exact: float) -> None:
    references = ("1234567", "2345678", "3456789", "4567890")
    assert answered(task_of("multi_value"), references, prediction) == (recall, exact)


# Haystacks


def test_sentences() -> None:
    text = 'CHAPTER I\n\n"Stop!" cried  Mr. Hall.\nHe (a tall\nman) left. "Why?" she asked. J. Smith knew! A rest'
    assert split_sentences(text) == [
        ' CHAPTER I "Stop!" cried Mr. Hall.',
        " He (a tall man) left.",
        ' "Why?" she asked.',
        " J. Smith knew!",
    ]
    assert split_sentences("") == [] and split_sentences("no end") == []


def test_a_cut_keeps_the_beginning_and_never_stops_in_a_sentence() -> None:
    tokenizer = build("lcbench-tiny")
    whole = RunningText(tokenizer, iter(split_sentences(ESSAY)))
    for n in range(1, 80):
        tokens, ends = whole.cut(n)
        assert len(tokens) == n == ends[-1] and ends[0] == 0 and ends == sorted(set(ends))
        assert tokens[: ends[-2]] == whole.cut(80)[0][: ends[-2]]
        assert tokenizer.decode(tokens).endswith(".")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "essays"
    folder.mkdir()
    half = len(ESSAY) // 2
    cut = ESSAY.index(". ", half) + 1
    (folder / "one.txt").write_text(ESSAY[:cut])
    (folder / "two.txt").write_text(ESSAY[cut:])
    book = {"short_book_title": "E", "publication_date": 1900, "url": "x", "text": ESSAY}
    jsonl = tmp_path / "books.jsonl"
    jsonl.write_text(json.dumps(book) + "\n")
    return {"folder": folder, "jsonl": jsonl, "txt": folder / "one.txt"}


@pytest.mark.parametrize("kind", ["folder", "jsonl", "txt"])
def test_haystack_of_the_user(kind: str, sources: dict[str, Path]) -> None:
    """In the order of the files, in a circle; never a sentence twice."""
    task, tokenizer = load_task(f"needle:haystack={sources[kind]}"), build("lcbench-tiny")
    firsts = set()
    for sample in range(6):
        example = task.example(Cell(9000, 0.5), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == 9000
        numbers = [int(n) for n in re.findall(r"Sentence number (\d+) says", text_of(tokenizer, example))]
        assert len(numbers) > 400 and len(set(numbers)) == len(numbers)
        jumps = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
        assert len(jumps) <= 2 and all(b < a or b == a + 2 for a, b in jumps)
        firsts.add(numbers[0])
    assert len(firsts) > 3


def test_a_haystack_that_is_too_short_or_missing(sources: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = build("lcbench-tiny")
    task = load_task(f"needle:haystack={sources['txt']}")
    with pytest.raises(UserError, match=r"one.txt has [\d,]+ tokens in whole sentences, and the prompt needs [\d,]+; "):
        task.example(Cell(2**17, 0.5), 0, tokenizer, 0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    for name, message in {
        "empty": "holds no .txt",
        "nowhere.txt": "cannot read",
        "other.jsonl": "has no column `text`",
    }.items():
        with pytest.raises(UserError, match=message):
            load_task(f"needle:haystack={tmp_path / name}").example(Cell(512, 0.5), 0, tokenizer, 0)
    with pytest.raises(UserError, match="has its own filler; leave the haystack out"):
        load_task(f"needle:protocol=passkey_grid,haystack={sources['txt']}")


@pytest.mark.skipif(not PG19.exists(), reason="the books of PG19 are not here")
@pytest.mark.parametrize("style", ["lcbench-tiny", "llama-2"])
def test_pg19(style: str) -> None:
    task, tokenizer = task_of("niah", str(PG19)), build(style)
    for depth in (0.0, 0.5, 1.0):
        example = task.example(Cell(2**14, depth), 0, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == 2**14
        assert example.depth == pytest.approx(depth, abs=0.02)
        before = text_of(tokenizer, example).split("The best thing to do in")[0]
        assert re.search(r"[.!?][\"'\u201d\u2019)\]]* $", before)


# Errors and the command line

VALID: dict[str, Any] = {
    "source": "s",
    "instruction": "i",
    "needle": "{key} is {value}.",
    "question": "{keys}?",
    "key": "name",
    "value": "code",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needle": "{key}."}, "says {key} and {value} once each"),
        ({"question": "What?"}, "says {keys} in its question"),
        ({"key": "nme"}, "did you mean 'name'"),
        ({"queries": 2}, "no more queries than keys"),
        ({"keys": 0}, "from 1"),
        ({"keys": 86}, "there are not 86 different keys"),
        ({"score": "words"}, "score must be key_words or values"),
        ({"keyz": 3}, "did you mean 'key"),
    ],
)
def test_wordings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Wording(**convert_options("protocol mine", Wording, VALID | change))


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("run", "needle", "--seq-len", "200", "--depths", "0,1", "--samples", "2", "-o", "mine")
    assert done.code == 0, done.err
    records = list(records_of(Path("mine")).values())
    assert len(records) == 4 and {record["metric"] for record in records} == {"recall"}
    assert sum(record["scores"]["recall"] for record in records) >= 3
    assert "did you mean 'niah'" in cli("run", "needle:protocol=nia").err
