"""The exam: questions as long as they say, on held-out text, scored as greedy generation would be; and its tables."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import exam
from benchmarks.exam import Point, Question, draw_question, mean_interval, measure, right, summary, token_nats
from lcbench.apps.train.documents import Library
from lcbench.attention.steering import extend
from lcbench.core.errors import UserError
from lcbench.engine import generate as engine
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from lcbench.tasks.text.books import TOKENIZER_SEEDS, TRAINING_SEEDS
from tests.helpers import REPOSITORY

ASKED = [
    Point("copying", "vanilla", 256),
    Point("codes", "vanilla", 256),
    Point("codes", "vanilla", 256, facts=8),
    Point("codes", "vanilla", 1024, facts=32, local=256),
    Point("words", "vanilla", 256, facts=4),
    Point("words", "vanilla", 1024, local=256),
    Point("passkey", "vanilla", 256),
    Point("passkey", "vanilla", 1024, local=256),
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return ModelSource().model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return ModelSource().tokenizer()


@pytest.fixture(scope="module")
def library(tokenizer: PreTrainedTokenizerBase) -> Library:
    return Library(tokenizer)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("reference_models")


def question_begins(prompt: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    starts = (start for start in reversed(range(len(prompt))) if "What" in tokenizer.decode(prompt[start:]))
    return next(starts)


@pytest.mark.parametrize("point", ASKED, ids=lambda point: f"{point.what}-{point.facts}-{point.length}")
def test_a_question_has_its_length_and_its_answer_before_the_local_window(
    point: Point, tokenizer: PreTrainedTokenizerBase, library: Library
) -> None:
    for sample in range(20):
        prompt, answer = draw_question(point, sample, tokenizer, library)
        assert len(prompt) + len(answer) == point.length
        assert prompt[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in prompt[1:]
        told = [start for start in range(len(prompt)) if prompt[start : start + len(answer)] == answer]
        assert told, "nothing tells the answer"
        if point.what != "copying":
            assert max(told) + len(answer) <= question_begins(prompt, tokenizer) - point.local


def test_facts_stand_in_the_text_once_and_one_is_asked_for(
    tokenizer: PreTrainedTokenizerBase, library: Library
) -> None:
    prompt, answer = draw_question(Point("codes", "vanilla", 256, facts=8), 3, tokenizer, library)
    text = tokenizer.decode(prompt)
    question = text[text.rindex("What is") :]
    name = question.removeprefix("What is the code of ").split("?")[0]
    assert question == f"What is the code of {name}? The code of {name} is"
    assert text.count(" The code of ") == 8 + 1
    assert text.count(f" The code of {name} is{tokenizer.decode(answer)}.") == 1


def test_local_windows_leave_the_depths_before_them_equally_likely(
    tokenizer: PreTrainedTokenizerBase, library: Library
) -> None:
    point = Point("words", "vanilla", 1024, local=256)  # 740 tokens before the window, or a little more
    found = []
    for sample in range(150):
        prompt, answer = draw_question(point, sample, tokenizer, library)
        found.append(next(start for start in range(len(prompt)) if prompt[start : start + len(answer)] == answer))
    quarters = [sum(quarter * 187 <= place < (quarter + 1) * 187 for place in found) for quarter in range(4)]
    assert sum(quarters) == 150 and min(quarters) > 20


def test_samples_are_drawn_by_number_alike_for_every_method(
    tokenizer: PreTrainedTokenizerBase, library: Library
) -> None:
    for point in ASKED:
        first = draw_question(point, 0, tokenizer, library)
        assert draw_question(replace(point, method="dca"), 0, tokenizer, Library(tokenizer)) == first
        assert draw_question(point, 1, tokenizer, library) != first


def test_the_passkey_is_the_task_of_lcbench(tokenizer: PreTrainedTokenizerBase, library: Library) -> None:
    example = load_task("passkey").example(Cell(512), 4, tokenizer, exam.SEED)
    question = draw_question(Point("passkey", "vanilla", 512), 4, tokenizer, library)
    assert question.prompt == example.prompt
    assert tokenizer.decode(question.answer).strip() == example.references[0]


def test_books_are_held_out(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[int] = set()

    class Noted(exam.Book):
        def __init__(self, seed: int) -> None:
            opened.add(seed)
            super().__init__(seed)

    monkeypatch.setattr(exam, "Book", Noted)
    for point in [*ASKED, Point("perplexity", "vanilla", 256)]:
        measure(model, tokenizer, replace(point, length=256, local=0, facts=1), range(5))
    assert len(opened) > 10
    assert not opened & {*TRAINING_SEEDS, *TOKENIZER_SEEDS}


def test_too_many_facts_are_refused(tokenizer: PreTrainedTokenizerBase, library: Library) -> None:
    for point in (Point("codes", "vanilla", 256, facts=32), Point("codes", "vanilla", 512, facts=32, local=256)):
        with pytest.raises(ValueError, match="do not fit"):
            draw_question(point, 0, tokenizer, library)


@pytest.mark.parametrize("what", ["passkey", "codes"])
@torch.no_grad()
def test_an_answer_is_right_if_greedy_generation_gives_it(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, library: Library, what: Any
) -> None:
    outcomes = []
    for sample in range(10):
        point = Point(what, "vanilla", 512 if sample % 2 else 256)  # what it fails and what it masters
        question = draw_question(point, sample, tokenizer, library)
        with extend(model, point.method, length=point.length) as steered:
            outcomes.append(all(right(steered, question)))
            generated = engine.generate(steered, question.prompt, len(question.answer)).tokens
        assert (generated == question.answer) == outcomes[-1]
        if outcomes[-1]:
            assert not all(right(model, question._replace(answer=[*question.answer[:-1], 5])))
    assert any(outcomes)


@pytest.mark.parametrize("chunk", [3, 60, 250])
@torch.no_grad()
def test_the_size_of_chunks_changes_no_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    library: Library,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt, answer = draw_question(ASKED[1], 0, tokenizer, library)
    question = Question(prompt, [answer[0], answer[1] + 1, *answer[2:]])
    ids = prompt + answer
    whole, nats = right(model, question), token_nats(model, ids)
    assert whole[:2] == [True, False]
    calls: list[int] = []
    hook = model.register_forward_hook(lambda _, __, output: calls.append(output.logits.shape[1]))
    monkeypatch.setattr(engine, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(exam, "LOGITS_SLICE", chunk)
    try:
        assert right(model, question) == whole
        assert calls[-1] == len(answer) and set(calls[:-1]) == {1}, "logits of the answer only"
        calls.clear()
        torch.testing.assert_close(token_nats(model, ids), nats, atol=1e-4, rtol=1e-4)
        assert max(calls) == chunk
    finally:
        hook.remove()


@torch.no_grad()
def test_nats_are_those_of_the_model(model: PreTrainedModel) -> None:
    ids = torch.randint(2, 1341, (100,), generator=torch.Generator().manual_seed(0))
    found = token_nats(model, ids.tolist())
    assert found.shape == (99,)
    torch.testing.assert_close(found.mean(), model(ids[None], labels=ids[None]).loss)


def test_the_model_passes_inside_its_training_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    for point in (ASKED[0], ASKED[2], ASKED[4], ASKED[6]):
        scores = measure(model, tokenizer, point, range(10))
        assert summary(point, scores)["successes"] >= 8, point


def test_more_context_lowers_perplexity_with_a_scaled_method_only(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    last = {}
    for method in ("vanilla", "streaming:sinks=0", "dca:mscale=0.1"):
        point = Point("perplexity", method, 1024)
        last[method] = sum(summary(point, measure(model, tokenizer, point, range(6)))["nats_last"]) / 6
    assert last["dca:mscale=0.1"] + 0.05 < last["streaming:sinks=0"] < last["vanilla"] - 0.05


@pytest.mark.parametrize(("count", "t"), [(2, 12.706), (3, 4.303), (4, 3.182), (6, 2.571), (21, 2.086), (101, 1.984)])
def test_intervals_of_means_are_students(count: int, t: float) -> None:
    values = [float(value) for value in range(count)]
    mean, low, high = mean_interval(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    assert mean == sum(values) / count
    assert high - mean == pytest.approx(mean - low) == pytest.approx(t * deviation / math.sqrt(count), rel=0.005)


def test_a_single_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two values"):
        mean_interval([1.0])


def test_every_point_of_the_grids_fits(
    benchmark: ModuleType, tokenizer: PreTrainedTokenizerBase, library: Library
) -> None:
    points = benchmark.base_points(256) + benchmark.fot_points(256, "1")
    assert len(points) == len(set(points))
    for point in points:
        if point.what != "perplexity" and point.length <= 4096:
            draw_question(point, 0, tokenizer, library)
        if point.method.startswith("fot") and point.length > 256 and point.what != "perplexity":
            assert point.local == 256
    assert benchmark.fot_points(256, "1")[0].method == "fot:memory_layers=[1],context_length=256,variant=streaming"


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "points.jsonl"
    point, model = Point("passkey", "vanilla", 256), benchmark._examined("tiny=lcbench-tiny")
    job = benchmark.Job(model, point, 2)
    benchmark.examine([job], None, file, 1)
    (line,) = benchmark.read_lines(file)
    assert line.items() >= {"model": "tiny", "successes": 2, "samples": 2, "what": "passkey", "trained": 256}.items()
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"model": "ti')
    assert benchmark.read_lines(file) == [line]
    assert benchmark._is_known(job, [line]) and not benchmark._is_known(replace(job, samples=3), [line])
    benchmark._append(file, line)
    assert file.read_bytes() == whole * 2
    other = replace(model, fingerprint="sha256:other")
    with pytest.raises(UserError, match="another model called tiny"):
        benchmark.examine([replace(job, model=other)], None, file, 1)
    with pytest.raises(UserError, match="nothing here asks for taste"):
        benchmark.examine([job], ["taste"], file, 1)
    file.write_text("no points\n")
    with pytest.raises(UserError, match="something else"):
        benchmark.read_lines(file)


@pytest.mark.parametrize(
    ("text", "name", "source", "layers"),
    [
        ("lcbench-tiny", "lcbench-tiny", "lcbench-tiny", None),
        ("lcbench-tiny:1", "lcbench-tiny", "lcbench-tiny", "1"),
        ("before=lcbench-tiny:1,3", "before", "lcbench-tiny", "1,3"),
    ],
)
def test_models_are_named(benchmark: ModuleType, text: str, name: str, source: str, layers: str | None) -> None:
    found = benchmark._examined(text)
    assert (found.name, found.source.name, found.memory_layers, found.trained) == (name, source, layers, 256)


def test_tables_say_what_the_lines_say(benchmark: ModuleType) -> None:
    def line(what: str, method: str, length: int, scores: list[list[float]], facts: int = 1) -> dict[str, Any]:
        found = summary(Point(what, method, length), scores)  # type: ignore[arg-type]
        named = {"model": "tiny", "what": what, "method": method, "length": length, "facts": facts, "local": 0}
        return json.loads(json.dumps({**named, "trained": 256, **found}))

    lines = [
        line("codes", "vanilla", 256, [[1.0]] * 9 + [[0.0]], facts=4),
        line("passkey", "vanilla", 256, [[1.0]] * 10),
        line("passkey", "dca", 1024, [[1.0]] * 10 + [[0.0]] * 10),
        line("perplexity", "streaming:sinks=0", 1024, [[1.0, 1.1], [2.0, 2.1]]),
        line("perplexity", "dca", 1024, [[0.8, 0.9], [1.7, 1.8]]),
    ]
    text = "\n".join(benchmark.tables(lines))
    assert "| one of 4 codes | 0.90 [0.60, 0.98] |" in text
    assert "| `vanilla` | 1.00 [0.72, 1.00] (10 samples) |  |" in text
    assert "| `dca` |  | 0.50 [0.30, 0.70] (20 samples) |" in text
    assert f"| `dca` | {math.exp(1.25):.2f} [" in text and f" / {math.exp(1.35):.2f} [" in text
    assert f"{100 * math.expm1(-0.25):+.1f} %" in text
    assert "2 books a number" in text
