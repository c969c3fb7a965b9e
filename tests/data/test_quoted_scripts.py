"""The data scripts of GraphWalks, MRCR, LongBench v2, BABILong and InfiniteBench on rows in their schemas."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.data import load_document, load_rows
from lcbench.data.raw import expand, read_rows
from lcbench.data.raw_file import RawFile
from tests.data.quoted import AA_LCR, BABILONG, CONVERSATION, GRAPH, JSON_KV, LONGBENCH_V2, MRCR, RAG, RERANK, infinite
from tests.data.sources import write_jsonl, write_parquet
from tests.data.test_scripts import prepare, refused, refused_update
from tests.helpers import cli


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
    for name in ("8k", "1M"):  # as on the hub
        (tmp_path / "hub" / "data" / "qa1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / "data" / "qa1" / f"{name}.json").write_text(json.dumps([BABILONG]))
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
    write_jsonl(folder / "math_calc.jsonl", [infinite(answer=[[4, 14, 4]])])
    prepare("infinitebench", folder)
    rows = {
        name: load_rows(f"infinitebench/{name}", "test")[0] for name in ("longbook_choice_eng", "code_run", "math_find")
    }
    assert rows["longbook_choice_eng"].references == ("Cleo", "C")
    assert rows["code_run"].references == ("-7",)
    assert rows["code_run"].meta == {"function": "func_12", "call": "func_12(-3)"}
    assert rows["math_find"].meta == {"asked": "the largest number"}
    assert load_rows("infinitebench/math_calc", "test")[0].references == ("4", "14", "4")  # a value twice
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
    with pytest.raises(UserError, match="not a readable tar archive"):
        expand(archive, "data.tar.gz")


def _three(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [row | {key: f"Q{number}"} for number in range(3)]


def helmet(tmp_path: Path) -> Path:
    data = tmp_path / "HELMET" / "data"
    write_jsonl(data / "json_kv" / "test_k105_dep6.jsonl", [JSON_KV])
    write_jsonl(data / "json_kv" / "test_k1800_dep6.jsonl", [JSON_KV | {"answer": ["2"]}])
    write_jsonl(data / "kilt" / "nq-dev-multikilt_1000_k50_dep6.jsonl", [RAG])
    write_jsonl(
        data / "kilt" / "nq-train-multikilt_1000_k3_dep6.jsonl",
        [RAG | {"id": f"t{n}", "question": f"Q{n}?"} for n in (0, 0, 1, 2)],
    )
    popular = [RAG | {"s_pop": views} for views in (999, 1000, 0)]
    write_jsonl(data / "kilt" / "popqa_test_1000_k50_dep6.jsonl", popular)
    write_jsonl(data / "kilt" / "popqa_test_1000_k3_dep6.jsonl", popular[:1])
    write_jsonl(data / "msmarco" / "test_reranking_data_k50_dep3.jsonl", [RERANK])
    write_jsonl(data / "msmarco" / "test_reranking_data_k10_dep3.jsonl", _three(RERANK, "qid"))
    return data


@pytest.mark.parametrize("packed", [False, True])
def test_helmet_from_its_archive_and_from_a_folder(tmp_path: Path, packed: bool) -> None:
    folder = helmet(tmp_path)
    if packed:
        with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as tar:
            tar.add(folder, "data")
        folder = tmp_path / "data.tar.gz"
    done = cli("data", "prepare", "helmet", "--from", folder)
    assert done.code == 0 and "helmet/triviaqa" in done.err  # of which the copy has no file
    few, many = load_rows("helmet/json_kv", "test")
    assert {few.meta["k"], many.meta["k"]} == {"105", "1800"} and few.references == ("2",)
    assert few.meta["demonstrations"] == "Key: a\nCorresponding value: 1\n\nKey: c\nCorresponding value: 3\n\n"
    (row,) = load_rows("helmet/nq", "validation")
    passages = "Document (Title: Mill): The mill stands in Dale.\n\nDocument (Title: Barn): The barn is red."
    assert load_document("helmet/nq", str(row.document_id)).text == passages and row.meta["k"] == "50"
    assert len(load_rows("helmet/nq", "train")) == 4 and load_rows("helmet/nq", "train")[0].meta["context"] == passages
    assert len(load_rows("helmet/popqa", "test")) == 2 and len(load_rows("helmet/popqa", "train")) == 1
    (query,) = load_rows("helmet/msmarco", "test")
    assert query.references == ("4 3", "9 0") and query.meta["ranking"] == "4 > 9"
    text = load_document("helmet/msmarco", str(query.document_id)).text
    assert (
        text.startswith("[ID: 4] Document (Title: Mill): The mill") and len(load_rows("helmet/msmarco", "train")) == 3
    )


def test_aa_lcr_joins_the_documents_of_a_question(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    with zipfile.ZipFile(folder / "AA-LCR_extracted-text.zip", "w") as archive:
        archive.writestr("lcr/Legal/set_1/café.txt".encode().decode("cp437"), "First.")
        archive.writestr("lcr/Legal/set_1/b.txt", "Second\r\nand\rlast.")
    header = ",".join(AA_LCR)
    (folder / "AA-LCR_Dataset.csv").write_text(f"{header}\n{','.join(map(str, AA_LCR.values()))}\n")
    prepare("aa_lcr", folder)
    (row,) = load_rows("aa_lcr/questions", "test")
    text = load_document("aa_lcr/questions", str(row.document_id)).text
    assert text == "BEGIN DOCUMENT 1:\nFirst.\nEND DOCUMENT 1\n\nBEGIN DOCUMENT 2:\nSecond\nand\nlast.\nEND DOCUMENT 2"
    assert (row.id, row.question, row.references) == ("7", "How many?", ("3",))
    missing = write_jsonl(tmp_path / "questions.jsonl", [AA_LCR | {"data_source_filenames": "c.txt"}])
    assert "have no Legal/set_1/c.txt" in refused_update("aa_lcr/questions", missing)


NEEDLES = [
    {
        "id": "9001",
        "system_prompt": "",
        "needle": "{CHAR} keeps a flat beside the {1}.",
        "questions": {"onehop": "Who has seen {2}?", "direct": "Who lives by the {1}?"},
        "tests": {"T1": {"input_args": ["old tower", "Dale"]}, "T2": {"input_args": ["mill", "Hill"]}},
        "character_set": ["Ada", "Bo"],
    },
    {
        "id": "9002",
        "needle": "{CHAR} cannot eat {1}.",
        "questions": {"onehop": "Who avoids {2}?"},
        "character_set": [],
        "tests": {"T1": {"input_args": ["bread", "grain"], "gold_answers": ["Ada"]}},
    },
]


def test_nolima_says_its_licence(tmp_path: Path) -> None:
    folder = tmp_path / "NoLiMa"
    (folder / "haystack" / "rand_shuffle").mkdir(parents=True)
    (folder / "haystack" / "rand_shuffle" / "rand_book_1.txt").write_text("It rained.\nThe tide was low.\n")
    (folder / "needlesets").mkdir()
    (folder / "needlesets" / "needle_set.json").write_text(json.dumps(NEEDLES))
    done = cli("data", "prepare", "nolima", "--from", folder)
    assert done.code == 0 and "Adobe Research License" in done.out and "commercial use forbidden" in done.out
    rows = load_rows("nolima/needles", "test")
    assert [row.id for row in rows] == [
        "9001-onehop-T1",
        "9001-onehop-T2",
        "9001-direct-T1",
        "9001-direct-T2",
        "9002-onehop-T1",
    ]
    assert (
        rows[0].question == "Who has seen Dale?"
        and rows[0].meta["needle"] == "{CHAR} keeps a flat beside the old tower."
    )
    assert rows[0].references == () and rows[4].references == ("Ada",) and rows[0].meta["kind"] == "onehop"
    (book,) = load_rows("nolima/books", "test")
    assert load_document("nolima/books", str(book.document_id)).text.startswith("It rained.")
