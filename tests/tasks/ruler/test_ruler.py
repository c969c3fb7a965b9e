"""RULER's tasks: exact lengths in every tokenizer, and answers that can be worked out again from the text alone."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.run.requests import read_requests
from lcbench.tasks import Cell, Example, Task, load_task, task_files
from lcbench.tasks.text.words import all_words, words_of
from tests.helpers import cli, records_of
from tests.tokenizers import STYLES, build, own_start

TASKS = ["ruler/vt", "ruler/cwe", "ruler/fwe"]
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@cache
def task_of(name: str) -> Task:
    return load_task(name)


@cache
def shortest(style: str, name: str, beyond: int = 5) -> int:
    with pytest.raises(UserError, match=f"does not fit into {beyond} tokens") as error:
        task_of(name).example(Cell(beyond), 0, build(style), 0)
    found = re.search(r"--seq-len (\d+) or more", str(error.value))
    assert found
    return int(found[1])


def text_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def draw(name: str, seq_len: int, sample: int = 0, style: str = "llama-3") -> tuple[Example, str]:
    example = task_of(name).example(Cell(seq_len), sample, build(style), 0)
    assert len(example.prompt) + example.max_new_tokens == seq_len
    return example, text_of(build(style), example)


# What a reader would answer


def variables_with_value(text: str) -> list[str]:
    """The variables that a question asks for, by following the assignments in the lines above it."""
    found = re.search(r"assigned the value (\d{5}) in the text above", text)
    assert found
    values: dict[str, str] = {}
    for name, number, source in re.findall(r"^VAR ([A-Z]+) = (?:(\d{5})|VAR ([A-Z]+) )$", text, re.MULTILINE):
        assert name not in values
        values[name] = number or values[source]  # a source that comes later is a KeyError
    return [name for name, value in values.items() if value == found[1]]


def listed(text: str) -> Counter[str]:
    """How often each word comes in the numbered list of a question."""
    behind = text.partition("Memorize the ones that appear most often.\n")[2]
    entries = re.findall(r"(\d+)\. (\S+)(?: |$)", behind.partition("\nQuestion:")[0].strip("\n"))
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    return Counter(word for _, word in entries)


def coded(text: str) -> Counter[str]:
    body = text.partition("Find the three most frequently appeared coded words.")[2].partition("\nQuestion:")[0]
    return Counter(body.split())


def answer_vt(text: str) -> set[str]:
    return set(variables_with_value(text[text.rindex("Memorize and track") :]))


def answer_cwe(text: str) -> set[str]:
    return {word for word, _ in listed(text[text.rindex("Below is a numbered list") :]).most_common(10)}


def answer_fwe(text: str) -> set[str]:
    counts = coded(text).most_common()
    assert counts[0][0] == "..." and counts[3][1] > counts[4][1]
    return {word for word, _ in counts[1:4]}


in_turn = pytest.mark.parametrize(("name", "style"), [(TASKS[n % 3], style) for n, style in enumerate(STYLES)])
READERS: dict[str, Callable[[str], set[str]]] = dict(zip(TASKS, (answer_vt, answer_cwe, answer_fwe), strict=True))


@given(
    style=st.sampled_from(STYLES),
    name=st.sampled_from(TASKS),
    extra=st.integers(0, 2000),
    sample=st.integers(0, 50),
)
def test_a_prompt_is_exact_and_its_answer_is_in_it(style: str, name: str, extra: int, sample: int) -> None:
    tokenizer = build(style)
    seq_len = min(shortest(style, name) + extra, 4095)
    example, text = draw(name, seq_len, sample, style)
    assert READERS[name](text) == set(example.references) and len(set(example.references)) == len(example.references)
    start = own_start(style)
    assert example.prompt[: len(start)] == start
    assert sum(token in tokenizer.all_special_ids for token in example.prompt) == len(start)


@in_turn
def test_long_prompts(name: str, style: str) -> None:
    for seq_len in (6000, *([2**14] if style == STYLES[TASKS.index(name)] else [])):  # in a tokenizer each
        example, text = draw(name, seq_len, 1, style)
        assert READERS[name](text) == set(example.references)


@in_turn
def test_too_short_tells_what_fits(name: str, style: str) -> None:
    length = shortest(style, name)
    with pytest.raises(UserError, match=f"--seq-len {length} or more"):
        task_of(name).example(Cell(length - 1), 0, build(style), 0)
    for sample in range(4):
        draw(name, length, sample, style)


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_is_the_same_whatever_else_runs(name: str) -> None:
    tokenizer, task = build("lcbench-tiny"), load_task(name)
    alone = task.example(Cell(2000), 7, tokenizer, 3)
    for other in (9, 0):
        assert task.example(Cell(2500), other, tokenizer, 3).references != alone.references
    assert load_task(name).example(Cell(2000), 7, tokenizer, 3) == alone
    assert task.example(Cell(2000), 7, tokenizer, 4).references != alone.references
    assert task.example(Cell(2000), 8, tokenizer, 3).references != alone.references


@pytest.mark.parametrize("name", TASKS)
def test_128k_tokens_build_at_once(name: str) -> None:
    draw(name, 2**14, 0, "lcbench-tiny")
    started = time.process_time()
    draw(name, 2**17, 1, "lcbench-tiny")
    assert time.process_time() - started < 1.5  # the test's own decoding of the prompt included


# Variable tracking


def test_the_spelling_of_the_published_numbers() -> None:
    _, today = draw("ruler/vt", 4096, 2)
    _, before = draw("ruler/vt:spelling=assgined", 4096, 2)
    assert "assgined" not in today and before.count("variables are assgined the value") == 2  # example and question


def test_variable_tracking() -> None:
    example, text = draw("ruler/vt", 4096, 2)
    solved, asked = text[: text.rindex("Memorize and track")], text[text.rindex("Memorize and track") :]
    prefix = "5 variables are assigned the value {}, they are: "
    (value,) = set(re.findall(r"the value (\d{5})", asked))
    assert asked.endswith(
        " Answer: According to the chain(s) of variable assignment in the text above, " + prefix.format(value)
    )
    assert example.references == tuple(variables_with_value(asked)) and len(example.references) == 5
    (example_value,) = set(re.findall(r"the value (\d{5})", solved))
    assert value != example_value and solved.count(NOISE) == 10
    assert solved.endswith(prefix.format(example_value) + " " + " ".join(variables_with_value(solved)) + "\n\n")
    assert all(len(name) == 3 for name in variables_with_value(solved)) and all(len(n) == 5 for n in example.references)
    lines = asked.split("\n")[2:-1]
    cut = [line for line in lines if line != NOISE and not line.startswith("VAR ")]
    assert len(cut) <= 1 and all(NOISE.endswith(line) for line in cut) and lines[-1] in (NOISE, *cut)
    assert not any(a.startswith("VAR ") and b.startswith("VAR ") for a, b in pairwise(lines))
    assert example.needle_at is not None
    needle = example.prompt[example.needle_at :][: example.needle_tokens]
    assert build("llama-3").decode(needle) == f"VAR {example.references[0]} = {value}\n"


def test_more_chains_and_hops() -> None:
    name = "ruler/vt:num_chains=3,num_hops=7"
    for sample in range(5):
        example, text = draw(name, 4096, sample)
        asked = text[text.rindex("Memorize and track") :]
        assert variables_with_value(asked) == list(example.references) and len(example.references) == 8
        assert len(re.findall(r"^VAR .* = \d{5}$", asked, re.MULTILINE)) == 3 and "8 variables are" in asked
        assert example.needle_at is not None
        head = build("llama-3").decode(example.prompt[example.needle_at :])
        assert head.startswith(f"VAR {example.references[0]} = ")
    example, text = draw("ruler/vt:num_hops=12", 4096)
    assert len(variables_with_value(text[: text.rindex("Memorize and track")])) == 11  # RULER's bound for the example
    assert len(example.references) == 13


def test_assignments_are_everywhere() -> None:
    drawn = [draw("ruler/vt", 4096, sample) for sample in range(40)]
    assert not any(text[: text.rindex("\nQuestion:")].endswith(" ") for _, text in drawn)  # noise is the last line
    places = [example for example, _ in drawn]
    share = [((e.needle_at or 0) - len(e.head)) / len(e.context) for e in places]
    assert min(share) < 0.05 and 0.1 < sum(share) / 40 < 0.25  # the first of five: 1/6 on average


# Words


@pytest.mark.parametrize(
    ("seq_len", "common", "other", "shown"), [(3000, 6, 1, (3, 1, 20)), (8000, 30, 3, (10, 3, 40))]
)
def test_common_words(seq_len: int, common: int, other: int, shown: tuple[int, int, int]) -> None:
    example, text = draw("ruler/cwe", seq_len, 4)
    solved, asked = text[: text.rindex("Below is")], text[text.rindex("Below is") :]
    counts = listed(asked)
    rest = sorted((count for word, count in counts.items() if word not in example.references), reverse=True)
    assert [counts[word] for word in example.references] == [common] * 10
    assert set(rest[:-1]) == {other} and 1 <= rest[-1] <= other
    assert not re.search(r"\n{30}", asked) and asked.endswith(" that appear most often in the list are:")
    assert asked.count("\nQuestion: What are the 10 most common words in the above list? Answer: The top 10") == 1

    in_example = listed(solved)
    answer = re.search(r"in the list are: (.*)\n$", solved)
    assert answer
    words = re.findall(r"\d+\. (\w+)", answer[1])
    assert answer[1] == " ".join(f"{place}. {word}" for place, word in enumerate(words, start=1))
    assert sorted(in_example.values()) == [shown[1]] * (shown[2] - 10) + [shown[0]] * 10
    assert {word for word, count in in_example.items() if count == shown[0]} == set(words)
    assert not in_example.keys() & counts.keys()


def test_a_list_longer_than_all_words() -> None:
    example, text = draw("ruler/cwe", 2**18 + 2**16, 0, "lcbench-tiny")
    counts = listed(text[text.rindex("Below is") :])
    assert len(counts) > len(all_words()) and set(all_words()) - counts.keys() == set(listed(text))
    assert {word for word, _ in counts.most_common(10)} == set(example.references)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)?", word) for word in counts)


def test_words() -> None:
    assert (len(words_of("noun")), len(words_of("adjective")), len(all_words())) == (6673, 901, 8047)
    assert all(re.fullmatch("[a-z]+", word) for word in all_words())


@pytest.mark.parametrize(("seq_len", "alpha"), [(1000, 2.0), (8192, 2.0), (8192, 1.5), (8192, 3.5)])
def test_frequent_words(seq_len: int, alpha: float) -> None:
    for sample in range(3):
        example, text = draw(f"ruler/fwe:alpha={alpha}", seq_len, sample)
        counts = coded(text)
        ranked = [count for word, count in counts.most_common() if "." not in word]
        second = [n for n in range(1, 10**5) if int(n / 2**alpha) == ranked[0]]
        fits = [n for n in second if [c for k in range(2, seq_len // 50 + 1) if (c := int(n / k**alpha))] == ranked]
        assert fits and fits[0] <= counts["..."] <= fits[-1] + 10  # the dots fill what is left
        assert [counts[word] for word in example.references] == ranked[:3]
        assert all(re.fullmatch(r"[a-z]{6}|\.{1,3}", word) for word in counts)
        assert sum(count for word, count in counts.items() if word in (".", "..")) <= 1


# Names, wordings, scores and the command line


def test_wordings() -> None:
    """As RULER's constants.py has them."""
    vt, cwe, fwe = (draw(name, 6000)[1] for name in TASKS)
    assert vt.startswith("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n")
    assert "\nQuestion: Find all variables that are assigned the value " in vt
    start = (
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that"
    )
    assert cwe.startswith(start + " appear most often.\n1. ")
    start = "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
    assert fwe.startswith(start + "appeared coded words.")
    end = (
        "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    )
    end += "appeared words in the above coded text? Answer: According to the coded text above, the three most "
    assert fwe.endswith(end + "frequently appeared words are:")
    budgets = {name: draw(name, 6000)[0].max_new_tokens for name in TASKS}
    assert budgets == {"ruler/vt": 30, "ruler/cwe": 120, "ruler/fwe": 50}


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        ("ABCDE, FGHIJ and KLMNO", 1, 1),
        ("klmno abcde", 2 / 3, 0),
        ("ABCD FGHIJX", 1 / 3, 0),
        ("", 0, 0),
    ],
)
def test_scores(prediction: str, recall: float, exact: float) -> None:
    scores = task_of("ruler/vt").score(Example([], [], [], ("ABCDE", "FGHIJ", "KLMNO"), 9, seed=0), prediction)
    assert scores == {"recall": pytest.approx(recall), "exact": exact}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ruler/vt:num_hops=0", "needs num_chains and num_hops from 1"),
        ("ruler/cwe:freq_cw=3", "needs freq_cw above freq_ucw"),
        ("ruler/cwe:num_cw=21", "num_cw from 1 to 20"),
        ("ruler/fwe:alpha=1", "needs an alpha above 1"),
        ("ruler/fwe:max_new_tokens=-1", "max_new_tokens must be at least 1"),
        ("ruler/vt:template=Nothing", "says {context} once in its template"),
        ("ruler/vt:hops=3", "did you mean 'num_hops'"),
    ],
)
def test_options_that_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_task(spec)


