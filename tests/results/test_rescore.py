"""Scores worked out again: what changed is written and told, all of it or nothing, and the rest stays to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.results.records import MANIFEST, RECORDS, read_manifest
from lcbench.results.rescore import BEFORE, rescore
from lcbench.tasks import Example, task_files
from lcbench.tasks.passkey import Passkey
from tests.compared import failed, record, save
from tests.helpers import cli, fields_of, lines_of


def answered(sample: int, score: float, prediction: str, **fields: Any) -> dict[str, Any]:
    return {**record(sample, score, prediction=prediction, note="déjà vu", **fields), "depth": 0.5}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records = [answered(0, 1.0, " 12345"), answered(1, 0.0, "The key is 12345"), answered(2, 0.0, "999"), failed(3)]
    return save(tmp_path / "run", records)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric of tomorrow: the answer may stand anywhere."""

    def score(self: Passkey, example: Example, prediction: str) -> dict[str, float]:
        return {"exact_match": float(any(reference in prediction for reference in example.references))}

    monkeypatch.setattr(Passkey, "score", score)


def test_the_same_metric_changes_nothing(run: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (run / RECORDS, run / MANIFEST)}
    shown = cli("rescore", run)
    assert (shown.code, shown.out, shown.err) == (0, "0 of 3 scores changed\n", "")
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (run / RECORDS, run / MANIFEST)
    } == before


@pytest.mark.usefixtures("lenient")
def test_another_metric_changes_what_it_must_and_keeps_the_old_score(run: Path) -> None:
    before = (run / RECORDS).read_bytes().split(b"\n")
    old = fields_of(run)[1]
    shown = cli("rescore", run)
    assert shown.out == f"{old['id']}: 0 -> 1\n1 of 3 scores changed\n"
    after = (run / RECORDS).read_bytes().split(b"\n")
    assert [after[k] == before[k] for k in range(5)] == [True, False, True, True, True]
    kept = [{"scores": {"exact_match": 0.0}, "metric": "exact_match"}]
    assert fields_of(run)[1] == {**old, "scores": {"exact_match": 1.0}, BEFORE: kept}
    assert cli("rescore", run).out == "0 of 3 scores changed\n"
    assert len(read_manifest(run).content["sessions"]) == 1 and not list(run.glob("*.tmp"))


def test_scores_that_change_twice_are_both_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0.25, 0.75):
        monkeypatch.setattr(Passkey, "score", lambda *_, value=value: {"exact_match": value})
        assert len(rescore(run).changed) == 3
    assert [old["scores"]["exact_match"] for old in fields_of(run)[0][BEFORE]] == [1.0, 0.25]


@pytest.mark.usefixtures("lenient")
def test_of_a_repeated_sample_the_record_that_counts_is_scored(tmp_path: Path) -> None:
    run = save(tmp_path / "run", [failed(0), answered(1, 0.0, "so: 12345"), answered(0, 0.0, "well, 12345")])
    assert len(rescore(run).changed) == 2
    assert [line["error"] for line in lines_of(run)] == ["out of memory", None, None]
    assert [each["scores"]["exact_match"] for each in fields_of(run)] == [1.0, 1.0]


@pytest.mark.usefixtures("lenient")
def test_a_torn_last_line_is_dropped_and_a_full_disk_changes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (run / RECORDS).open("ab") as file:
        file.write(b'{"id": "torn')
    whole = (run / RECORDS).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="No space left on device; the old scores are intact"):
            rescore(run)
    assert (run / RECORDS).read_bytes() == whole and not list(run.glob("*.tmp"))
    assert len(rescore(run).changed) == 1 and len(lines_of(run)) == 4


def test_while_a_run_is_written_it_is_left_alone(run: Path) -> None:
    from lcbench.results.records import RunWriter

    with RunWriter(run, read_manifest(run).content["identity"], {}):
        shown = cli("rescore", run)
    assert shown.code == 2 and "another lcbench is writing" in shown.error


def test_tasks_with_options_and_of_ones_own(tmp_path: Path) -> None:
    records = [
        answered(0, 0.0, "12345", task="passkey:protocol=longlm"),
        answered(0, 0.0, "12345", task="mine"),
        answered(0, 0.0, "12345", task="mine:protocol=longlm"),
    ]
    run = save(tmp_path / "run", records)
    shown = cli("rescore", run)
    assert shown.code == 2 and "cannot score task mine: unknown task" in shown.error and "--task FILE" in shown.error
    assert json.loads((run / RECORDS).read_text().splitlines()[0])["scores"] == {"exact_match": 0.0}  # all or nothing
    (tmp_path / "mine.yaml").write_text(task_files()["passkey"].read_text())
    assert cli("rescore", run, "--task", tmp_path / "mine.yaml").out.endswith("3 of 3 scores changed\n")


def test_runs_that_are_none(tmp_path: Path) -> None:
    assert "is not a run" in cli("rescore", tmp_path).error
    run = save(tmp_path / "run", [answered(0, 1.0, "x")])
    lines = lines_of(run)
    del lines[0]["references"]
    (run / RECORDS).write_text(json.dumps(lines[0]) + "\n")
    assert "line 1: field `references` is missing" in cli("rescore", run).error
    refused = cli("rescore", save(tmp_path / "empty", []))
    assert (refused.code, refused.out, refused.error) == (2, "", f"error: {tmp_path}/empty has no records yet.")


def test_a_run_that_may_not_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lcbench.results.rescore.locked", denied)
    assert cli("rescore", run).error.endswith("run: Permission denied; rescore a copy of the folder.")
