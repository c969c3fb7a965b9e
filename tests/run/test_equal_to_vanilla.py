"""A method that changes nothing at a length is computed once: vanilla's results are taken over, and records say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcbench.engine import steered
from lcbench.engine.models import ModelSource
from lcbench.results.records import RECORDS
from lcbench.run import runner
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import SilentProgress
from lcbench.run.requests import Request
from tests.helpers import cli, fields_of, lines_of, records_of

MARKS = ("equals", "taken_from")


def plan_of(*methods: str, samples: int = 2, seq_lens: tuple[int, ...] = (150, 300)) -> Plan:
    return make_plan(ModelSource(), [Request("passkey", methods, seq_lens, None, samples)])


def run(folder: Path, *methods: str, **options: Any) -> None:
    assert not runner.run(plan_of(*methods, **options), folder, SilentProgress()).failed


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all prompts that a model was given."""
    given: list[int] = []
    generate = steered.generate_together

    def counted(model: Any, asked: list[Any], *rest: Any) -> Any:
        given.extend(len(one.tokens) for one in asked)
        return generate(model, asked, *rest)

    monkeypatch.setattr(steered, "generate_together", counted)
    return given


def test_results_and_cost_are_those_of_vanilla(tmp_path: Path, prompts: list[int]) -> None:
    run(tmp_path / "run", "dca", "vanilla", "yarn+dca")
    assert len(prompts) == 2 + 3 * 2  # one method at 150 tokens, three at 300
    found = {record["id"]: record for record in fields_of(tmp_path / "run")}
    for method in ("dca", "yarn+dca"):
        for sample in range(2):
            one, own = (found[f"passkey/{name}/150/uniform/{sample}"] for name in (method, "vanilla"))
            assert one["equals"] == "vanilla" and one["taken_from"] == own["id"]
            assert "equals" not in own and "taken_from" not in own
            differing = {key for key in one if one[key] != own.get(key)}
            assert differing == {"id", "method", "method_options", *MARKS}
            assert not found[f"passkey/{method}/300/uniform/{sample}"].keys() & set(MARKS)
    assert found["passkey/dca/150/uniform/0"]["method_options"]["chunk_size"] == 192


def test_without_vanilla_it_is_computed_and_marked(tmp_path: Path, prompts: list[int]) -> None:
    run(tmp_path / "alone", "dca", seq_lens=(150,))
    run(tmp_path / "beside", "dca", "vanilla", seq_lens=(150,))
    alone, beside = (records_of(tmp_path / name) for name in ("alone", "beside"))
    assert len(prompts) == 2 + 2
    for id, record in alone.items():
        assert record.pop("equals") == beside[id].pop("equals") == "vanilla"
        assert "taken_from" not in record and beside[id].pop("taken_from")
        assert record == beside[id]


@pytest.mark.slow
def test_more_samples_and_killed_runs(tmp_path: Path, prompts: list[int]) -> None:
    run(tmp_path / "whole", "vanilla", "dca", samples=3)
    run(tmp_path / "run", "vanilla", "dca")
    run(tmp_path / "run", "vanilla", "dca", samples=3)
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")
    lines = (tmp_path / "whole" / RECORDS).read_text().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        folder = tmp_path / f"killed{kept}"
        run(folder, "vanilla", "dca", samples=1)
        (folder / RECORDS).write_text("".join(lines[:kept]))
        run(folder, "vanilla", "dca", samples=3)
        assert records_of(folder) == records_of(tmp_path / "whole")
        assert len(lines_of(folder)) == len(lines)


def test_a_run_of_an_older_version_goes_on(tmp_path: Path, prompts: list[int]) -> None:
    """Vanilla was recorded and dca was not: it is computed, as it was there."""
    plan = plan_of("vanilla", "dca", seq_lens=(150,))
    runner.run(plan, tmp_path / "new", SilentProgress())
    older = [line for line in lines_of(tmp_path / "new") if line["method"] == "vanilla"]
    runner.run(replace(plan, jobs=[replace(job, equals=None) for job in plan.jobs]), tmp_path / "old", SilentProgress())
    kept = [line for line in (tmp_path / "old" / RECORDS).read_text().splitlines(True) if '"vanilla"' in line]
    (tmp_path / "old" / RECORDS).write_text("".join(kept))
    assert len(kept) == len(older) == 2
    runner.run(plan, tmp_path / "old", SilentProgress())
    for id, record in records_of(tmp_path / "old").items():
        assert record.get("equals") == ("vanilla" if "dca" in id else None) and "taken_from" not in record
        assert record["prediction"] == records_of(tmp_path / "new")[id]["prediction"]


def test_a_failure_is_taken_over_and_mended_with_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("vanilla", "dca", seq_lens=(150,))
    with monkeypatch.context() as patch:
        patch.setattr(steered, "generate_together", lambda *_: 1 / 0)
        failed = runner.run(plan, tmp_path / "run", SilentProgress()).failed
    assert {str(job.method) for job, _ in failed} == {"vanilla", "dca"}
    assert [line["error"] for line in lines_of(tmp_path / "run")] == ["ZeroDivisionError: division by zero"] * 2
    assert not runner.run(plan, tmp_path / "run", SilentProgress()).failed
    runner.run(plan, tmp_path / "whole", SilentProgress())
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")


def test_the_verbs_say_so(tmp_path: Path) -> None:
    arguments = ["run", "passkey", "--method", "vanilla,dca", "--seq-len", "150,300", "--samples", "2"]
    dry = cli(*arguments, "--dry-run").out.splitlines()
    assert [line.endswith("  = vanilla") for line in dry[:4]] == [False, True, False, False]
    done = cli(*arguments, "-o", tmp_path / "run")
    (told,) = [line for line in done.err.splitlines() if line.endswith("  = vanilla")]
    assert told.startswith("passkey  150  dca  exact_match ")
