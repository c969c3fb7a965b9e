"""Prompts that begin alike share their prefill, and nobody can tell from the answers."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import PreTrainedModel

from lcbench.engine.generate import generate
from lcbench.engine.models import ModelSource
from lcbench.engine.prefix_cache import PrefixCache, shared_length
from lcbench.results.schema import Record
from lcbench.run import assemble, runner
from lcbench.run.batches import AT_ONCE
from lcbench.run.plan import Job, Plan, make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Cell, Example, Task, load_task
from lcbench.tasks.base import FAMILIES
from tests.attention import zoo
from tests.helpers import Fields, fields_of

BUDGET = 4


class Silent:
    """Nobody is told how far a run is."""

    def start(self, plan: Plan, missing: Sequence[int]) -> None: ...
    def prefilled(self, job: Job, tokens: int, total: int) -> None: ...
    def sample(self, job: Job, record: Record, left: int) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


def records_of(folder: Path, *requests: Request, source: ModelSource | None = None) -> dict[str, Fields]:
    outcome = runner.run(make_plan(source or ModelSource(), list(requests)), folder, Silent())
    assert not outcome.failed
    return {record["id"]: record for record in fields_of(folder)}


def without_reuse(monkeypatch: pytest.MonkeyPatch, run: Callable[[], dict[str, Fields]]) -> dict[str, Fields]:
    with monkeypatch.context() as patch:
        patch.setattr(runner, "grouped", lambda jobs, by_length: [runner.Group([job], False) for job in jobs])
        return run()


def reused(records: dict[str, Fields]) -> int:
    return sum(record["cost"]["reused_tokens"] for record in records.values())


def distinct_prefixes(prompts: list[list[int]]) -> int:
    """Nodes of the tree of all prefixes: what has to be computed at least."""
    return len({tuple(prompt[:n]) for prompt in prompts for n in range(1, len(prompt) + 1)})


def test_shared_length() -> None:
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([1, 2], [1, 2, 4]) == shared_length([1, 2, 4], [1, 2]) == 2
    assert shared_length([], [1]) == shared_length([2], [1]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_sorted_prompts_compute_every_prefix_once(seed: int) -> None:
    rng, model = random.Random(seed), zoo.llama()
    stem = [rng.randrange(3, 100) for _ in range(30)]
    prompts = [stem[: rng.randrange(31)] + [rng.randrange(3, 6) for _ in range(rng.randrange(1, 8))] for _ in range(12)]
    prefixes, computed = PrefixCache(model.config), 0
    for prompt in sorted(prompts, reverse=True):
        with_reuse = generate(model, prompt, BUDGET, prefixes=prefixes)
        assert with_reuse.tokens == generate(model, prompt, BUDGET).tokens
        computed += len(prompt) - with_reuse.reused
    repeated = len(prompts) - len({tuple(prompt) for prompt in prompts})
    ends = sum(
        any(other[: len(p)] == p and len(other) > len(p) for other in prompts)
        for p in map(list, set(map(tuple, prompts)))
    )
    # The last token of a prompt is always computed: its logits are wanted.
    assert computed == distinct_prefixes(prompts) + ends + repeated


def test_logits_after_a_reused_prefix_are_those_of_the_whole_prompt() -> None:
    model = zoo.llama().double()
    one, other = zoo.tokens(1, 50)[0].tolist(), zoo.tokens(1, 40, seed=2)[0].tolist()
    prefixes = PrefixCache(model.config)
    generate(model, one, BUDGET, prefixes=prefixes)
    prompt = one[:35] + other
    cache, held = prefixes.take(prompt, 1)
    assert held == 35
    found = model(torch.tensor([prompt[held:]]), past_key_values=cache).logits
    expected = model(torch.tensor([prompt])).logits[:, held:]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "of",
    [
        zoo.config("MistralConfig", num_hidden_layers=2, sliding_window=16),
        zoo.config("Gemma3TextConfig", num_hidden_layers=2, sliding_window=16, head_dim=16, sliding_window_pattern=2),
    ],
    ids=["mistral", "gemma3"],
)
def test_a_cache_that_cannot_go_back_is_not_reused(of: Any) -> None:
    model: PreTrainedModel = zoo.build(of)
    stem = zoo.tokens(1, 40)[0].tolist()
    prefixes = PrefixCache(model.config)
    for end in (9, 8, 7):
        found = generate(model, [*stem, end], BUDGET, prefixes=prefixes)
        assert found.reused == 0 and found.tokens == generate(model, [*stem, end], BUDGET).tokens


def test_what_fails_leaves_no_half_filled_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stem = zoo.llama(), zoo.tokens(1, 40)[0].tolist()
    prefixes = PrefixCache(model.config)
    generate(model, [*stem, 9], BUDGET, prefixes=prefixes)
    hook = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(model, [*stem, 8], BUDGET, prefixes=prefixes)
    hook.remove()
    again = generate(model, [*stem, 8], BUDGET, prefixes=prefixes)
    assert again.reused == 0 and again.tokens == generate(model, [*stem, 8], BUDGET).tokens


METHODS = (
    "vanilla",
    "pi:factor=2",
    "self_extend:group_size=4",
    "dca:chunk_size=96,max_position=127",
    "leaky_rerope",
    "yarn+logn",
    "streaming",
)


def test_the_same_answers_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"needle:protocol=codes": METHODS, "passkey": METHODS[-2:]}
    requests = [Request(task, methods, (200, 280), (0.4, 1.0), 1) for task, methods in tasks.items()]
    shared = records_of(tmp_path / "shared", *requests)
    plain = without_reuse(monkeypatch, lambda: records_of(tmp_path / "plain", *requests))
    assert reused(plain) == 0
    for id, record in shared.items():
        strip = {key: value for key, value in record.items() if key not in ("cost", "session")}
        assert strip == {key: value for key, value in plain[id].items() if key not in ("cost", "session")}
    for task, methods in tasks.items():
        for method in methods:
            mine = {i: r for i, r in shared.items() if r["method"] == method and r["task"] == task}
            assert reused(mine) > 0, (task, method)


@pytest.mark.parametrize("method", ["dynamic_ntk", "dca:mscale=0.1", "fot:memory_layers=[1]"])
def test_nothing_is_shared_where_it_would_be_wrong(method: str, tmp_path: Path) -> None:
    records = records_of(tmp_path / "run", Request("passkey", (method,), (300,), (0.0, 1.0), 2))
    assert len(records) == 4 and reused(records) == 0


def jobs_of(*methods: str) -> list[Job]:
    return make_plan(ModelSource(), [Request("passkey", methods, (256, 512, 1024), None, 1)]).jobs


def test_groups() -> None:
    def sizes(*methods: str, by_length: bool = False) -> list[list[int]]:
        groups = runner.grouped(jobs_of(*methods), by_length=by_length)
        return [[job.cell.seq_len for job in group.jobs] for group in groups]

    assert sizes("vanilla") == sizes("dca") == [[1024, 512, 256]]
    assert sizes("vanilla", by_length=True) == [[1024], [512], [256]]  # a model whose own RoPE follows the length
    assert sizes("yarn") == [[1024], [512], [256]]  # its factor follows the length
    assert sizes("yarn:factor=4", "vanilla") == [[1024, 512, 256]] * 2
    assert sizes("dynamic_ntk:factor=2") == [[1024], [512], [256]]


def test_the_longest_comes_first() -> None:
    """Of all groups and in each: memory that does not suffice shows at once."""
    jobs = jobs_of("yarn", "vanilla", "dynamic_ntk:factor=2")
    groups = runner.grouped(jobs, by_length=False)
    assert [max(job.cell.seq_len for job in group.jobs) for group in groups] == [1024] * 3 + [512] * 2 + [256] * 2
    for group in groups:
        batches = group.batches()
        lengths = [max(job.cell.seq_len for job, _ in batch.samples) for batch in batches]
        assert lengths == sorted(lengths, reverse=True) and lengths[0] == group.jobs[0].cell.seq_len


@pytest.mark.parametrize("processes", [1, 2, 3, 8, 100])
def test_batches_for_several_processes(processes: int) -> None:
    """Every sample once, under a name of its own, and no batch so large that others would wait for it."""
    jobs = make_plan(ModelSource(), [Request("passkey", ("vanilla", "dca:mscale=0.1"), (256, 512), None, 20)]).jobs
    for group in runner.grouped(jobs, by_length=False):
        batches = group.batches(processes)
        assert len({batch.name for batch in batches}) == len(batches)
        samples = [(job.record_id(0), sample) for batch in batches for job, sample in batch.samples]
        assert sorted(samples) == sorted((job.record_id(0), sample) for job in group.jobs for sample in range(20))
        if processes == 1:  # those together that begin alike, and else as many as may be measured at once
            prefixes = {job.task.shares(job.cell, n) for job in group.jobs for n in range(20)}
            assert len(batches) == (len(prefixes) if group.shares else math.ceil(20 / AT_ONCE))
        else:
            assert max(len(batch.samples) for batch in batches) <= math.ceil(len(samples) / (2 * processes))


@pytest.mark.slow
def test_the_grid_of_ten_depths_and_eight_lengths() -> None:
    """At least 1.4 times fewer prefill tokens, as the tree of prefixes promises and the engine keeps."""
    task, tokenizer = load_task("needle"), ModelSource().tokenizer()
    lengths = [200 * n for n in range(1, 9)]
    cells = task.cells(lengths, [n / 9 for n in range(10)])
    assert len(cells) == 80 and len({task.shares(cell, 0) for cell in cells}) == 1
    examples = [task.example(cell, 0, tokenizer, 0) for cell in cells]
    prompts = sorted((example.prompt for example in examples), reverse=True)
    computed = len(prompts[0])
    for before, prompt in pairwise(prompts):
        computed += len(prompt) - shared_length(before, prompt)
    assert sum(map(len, prompts)) / computed > 1.6

    model, prefixes = ModelSource().model(), PrefixCache(ModelSource().config())
    total = sum(len(p) - generate(model, p, 1, prefixes=prefixes).reused for p in prompts)
    assert total == computed


def test_where_the_needle_is(tmp_path: Path) -> None:
    tokenizer = ModelSource().tokenizer()
    for spec, words in (
        ("passkey", "The pass key is"),
        ("needle", "The best thing"),
        ("needle:protocol=codes", "The code"),
    ):
        for depth in (0.0, 0.3, 1.0):
            example = load_task(spec).example(Cell(600, depth), 1, tokenizer, 0)
            assert example.needle_at is not None
            assert str(tokenizer.decode(example.prompt[example.needle_at :])).strip().startswith(words)


def test_excerpt() -> None:
    def parts(size: int, needle_at: int | None) -> list[list[int]]:
        prompt = list(range(size))
        return assemble.excerpt(Example(prompt[:1], prompt[1:], [], (), 1, 0, needle_at=needle_at))

    n = assemble.EXCERPT
    start, end = list(range(n)), list(range(1000 - 2 * n, 1000))
    assert parts(1000, None) == [start, end]
    assert parts(1000, 500) == [start, list(range(500 - n, 500 + 2 * n)), end]
    assert parts(1000, 20) == [list(range(20 + 2 * n)), end]
    assert parts(1000, 990) == [start, list(range(1000 - 2 * n, 1000))]
    assert parts(30, None) == parts(30, 10) == [list(range(30))]


@dataclass(frozen=True, kw_only=True)
class Questions(Task):
    """Rows as L-Eval has them: a document, and several instructions on it."""

    family: ClassVar[str] = "questions-of-the-test"
    metric: ClassVar[str] = "found"
    rows: ClassVar[list[dict[str, Any]]] = [
        {"input": "The code of Mara is 4821. " * 12, "instructions": ["What is the code?", "Who is it?", "What?"]},
        {"input": "The sky is blue over Oslo. " * 12, "instructions": ["What is blue?", "Where?", "The sky is"]},
    ]

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        return [Cell(seq_len) for seq_len in seq_lens]

    def shares(self, cell: Cell, sample: int) -> int:
        return sample % len(self.rows)

    def example(self, cell: Cell, sample: int, tokenizer: Any, seed: int) -> Example:
        row = self.rows[sample % len(self.rows)]
        question = row["instructions"][sample // len(self.rows)]
        document = tokenizer(row["input"]).input_ids
        return Example([], document, tokenizer("\n" + question).input_ids[1:], ("4821",), BUDGET, 0)

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"found": float(example.references[0] in prediction)}


def test_several_questions_on_a_document_cost_one_prefill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, Questions.family, Questions)
    path = tmp_path / "questions.yaml"
    path.write_text(f"family: {Questions.family}\nsamples: 6\n")
    request = Request(str(path), ("vanilla", "dca"), (400,))
    shared = records_of(tmp_path / "shared", request)
    plain = without_reuse(monkeypatch, lambda: records_of(tmp_path / "plain", request))
    assert {i: r["prediction"] for i, r in shared.items()} == {i: r["prediction"] for i, r in plain.items()}
    tokenizer = ModelSource().tokenizer()
    for row, text in enumerate(Questions.rows):
        mine = [r for r in shared.values() if r["sample"] % 2 == row and r["method"] == "dca"]
        document = len(tokenizer(text["input"]).input_ids)
        assert [
            r["cost"]["reused_tokens"] >= document for r in sorted(mine, key=lambda r: r["cost"]["reused_tokens"])
        ] == [False, True, True]


@pytest.mark.slow
def test_a_resumed_run_answers_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    request = Request("needle", ("dca",), (300, 500), (0.0, 0.5, 1.0), 2)
    whole = records_of(tmp_path / "whole", request)
    records_of(tmp_path / "parts", dataclasses.replace(request, samples=1))
    parts = records_of(tmp_path / "parts", request)
    assert {i: (r["prediction"], r["prompt_sha256"]) for i, r in whole.items()} == {
        i: (r["prediction"], r["prompt_sha256"]) for i, r in parts.items()
    }
