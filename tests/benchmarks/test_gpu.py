"""The GPU's quarter of an hour, as far as a CPU can run it: every stage, small; time limits; what a failure costs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu
from lcbench.apps.bench import check, passes, subjects, timing


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TURN", 0.0)
    monkeypatch.setattr(passes, "STEPS", 1)
    monkeypatch.setitem(passes.MATMUL_SIZE, "cpu", 32)
    monkeypatch.setattr(check, "ROWS", 4)


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_a_dry_run(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel raises what is no RuntimeError."""

    def attend(self: subjects.Steered, *args: Any) -> Tensor:
        if self.name == "dca (tiled)":
            raise ArithmeticError("illegal memory access")
        return own(self, *args)

    own = subjects.Steered.attend
    monkeypatch.setattr(subjects.Steered, "attend", attend)
    gpu.main(["--dry-run", "--out", str(tmp_path)])
    rows = written(tmp_path)
    assert list(dict.fromkeys(row["stage"] for row in rows)) == [stage.name for stage in gpu.STAGES]
    assert rows[0]["kind"] == "machine" and rows[0]["torch"] == torch.__version__
    failed = {(row["stage"], row["subject"]) for row in rows if row["kind"] == "failed"}
    assert failed == {(stage, "dca (tiled)") for stage in ("correct", "attention 32k", "attention 128k", "flex")}
    measured = {(row["stage"], row["part"]) for row in rows if row["kind"] == "measured"}
    assert measured == {(stage.name, part) for stage in gpu.STAGES for part in stage.parts}
    checked = {row["subject"] for row in rows if row["kind"] == "check" and row["stage"] == "correct"}
    assert {"sdpa", "vanilla (tiled)", "streaming (matmul)"} <= checked
    lines = [json.dumps(row) for row in rows]
    assert len(lines) == len(set(lines))


def test_a_stage_that_cannot_begin_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_model(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lcbench.apps.bench.shapes.random_model", no_model)
    gpu.main(["--dry-run", "--out", str(tmp_path), "--stages", "score 1M,decode 32k"])
    errors = [(row["stage"], row["error"]) for row in written(tmp_path) if "error" in row]
    assert errors == [(stage, "OutOfMemoryError: CUDA out of memory") for stage in ("score 1M", "decode 32k")]


def sleeps(stage: gpu.Stage, out: Path) -> None:
    time.sleep(60)


@pytest.mark.slow
def test_a_stage_ends_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "on_gpu", sleeps)
    monkeypatch.setattr(gpu, "STAGES", (gpu.Stage("endless", 20, (1,), ()), gpu.Stage("none left", 1, (1,), ())))
    gpu.main(["--out", str(tmp_path), "--minutes", "0.05"])
    assert [row["error"] for row in written(tmp_path) if "error" in row] == [
        "the time limit of 3 s",
        "the 0.05 minutes were over",
    ]


def test_stages_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", str(tmp_path), "--stages", "corect"])
    assert "no stage corect; there are correct, attention 32k" in capsys.readouterr().err
