"""The suites of quoted benchmarks: every task exists, and the small one runs on the embedded model without data."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcbench.run.requests import read_requests
from lcbench.tasks import load_task
from tests.helpers import cli, fields_of


def test_the_large_suite_names_tasks_that_exist() -> None:
    requests, _ = read_requests("quoted")
    names = [request.task for request in requests]
    assert {"mrcr/8needle", "graphwalks/published", "longbench_v2", "babilong/qa5"} <= set(names)
    assert sum(name.startswith("ruler/") for name in names) == 13
    assert max(max(request.seq_lens or ()) for request in requests) == 2**20
    for name in names:
        assert load_task(name).description


def test_the_small_suite_runs_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    done = cli("run", "quoted_small", "--samples", "1", "--output", tmp_path / "run")
    assert done.code == 0, done.err
    records = fields_of(tmp_path / "run")
    assert len(records) == 7 and all(record["error"] is None for record in records)
    assert all(record["prompt_tokens"] + record["max_new_tokens"] == record["seq_len"] for record in records)
    assert "headline of babilong" in done.out and "headline of all tasks" in done.out
    assert "graphwalks:max_new_tokens=64 [operation=bfs]" in cli("table", tmp_path / "run", "--format", "json").out
