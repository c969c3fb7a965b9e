"""How long a run takes, before it starts and while it works."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lcbench.engine.models import ModelSource
from lcbench.run.pace import Pace, duration, estimate, forecast, surely_short, total_work, work
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import PlainProgress, TerminalProgress
from lcbench.run.requests import Request
from tests.run.test_progress import record


def plan_of(method: str = "dca", length: int = 131_072, samples: int = 20) -> Plan:
    return make_plan(ModelSource(device="cpu"), [Request("passkey", (method,), (length,), None, samples)])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_grows_with_the_square_of_a_long_prompt_unless_keys_are_dropped(plan: Plan) -> None:
    (job,) = plan.jobs
    assert 3.9 < work(plan, job, 131_072) / work(plan, job, 65_536) < 4.0
    assert total_work(plan) == 20 * work(plan, job, 131_072)
    streaming = plan_of("streaming")
    (other,) = streaming.jobs
    assert 1.9 < work(streaming, other, 131_072) / work(streaming, other, 65_536) < 2.1


def test_the_forecast_says_what_shortens_a_long_run(plan: Plan) -> None:
    said = forecast(plan, 3 * 3600)
    assert said.startswith("estimated time: 3.0 h (rough")
    assert "--samples 1 instead of 20 (9 min)" in said and "half of 131,072 takes about 25% of the time" in said
    assert "a GPU" in said
    assert forecast(plan, 20).endswith("first samples)")  # nothing to shorten
    assert not surely_short(plan) and surely_short(plan_of(length=256, samples=2))
    assert 10 < estimate(plan) < 1e7


def test_durations() -> None:
    said = [duration(seconds) for seconds in (0.1, 40, 540, 9000, 50_000, 400_000)]
    assert said == ["1 s", "40 s", "9 min", "2.5 h", "14 h", "5 days"]


def test_time_left_follows_the_work_and_not_the_tokens(plan: Plan) -> None:
    (job,) = plan.jobs
    clock = Clock()
    pace = Pace(plan, [20], clock)
    assert pace.seconds_left is None
    pace.prefilled(job, 0)
    clock.now = 5.0
    pace.prefilled(job, 8192)
    whole = 5.0 * total_work(plan) / work(plan, job, 8192)
    assert pace.seconds_left == pytest.approx(whole - 5.0)
    assert whole > 20 * 5.0 * 131_072 / 8192 * 5  # tokens per second would promise a small part of it
    pace.prefilled(job, 131_066)
    clock.now = 600.0
    pace.finished(job)
    assert pace.seconds_left == pytest.approx(600 * 19)
    pace.prefilled(job, 0)
    pace.finished(job, 19, failed=True)
    assert pace.seconds_left == 0.0


def test_a_run_that_goes_on_has_the_work_of_the_samples_that_are_missing() -> None:
    """Here the longest of three: nine tenths of the work, not a third."""
    plan = make_plan(ModelSource(device="cpu"), [Request("passkey", ("vanilla",), (1024, 4096, 32_768), None, 1)])
    clock = Clock()
    pace = Pace(plan, [int(job.cell.seq_len == 32_768) for job in plan.jobs], clock)
    job = max(plan.jobs, key=lambda job: job.cell.seq_len)
    pace.prefilled(job, 0)
    clock.now = 5.0
    pace.prefilled(job, 8192)
    assert pace.seconds_left == pytest.approx(5.0 * work(plan, job, 32_768) / work(plan, job, 8192) - 5.0)


def test_several_prompts_are_prefilled_before_their_answers_come(plan: Plan) -> None:
    (job,) = plan.jobs
    clock = Clock()
    pace = Pace(plan, [10], clock)
    for _ in range(2):
        for tokens in (0, 65_536, 131_072):
            pace.prefilled(job, tokens)
    clock.now = 100.0
    assert pace.seconds_left == pytest.approx(100 / 2 * 8)
    pace.finished(job)
    assert pace.seconds_left == pytest.approx(100 / 2 * 8)
    pace.finished(job)
    assert pace.seconds_left == pytest.approx(100 / 2 * 8) and pace.begun == 0


def test_a_line_a_minute_in_a_pipe(plan: Plan) -> None:
    (job,), clock, stream = plan.jobs, Clock(), io.StringIO()
    progress = PlainProgress(Console(file=stream, width=200), clock)
    progress.start(plan, [20])
    progress.prefilled(job, 0, 131_066)
    for now, tokens in ((4.0, 8192), (20.0, 16_384), (64.5, 24_576), (70.0, 32_768)):
        clock.now = now
        progress.prefilled(job, tokens, 131_066)
    _, first, second = stream.getvalue().splitlines()
    assert first.startswith("passkey  131072  dca  sample 1 of 20, 8,192 of 131,066 tokens, about ")
    assert first.endswith(" left") and "24,576 of 131,066 tokens" in second


def test_short_runs_stay_quiet() -> None:
    short, clock, stream = plan_of(length=256, samples=2), Clock(), io.StringIO()
    progress = PlainProgress(Console(file=stream), clock)
    progress.start(short, [2])
    progress.prefilled(short.jobs[0], 0, 250)
    clock.now = 1.0
    progress.prefilled(short.jobs[0], 250, 250)
    assert stream.getvalue() == "1 cell, 2 samples\n"


def test_the_bar_moves_within_a_sample(plan: Plan) -> None:
    progress = TerminalProgress(Console(file=io.StringIO(), force_terminal=True, width=120))
    progress.start(plan, [18])
    bar = progress._bar.tasks[0]
    progress.prefilled(plan.jobs[0], 0, 131_066)
    assert bar.completed == 2
    progress.prefilled(plan.jobs[0], 65_536, 131_066)
    assert 2.2 < bar.completed < 2.3 and bar.description.endswith("65,536 of 131,066 tokens")
    assert bar.fields["left"].endswith(" left")
    progress.sample(plan.jobs[0], record(0), left=19)
    assert bar.completed == 3
    progress.finish()
