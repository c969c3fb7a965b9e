"""A run as a DataFrame and as Parquet: every record a row, every field a documented column, types that hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lcbench
from lcbench.results.export import ORDER, load_run
from tests.compared import cell, failed, save
from tests.helpers import REPOSITORY, cli, fields_of

FULL: dict[str, Any] = {"model": "m", "method_options": {"a": 1}, "depth": 0.25, "prediction": "12345"}


def fields(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**record, **FULL} if record["error"] is None else record for record in records]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", fields([*cell([1.0, 0.0, 0.5]), failed(3, "boom")]))


def test_a_row_a_sample(run: Path) -> None:
    frame = lcbench.load_run(run)
    assert list(frame["id"]) == [record["id"] for record in fields_of(run)]
    assert list(frame["run"].unique()) == ["run"]
    assert list(frame["scores.exact_match"][:3]) == [1.0, 0.0, 0.5]
    assert frame["scores.exact_match"].mean() == 0.5  # what failed is left out, not zero
    assert frame["references"][0] == ["12345"] and frame["method_options"][0] == '{"a": 1}'
    assert list(frame["error"].notna()) == [False, False, False, True] and frame["error"][3] == "boom"
    assert frame["cost.peak_memory_bytes"][0] == 300 * 2**20
    assert frame["prediction"].isna()[3] and frame["output_tokens"].isna()[3]


def test_columns_are_in_their_order_and_documented(run: Path) -> None:
    columns = [re.sub(r"^scores\..*", "scores.", name) for name in load_run(run).columns]
    assert columns == [*ORDER, "session"]
    documented = set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "records.md").read_text(), re.M))
    assert {name.rpartition(".")[2] for name in columns} - {"", "run"} <= documented


def test_types_hold_even_where_nothing_was_answered(tmp_path: Path) -> None:
    types = {name: str(kind) for name, kind in load_run(save(tmp_path / "run", [failed(0)])).dtypes.items()}
    assert types["prediction"] == types["error"] == "string"
    assert types["output_tokens"] == types["seq_len"] == types["cost.peak_memory_bytes"] == "Int64"
    assert types["cell_depth"] == types["cost.prefill_seconds"] == "float64"
    assert "scores.exact_match" not in types


def test_what_a_task_adds_is_kept_flat(tmp_path: Path) -> None:
    more = {"details": {"needle": "x", "places": [1, 2], "deep": {"a": [{}]}}, "flag": True}
    frame = load_run(save(tmp_path / "run", fields([{**cell([1.0])[0], **more}])))
    assert list(frame.columns[-5:]) == ["details.needle", "details.places", "details.deep", "session", "flag"]
    assert frame["details.places"][0] == [1, 2] and frame["details.deep"][0] == '{"a": [{}]}' and frame["flag"][0]


def test_parquet_reads_back(run: Path, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    made = cli("export", run)
    assert made.code == 0 and made.out == f"4 rows: {run / 'records.parquet'}\n"
    read, frame = pd.read_parquet(run / "records.parquet"), load_run(run)
    assert [list(each) for each in read["references"]] == list(frame["references"])
    scalars = frame.columns.drop("references")
    pd.testing.assert_frame_equal(read[scalars], frame[scalars], check_dtype=False)
    schema = pq.read_schema(run / "records.parquet")
    assert str(schema.field("references").type) in ("list<element: string>", "list<item: string>")
    assert cli("export", run, "--out", tmp_path / "x.parquet").code == 0
    assert (tmp_path / "x.parquet").read_bytes()[:4] == b"PAR1"
    assert len(fields_of(run)) == 4 and len(list(run.glob("*.tmp"))) == 0


def test_a_run_with_an_export_goes_on(run: Path) -> None:
    cli("export", run)
    save(run, fields([failed(3, "again")]))
    assert load_run(run)["error"][3] == "again"


def test_runs_that_are_none(tmp_path: Path) -> None:
    assert "is not a run" in cli("export", tmp_path).error
    run = save(tmp_path / "run", fields(cell([1.0])))
    shown = cli("export", run, "--out", "/dev/null/x.parquet")
    assert shown.code == 2 and "cannot write /dev/null/x.parquet: there is no folder /dev/null" in shown.error
    shown = cli("export", run / "records.jsonl")
    assert shown.error == f"error: {run}/records.jsonl is a file; name the folder of a run."
    shown = cli("export", save(tmp_path / "empty", []))
    assert shown.code == 2 and shown.error.endswith("empty has no records yet.")
    assert not (tmp_path / "empty" / "records.parquet").exists()


def test_a_place_that_cannot_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "records.parquet").mkdir()
    shown = cli("export", run)
    assert shown.error == f"error: {run}/records.parquet is a folder, not a file; pass another --out."

    def full(*_: Any, **__: Any) -> None:
        (run / "x.tmp").write_bytes(b"PAR1 torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pandas.DataFrame.to_parquet", full)
    shown = cli("export", run, "--out", run / "x")
    assert shown.error == f"error: cannot write {run}/x: No space left on device; pass another --out."
    assert not list(run.glob("x*"))
