"""What a run says while it works: a bar on a terminal, lines in a pipe, and no markup read out of names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lcbench.engine.models import ModelSource
from lcbench.results.schema import Record
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import PlainProgress, TerminalProgress, describe
from lcbench.run.requests import Request
from tests.results.report import samples


@pytest.fixture(scope="module")
def plan() -> Plan:
    request = Request("passkey", ("vanilla", "dca:mscale=0.1"), (150, 160), (0.0, 1.0), 2)
    return make_plan(ModelSource(), [request])


def record(sample: int, score: float = 1.0, error: str | None = None) -> Record:
    if error:
        return Record.from_json(samples.failure("vanilla", 150, error, sample))
    cost = {"prefill_seconds": 0.5, "decode_seconds": 0.0, "peak_memory_bytes": 1, "reused_tokens": 60}
    return Record.from_json(samples.record("vanilla", 150, sample, score, prompt_tokens=100, cost=cost))


def test_describe(plan: Plan) -> None:
    assert describe(plan.jobs[0]) == "passkey  150  depth 0.00  vanilla"
    assert plan.size == "8 cells, 16 samples"


def test_plain_lines(plan: Plan) -> None:
    stream = io.StringIO()
    progress = PlainProgress(Console(file=stream, width=40))
    progress.start(plan, [1, 2, 1, 1, 2, 2, 2, 2])
    for sample, score in enumerate((1.0, 0.0)):
        progress.sample(plan.jobs[1], record(sample, score), left=1 - sample)
    progress.sample(plan.jobs[0], record(0, error="[boom] " + "x" * 60), left=1)
    progress.finish()
    first, second, third = stream.getvalue().splitlines()
    assert first == "8 cells, 16 samples, 3 of them already recorded"
    assert second.startswith("passkey  150  depth 0.00  dca:mscale=0.1  exact_match 0.50  2 samples  ")
    assert third == "failed: passkey  150  depth 0.00  vanilla: [boom] " + "x" * 60


def test_bar_counts_every_sample(plan: Plan) -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, force_terminal=True, width=120))
    progress.start(plan, [0, *[2] * 7])
    bar = progress._bar.tasks[0]
    assert (bar.completed, bar.total) == (2, 16)
    for job in plan.jobs[1:]:
        if job is plan.jobs[-1]:
            progress.sample(job, record(0, error="out of memory"), left=1)  # its other sample will not come
        else:
            for sample in range(2):
                progress.sample(job, record(sample), left=1 - sample)
    assert bar.completed == 16
    assert bar.fields["rate"] == "80 tok/s" and bar.description == describe(plan.jobs[-2])
    progress.finish()
    assert "failed: passkey  160  depth 1.00  dca:mscale=0.1: out of memory" in stream.getvalue()
