"""Runs in experiment trackers: by stand-ins with the interfaces of wandb, MLflow and trackio, and by MLflow itself if
it is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.results.trackers import track, tracked
from tests.helpers import REPOSITORY, cli
from tests.recorded import record, write

SMOKE = REPOSITORY / "results" / "baselines" / "smoke"
Calls = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def install(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))  # type: ignore[arg-type]


def test_what_a_tracker_gets() -> None:
    methods = list(tracked(SMOKE))
    assert len({one.id for one in methods}) == len({one.name for one in methods}) == len(methods) > 1
    assert [one.id for one in tracked(SMOKE)] == [one.id for one in methods]
    for one in methods:
        assert one.name.startswith("smoke/") and one.config["model"] == "lcbench-tiny" and one.config["method"]
        assert list(one.steps) == sorted(one.steps)
        numbers = next(iter(one.steps.values()))
        assert numbers["passkey/samples"] >= 1 and 0 <= numbers["passkey/exact_match"] <= 1
        assert (
            numbers["passkey/exact_match_low"] <= numbers["passkey/exact_match"] <= numbers["passkey/exact_match_high"]
        )
        assert all(isinstance(value, float) for value in numbers.values())
        assert {path.name for path in one.files} == {"run.json", "records.jsonl"}


def test_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    run = SimpleNamespace(
        log=lambda numbers, step: calls.append(("log", step, numbers)),
        log_artifact=lambda artifact: calls.append(("artifact", artifact.files)),
        finish=lambda: calls.append(("finish",)),
    )

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.files: list[str] = []

        def add_file(self, path: str) -> None:
            self.files.append(Path(path).name)

    install("wandb", monkeypatch, init=lambda **how: calls.append(("init", how)) or run, Artifact=Artifact)
    done = cli("export", SMOKE, "--to", "wandb", "--project", "mine")
    (first, *_) = tracked(SMOKE)
    assert done.code == 0 and f"wandb: {first.name}" in done.out
    assert calls[0][1] | {"config": 0} == {
        "project": "mine", "name": first.name, "id": first.id, "config": 0, "resume": "allow",
        "reinit": "finish_previous",
    }  # fmt: skip
    steps = list(first.steps.items())
    assert [call[1:] for call in calls[1 : len(steps) + 1]] == steps
    assert calls[len(steps) + 1 : len(steps) + 3] == [("artifact", ["run.json", "records.jsonl"]), ("finish",)]


def test_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []

    @contextlib.contextmanager
    def start_run(run_name: str, tags: dict[str, str]) -> Iterator[None]:
        calls.append(("run", run_name))
        yield

    install(
        "mlflow",
        monkeypatch,
        set_experiment=lambda name: calls.append(("experiment", name)),
        start_run=start_run,
        log_params=lambda values: calls.append(("params", values)),
        log_metrics=lambda values, step: calls.append(("metrics", step, values)),
        log_artifact=lambda path, folder: calls.append(("file", Path(path).name)),
    )
    names = track(SMOKE, "mlflow", "lcbench")
    (first, *_) = tracked(SMOKE)
    assert calls[0] == ("experiment", "lcbench") and calls[1] == ("run", names[0])
    assert calls[2][1]["model"] == "lcbench-tiny" and all(type(value) is str for value in calls[2][1].values())
    assert [call[1:] for call in calls if call[0] == "metrics"][: len(first.steps)] == list(first.steps.items())
    assert ("file", "records.jsonl") in calls


def test_trackio(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    install(
        "trackio",
        monkeypatch,
        init=lambda **how: calls.append(("init", how["project"], how["name"])),
        log=lambda numbers, step: calls.append((step, numbers)),
        finish=lambda: calls.append(("finish",)),
    )
    track(SMOKE, "trackio", "p")
    (first, *_) = tracked(SMOKE)
    expected = [("init", "p", f"{first.name}-{first.id}"), *first.steps.items(), ("finish",)]
    assert calls[: len(expected)] == expected


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'lcbench[wandb]'" in cli("export", SMOKE, "--to", "wandb").error
    assert "did you mean 'mlflow'" in cli("export", SMOKE, "--to", "mlfow").error
    assert "pass only one of them" in cli("export", SMOKE, "--to", "wandb", "--out", "x").error
    assert "--project names a project of a tracker" in cli("export", SMOKE, "--project", "x").error

    def full(**_: Any) -> None:
        raise RuntimeError("No key.\nRun wandb login")

    install("wandb", monkeypatch, init=full)
    refused = cli("export", SMOKE, "--to", "wandb")
    assert refused.code == 2 and "wandb refused smoke/" in refused.error and "Run wandb login" in refused.error
    Path("empty").mkdir()
    assert cli("export", "empty", "--to", "wandb").code == 2


def test_a_cell_without_a_score_has_no_number_for_it() -> None:
    write(Path("failed"), record(0, "out of memory"))
    (one,) = tracked(Path("failed"))
    (numbers,) = one.steps.values()
    assert numbers == {"passkey/samples": 0.0, "passkey/failed": 1.0}


def test_mlflow_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(Path("mlruns").resolve().as_uri())
    names = track(SMOKE, "mlflow", "lcbench")
    found = mlflow.search_runs(experiment_names=["lcbench"])
    assert sorted(found["tags.mlflow.runName"]) == sorted(names)


def test_an_unknown_tracker_imports_nothing() -> None:
    with pytest.raises(UserError, match="unknown --to 'os'"):
        track(SMOKE, "os", "p")