def test_no_depths() -> None:
    assert task_of("ruler/vt").cells([512, 1024], None) == [Cell(512), Cell(1024)]
    with pytest.raises(UserError, match="no needle; leave the depths out"):
        task_of("ruler/vt").cells([512], [0.5])


def test_the_suite_runs_all_thirteen() -> None:
    names = [request.task.partition(":")[0] for request in read_requests("ruler")[0]]
    assert sorted(names) == sorted(name for name in task_files() if name.startswith("ruler/")) and len(names) == 13


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("run", "ruler/fwe", "--seq-len", "600", "--samples", "2", "-o", "mine")
    assert done.code == 0, done.err
    records = list(records_of(Path("mine")).values())
    assert len(records) == 2 and all(set(record["scores"]) == {"recall", "exact"} for record in records)
    assert {record["prompt_tokens"] + record["max_new_tokens"] for record in records} == {600}
    assert "use --seq-len" in cli("run", "ruler/cwe", "--seq-len", "600").error


def test_example_draws_do_not_depend_on_the_global_generator() -> None:
    random.seed(1)
    one = load_task("ruler/fwe").example(Cell(900), 0, build("lcbench-tiny"), 0)
    random.seed(2)
    assert load_task("ruler/fwe").example(Cell(900), 0, build("lcbench-tiny"), 0) == one
