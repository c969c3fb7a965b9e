"""The search for options: what is tried, who goes on, what is held out; and that it goes on where it stopped."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.apps.tune import search
from lcbench.apps.tune.candidates import candidates
from lcbench.apps.tune.draw import draw
from lcbench.apps.tune.halving import CONFIRMED, LEAST, schedule
from lcbench.apps.tune.search import Found, Search
from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.methods import Lengths, all_methods, parse_method
from lcbench.methods.self_extend import SelfExtend
from lcbench.results.records import RunWriter
from lcbench.results.schema import Record
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import SilentProgress
from lcbench.run.requests import Request
from tests.helpers import cli, fields_of, records_of
from tests.results.report import samples

LENGTHS = Lengths(4096, 32768)


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_declared_value_is_one_of_an_option(name: str) -> None:
    """And most candidates make sense at common lengths, on a model of 256 tokens as on one of 4,096."""
    method = all_methods()[name]()
    for lengths in (LENGTHS, Lengths(256, 2048), Lengths(8192, 9000)):
        declared = method.tunable(lengths)
        assert declared.keys() <= method.options().keys() and all(declared.values())
        if declared:
            every = candidates(name, lengths)
            assert every[0] == method and len(every) > 2
            assert [parse_method(str(one)) for one in every] == every
            assert len({repr(one.resolve(lengths)) for one in every}) == len(every)


def test_candidates_differ_by_few_options_first_and_typed_ones_stay() -> None:
    every = candidates("self_extend:neighbor_window=512", LENGTHS)
    assert all(isinstance(one, SelfExtend) and one.neighbor_window == 512 for one in every)
    changes = [sum(value is not None and value != 0 for value in list(one.options().values())) - 1 for one in every]
    assert changes == sorted(changes) and changes[0] == 0
    unscaled = candidates("self_extend:log_scale_base=0", LENGTHS)  # typed, though it is the default
    assert all(isinstance(one, SelfExtend) and not one.log_scale_base for one in unscaled)
    composed = candidates("dca+yarn:factor=8", LENGTHS)
    assert all(str(one).endswith("+yarn:factor=8") for one in composed) and len(composed) == len(
        candidates("dca", LENGTHS)
    )


@given(count=st.integers(2, 200), budget=st.integers(1, 5000), cells=st.integers(1, 11))
def test_a_schedule_keeps_to_its_budget(count: int, budget: int, cells: int) -> None:
    try:
        found = schedule(count, budget, cells)
    except UserError as error:
        least = int(str(error).split("pass --budget ")[1].split()[0])
        assert least > budget
        found, budget = schedule(count, least, cells), least
    assert found.cost(cells) <= budget
    assert found.kept[0] == count and found.samples[0] >= LEAST and found.held_out >= 1
    assert list(found.samples) == sorted(found.samples) and found.kept[-1] <= 3
    assert 2 * found.held_out * cells <= budget / CONFIRMED


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Eight candidates at 512 tokens."""
    every = candidates("ntk", Lengths(256, 512))
    return make_plan(ModelSource(), [Request("passkey", tuple(map(str, every)), (512,), samples=200)], 1000)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs that answer at once: a sample is right by the candidate's `quality`, or the candidate fails where that is
    negative. Counts what was answered, and stops after `most` samples."""
    state: dict[str, Any] = {"quality": lambda name: 0.5, "count": Counter(), "most": 10**9}

    def run(plan: Plan, folder: Path, progress: object, open_host: object) -> None:
        with RunWriter(folder, plan.identity(), {"started_at": "2026-01-01T00:00:00+00:00"}) as writer:
            for job in plan.jobs:
                name = str(job.method)
                for sample in range(job.samples):
                    if job.record_id(sample) in writer.done:
                        continue
                    if state["count"].total() == state["most"]:
                        raise KeyboardInterrupt
                    quality = state["quality"](name)
                    right = random.Random(sample).random() < quality
                    made = (
                        samples.failure(name, 512, sample=sample)
                        if quality < 0
                        else samples.record(name, 512, sample, float(right))
                    )
                    writer.append(Record.from_json(made | {"id": job.record_id(sample), "prompt_sha256": str(sample)}))
                    state["count"][name] += 1
                    if quality < 0:
                        break

    monkeypatch.setattr(search, "run", run)
    return state


def found_by(plan: Plan, folder: Path, budget: int = 400) -> Found:
    rounds = schedule(len(plan.jobs), budget, 1)
    return Search(plan, folder, rounds).run(SilentProgress, lambda text: None)


def test_the_best_wins_and_is_confirmed_on_other_samples(plan: Plan, answered: dict[str, Any], tmp_path: Path) -> None:
    names = [str(job.method) for job in plan.jobs]
    qualities = dict(zip(names, (0.3, 0.1, 0.2, 0.9, 0.25, 0.15, 0.05, 0.1), strict=False))
    answered["quality"] = qualities.__getitem__
    found = found_by(plan, tmp_path / "run")
    rounds = schedule(len(names), 400, 1)
    assert (found.typed, found.best) == (names[0], names[3])
    assert [each.samples for each in found.rounds] == list(rounds.samples)
    for each in found.rounds:
        for name, score in each.scores.items():
            right = [random.Random(sample).random() < qualities[name] for sample in range(each.samples)]
            assert score == pytest.approx(sum(right) / each.samples)
    for name in (names[0], names[3]):
        held_out = range(rounds.samples[-1], rounds.all_samples)
        right = [random.Random(sample).random() < qualities[name] for sample in held_out]
        row = found.held_out[name]
        assert row.mean == pytest.approx(sum(right) / len(right)) and row.low is not None and row.samples == len(right)
    assert found.effect is not None and found.effect.difference > 0.3 and found.effect.p < 0.01
    assert answered["count"].total() <= 400 and answered["count"][names[6]] == rounds.samples[0]


def test_equals_go_to_the_one_that_changes_least(plan: Plan, answered: dict[str, Any], tmp_path: Path) -> None:
    found = found_by(plan, tmp_path / "run", 80)
    assert found.best == found.typed and found.effect is None
    assert len(draw(found, "title").axes) == 1


def test_a_candidate_that_fails_is_out(plan: Plan, answered: dict[str, Any], tmp_path: Path) -> None:
    names = [str(job.method) for job in plan.jobs]
    answered["quality"] = lambda name: 0.5 if name == names[5] else -1.0
    found = found_by(plan, tmp_path / "run")
    assert found.best == names[5] and found.effect is None and found.rounds[0].scores[names[0]] is None
    answered["quality"] = lambda name: -1.0
    with pytest.raises(UserError, match="no candidate could be measured"):
        found_by(plan, tmp_path / "other")


@pytest.mark.parametrize("most", [1, 30, 60])
def test_it_goes_on_where_it_stopped(plan: Plan, answered: dict[str, Any], tmp_path: Path, most: int) -> None:
    answered["quality"] = lambda name: len(name) / 20
    whole = found_by(plan, tmp_path / "whole", 80)
    asked, answered["count"] = answered["count"], Counter()
    answered["most"] = most
    with pytest.raises(KeyboardInterrupt):
        found_by(plan, tmp_path / "stopped", 80)
    answered["most"] = 10**9
    again = found_by(plan, tmp_path / "stopped", 80)
    assert (again.best, again.rounds) == (whole.best, whole.rounds) and answered["count"] == asked
    assert records_of(tmp_path / "stopped") == records_of(tmp_path / "whole")


def test_likelihoods_are_better_where_they_are_lower() -> None:
    reading = SimpleNamespace(jobs=[SimpleNamespace(task=SimpleNamespace(measure="likelihood", metric="nll"))])
    one = Search(reading, Path(), schedule(2, 100, 1))  # type: ignore[arg-type]
    assert one._rank(3.0) < one._rank(4.0) < one._rank(None)


def test_the_command_searches_and_says_what_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("tune", "logn", "--seq-len", "270", "--budget", "40", "-o", "run")
    done = cli(*command)
    assert done.code == 0, done.err
    pasted = done.out.rstrip().splitlines()[-1]
    assert pasted.startswith("--method logn") and parse_method(pasted.removeprefix("--method ")).label == "logn"
    assert Path("run/tune.png").read_bytes().startswith(b"\x89PNG")
    count = len(fields_of(Path("run")))
    assert count <= 40
    again = cli(*command)
    assert again.out == done.out and len(fields_of(Path("run"))) == count
    assert "logn:base=" in cli("table", "run").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fot"], "fot has no options to tune; methods that have some: abf, dca,"),
        (["vanilla"], "vanilla has no options to tune"),
        (["yarn:factor=4"], "yarn:factor=4 leaves nothing to tune; leave factor to the search."),
        (["self_extnd"], "did you mean 'self_extend'?"),
        (["self_extend", "--budget", "100"], "leaves fewer than 2 samples for each of"),
        (["dca", "--task", "pasky"], "did you mean 'passkey'?"),
        (["dca", "--task", "longbench_v2"], "longbench_v2"),
        (["dca", "--model", "lcbench-tyni"], "lcbench-tiny"),
    ],
)
def test_refused(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli("tune", *arguments, "--seq-len", "512")
    assert refused.code == 2 and said in refused.error, refused.error
    assert not list(tmp_path.iterdir())
