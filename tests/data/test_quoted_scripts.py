"""The data scripts of GraphWalks, MRCR, LongBench v2, BABILong and InfiniteBench on rows in their schemas."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.data import load_document, load_rows
from lcbench.data.raw import RawFile, expand, read_rows
from tests.data.quoted import BABILONG, CONVERSATION, GRAPH, LONGBENCH_V2, MRCR, infinite
from tests.data.sources import write_jsonl, write_parquet
from tests.data.test_scripts import prepare, refused, refused_update


def test_graphwalks(tmp_path: Path) -> None:
    write_parquet(tmp_path / "hub" / "graphwalks_128k_and_shorter.parquet", [GRAPH, GRAPH | {"answer_nodes": []}])
    write_parquet(tmp_path / "hub" / "graphwalks_256k_to_1mil.parquet", [GRAPH | {"problem_type": "bfs"}])
    prepare("graphwalks", tmp_path / "hub")
    short, empty, long = load_rows("graphwalks", "test")
    assert short.references == ("ab",) and empty.references == () and short.question == ""
    assert [row.meta["part"] for row in (short, long)] == ["up to 128k", "256k to 1M"]
    assert (
        load_document("graphwalks", str(short.document_id)).text == GRAPH["prompt"]
        and long.meta["problem_type"] == "bfs"
    )


def test_mrcr(tmp_path: Path) -> None:
    for needles in (2, 8):
        row = MRCR | {"n_needles": needles}
        write_parquet(tmp_path / "hub" / f"{needles}needle" / f"{needles}needle_0.parquet", [row])
    prepare("mrcr", tmp_path / "hub")
    two, eight = load_rows("mrcr", "test")
    assert (two.id, eight.id, eight.meta["n_needles"]) == ("2-0", "8-1", 8)
    assert two.references == (MRCR["answer"], "aB3dE6gH9j") and two.question.startswith("Prepend aB3dE6gH9j")
    assert json.loads(load_document("mrcr", str(two.document_id)).text) == CONVERSATION
    broken = write_jsonl(tmp_path / "other.jsonl", [MRCR | {"prompt": '["x"]'}])
    assert "no list of messages" in refused_update("mrcr", broken)


def test_longbench_v2(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([LONGBENCH_V2]))
    prepare("longbench_v2", tmp_path / "data.json")
    (row,) = load_rows("longbench_v2", "test")
    assert (row.question, row.references, row.choices) == ("Which gate?", ("B",), ("North", "South", "East", "West"))
    assert row.meta["difficulty"] == "hard" and row.meta["length"] == "short"
    assert load_document("longbench_v2", str(row.document_id)).text == "The south gate was open."


def test_babilong_knows_the_length_from_the_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "hub" / "data" / "qa1" / "8k-00000-of-00001.parquet", [BABILONG])
    write_parquet(tmp_path / "hub" / "data" / "qa1" / "1M-00000-of-00001.parquet", [BABILONG])
    write_parquet(tmp_path / "hub" / "64k" / "qa5-00000-of-00001.parquet", [BABILONG | {"target": "Mary"}])
    prepare("babilong", tmp_path / "hub")
    assert sorted(row.meta["length"] for row in load_rows("babilong/qa1", "test")) == ["1M", "8k"]
    (row,) = load_rows("babilong/qa5", "test")
    assert row.references == ("Mary", "Where is Mary?") and row.meta == {"length": "64k"}


def test_infinitebench(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    write_jsonl(
        folder / "longbook_choice_eng.jsonl", [infinite(answer=["Cleo"], options=["Bert", "Anna", "Cleo", "Dan"])]
    )
    write_jsonl(folder / "code_run.jsonl", [infinite(input="Value of func_12(-3)?", answer=[-7])])
    write_jsonl(folder / "math_find.jsonl", [infinite(input="The largest number of the list is: ", answer=94)])
    write_jsonl(folder / "math_calc.jsonl", [infinite(answer=[[4, 14]])])
    prepare("infinitebench", folder)
    rows = {
        name: load_rows(f"infinitebench/{name}", "test")[0] for name in ("longbook_choice_eng", "code_run", "math_find")
    }
    assert rows["longbook_choice_eng"].references == ("Cleo", "C")
    assert rows["code_run"].references == ("-7",)
    assert rows["code_run"].meta == {"function": "func_12", "call": "func_12(-3)"}
    assert rows["math_find"].meta == {"asked": "the largest number"}
    assert load_rows("infinitebench/math_calc", "test")[0].references == ("4", "14")
    wrong = write_jsonl(tmp_path / "code_debug.jsonl", [infinite(answer=["x"], options=["a", "b", "c", "d"])])
    assert "an answer that is none of its options: 'x'" in refused("infinitebench/code_debug", wrong)


def test_members_of_a_tar_archive(tmp_path: Path) -> None:
    member = write_jsonl(tmp_path / "x.jsonl", [GRAPH])
    archive = tmp_path / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(member, "./data/kv/x.jsonl")
        tar.add(member, "data/kv/notes.md")
    (file,) = expand(archive, "data.tar.gz")
    assert file.name == "data.tar.gz/data/kv/x.jsonl" and list(read_rows(file)) == [GRAPH]
    with pytest.raises(UserError, match="cannot read"):
        list(read_rows(RawFile(archive, "data.tar.gz/y.jsonl", "y.jsonl", tar=True)))
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match="no tar archive that can be read"):
        expand(archive, "data.tar.gz")
