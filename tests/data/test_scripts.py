"""Each data script on small rows in its source's schema, through the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcbench.data import load_document, load_rows
from lcbench.data.schema import SPLITS
from lcbench.data.scripts import data_sets, script_files
from tests.data.sources import BOOK, scrolls_row, write_jsonl, write_parquet, write_zip
from tests.helpers import REPOSITORY, cli


def prepare(name: str, path: Path) -> None:
    done = cli("data", "prepare", name, "--from", path)
    assert done.code == 0, done.err


def refused(name: str, path: Path) -> str:
    done = cli("data", "prepare", name, "--from", path)
    assert done.code == 2
    return done.error


def refused_update(name: str, path: Path) -> str:
    done = cli("data", "prepare", name, "--update", "--from", path)
    assert done.code == 2
    return done.error


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "jsonl.gz"])
def test_pg19(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "books" / f"test-00000-of-00001.{suffix}"
    (write_parquet if suffix == "parquet" else write_jsonl)(path, [BOOK])
    prepare("pg19", path.parent)
    (row,) = load_rows("pg19", "test")
    assert row.question == "" and row.references == () and row.meta["publication_date"] == 1901
    book = load_document("pg19", "77")
    assert row.document_id == "77" and book.title == BOOK["short_book_title"] and book.text == BOOK["text"]


def test_pg19_without_its_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "books.jsonl", [BOOK, {"text": "only"}])
    error = refused("pg19", path)
    assert "books.jsonl, row 2, has no field `short_book_title`" in error and "publication_date, url, text" in error
    path = write_jsonl(tmp_path / "books.jsonl", [BOOK | {"publication_date": "1901"}])
    assert "has in its field `publication_date` no int" in refused("pg19", path)


def test_scrolls_query_and_document(tmp_path: Path) -> None:
    paper = "Title\n\nAbstract\n\nText."
    rows = [
        scrolls_row("q1", f"Which one?\n\n{paper}", "this"),
        scrolls_row("q2", f"How many?\n\n{paper}", "two"),
        scrolls_row("q1", f"Which one?\n\n{paper}", "that one"),
        scrolls_row("q1", f"Which one?\n\n{paper}", "this"),
    ]
    members = {f"qasper/{split}.jsonl": rows for split in ("validation", "test")}
    write_zip(tmp_path / "zips" / "qasper.zip", members | {"qasper/train.jsonl": rows[1:2]})
    prepare("scrolls/qasper", tmp_path / "zips")
    first, second = load_rows("scrolls/qasper", "validation")
    assert (first.id, first.question, first.references) == ("q1", "Which one?", ("this", "that one"))
    assert first.document_id == second.document_id and first.document_id is not None
    assert load_document("scrolls/qasper", first.document_id).text == paper
    assert [row.id for row in load_rows("scrolls/qasper", "train")] == ["q2"]
    done = cli("data", "prepare", "scrolls/qasper", "--from", tmp_path / "zips")
    assert "train 1, validation 2, documents 1" in done.out  # test has no labels, and is left out
    error = refused("scrolls/qmsum", write_jsonl(tmp_path / "qmsum.jsonl", [scrolls_row("q", "no query", "x")]))
    assert "qmsum.jsonl, row 1, has no blank line between query and document" in error


@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n"])
def test_scrolls_quality(tmp_path: Path, gap: str) -> None:
    question = "Why (D) at all?\n\n (A) One  thing\n (B) Two,\nlonger\n (C) Three, or (B)\n (D) Four "
    story = "THE STORY\n\nBy (D) Nobody\n\n (A) x"
    row = scrolls_row("s", question + gap + story, "One thing", is_hard=True)
    prepare("scrolls/quality", write_jsonl(tmp_path / "quality.jsonl", [row]))
    (loaded,) = load_rows("scrolls/quality", "validation")
    assert loaded.choices == ("One thing", "Two, longer", "Three, or (B)", "Four")
    assert loaded.references == ("One thing",) and loaded.question == question.rstrip()
    assert load_document("scrolls/quality", str(loaded.document_id)).text == story and loaded.meta["is_hard"] is True


@pytest.mark.parametrize("input", ["Why?\n\nno options\n\nstory", "Why?\n\n (A) 1\n (B) 2\n (D) 4\n\nstory", "(D)\n\n"])
def test_scrolls_quality_without_its_options(tmp_path: Path, input: str) -> None:
    error = refused("scrolls/quality", write_jsonl(tmp_path / "quality.jsonl", [scrolls_row("s", input, "x")]))
    assert "quality.jsonl, row 1, has no options (A) to (D)" in error


def test_scrolls_summaries_and_hypotheses(tmp_path: Path) -> None:
    folder = tmp_path / "scrolls"
    write_zip(folder / "gov_report.zip", {"gov_report/validation.jsonl": [scrolls_row("g", "A\n\nreport", "short")]})
    contract = scrolls_row("c", "It ends.\n\nContract\n\ntext", "Entailment")
    write_zip(folder / "contract_nli.zip", {"contract_nli/validation.jsonl": [contract]})
    done = cli("data", "prepare", "scrolls", "--from", folder)
    assert done.code == 0 and "has no file of scrolls/narrative_qa, scrolls/qasper" in done.err
    (report,) = load_rows("scrolls/gov_report", "validation")
    assert report.question == "" and load_document("scrolls/gov_report", str(report.document_id)).text == "A\n\nreport"
    (row,) = load_rows("scrolls/contract_nli", "validation")
    assert row.question == "It ends." and set(row.references) < set(row.choices) and len(row.choices) == 3


def leval_row(**changes: Any) -> dict[str, Any]:
    row = {
        "instructions": ["One?", "Two?"],
        "outputs": ["A", "B"],
        "input": "lecture",
        "source": "s",
        "evaluation": "e",
    }
    return row | changes


def test_leval(tmp_path: Path) -> None:
    folder = tmp_path / "LEval"
    write_jsonl(folder / "Exam" / "tpo.jsonl", [leval_row(), leval_row(instructions=["Three?"], outputs=["C"])])
    write_jsonl(folder / "Generation" / "narrative_qa.jsonl", [leval_row(input="book")])
    prepare("leval", folder)
    rows = load_rows("leval/tpo", "test")
    assert [(row.id, row.question, row.references) for row in rows] == [
        ("0-0", "One?", ("A",)),
        ("0-1", "Two?", ("B",)),
        ("1-0", "Three?", ("C",)),
    ]
    assert len({row.document_id for row in rows}) == 1 and rows[1].meta == {
        "source": "s",
        "evaluation": "e",
        "place": 1,
    }
    (book,) = {row.document_id for row in load_rows("leval/narrative_qa", "test")}
    assert load_document("leval/narrative_qa", str(book)).text == "book"
    uneven = write_jsonl(tmp_path / "coursera.jsonl", [leval_row(outputs=["A"])])
    assert "coursera.jsonl, row 1, has 2 instructions and 1 outputs" in refused("leval/coursera", uneven)
    foreign = write_jsonl(tmp_path / "sci_fi.jsonl", [leval_row(instructions="One?")])
    assert "has in its field `instructions` no list" in refused("leval/sci_fi", foreign)


def test_longbench_from_the_zip_of_all_tasks(tmp_path: Path) -> None:
    row = {"_id": "x", "input": "Who?", "context": "passages", "answers": ["a", "b"], "all_classes": None, "length": 9}
    kinds = row | {"_id": "y", "all_classes": ["Date", "Place"], "answers": ["Date"]}
    members = {"data/qasper.jsonl": [row], "data/qasper_e.jsonl": [row | {"_id": "e"}], "data/trec.jsonl": [kinds]}
    prepare("longbench", write_zip(tmp_path / "data.zip", members))
    (loaded,) = load_rows("longbench/qasper", "test")
    assert (loaded.id, loaded.question, loaded.references, loaded.choices) == ("x", "Who?", ("a", "b"), ())
    (loaded,) = load_rows("longbench/trec", "test")
    assert loaded.choices == ("Date", "Place")


def test_trec_as_its_makers_have_it(tmp_path: Path) -> None:
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec" / "train_5500.label").write_bytes(b"ENTY:animal What is a sister\xf0city of Caf\xe9 ?\n")
    (tmp_path / "trec" / "TREC.test.label").write_bytes(b"NUM:dist How far ?\nHUM:ind Who ?\n")
    prepare("trec", tmp_path / "trec")
    (row,) = load_rows("trec", "train")
    assert row.question == "What is a sister city of Café ?" and row.references == ("ENTY:animal",)
    assert [row.references[0] for row in load_rows("trec", "test")] == ["NUM:dist", "HUM:ind"]
    (tmp_path / "bad.label").write_bytes(b"NUM How far ?\n")
    assert "bad.label, line 1, is no `COARSE:fine question`" in refused_update("trec", tmp_path / "bad.label")


@pytest.mark.parametrize("fine", [["ABBR:exp", "NUM:dist"], ["exp", "dist"]])
def test_trec_as_the_hub_has_it(tmp_path: Path, fine: list[str]) -> None:
    classes = {"coarse_label": ["ABBR", "NUM"], "fine_label": fine}
    for split in ("train", "test"):
        rows = [{"text": f"How far, {split} ?", "coarse_label": 1, "fine_label": 1}]
        write_parquet(tmp_path / "hub" / "default" / split / "0000.parquet", rows, classes)
    prepare("trec", tmp_path / "hub")
    (row,) = load_rows("trec", "test")
    assert row.question == "How far, test ?" and row.references == ("NUM:dist",)
    for number in (-1, None):
        withheld = [{"text": "x", "coarse_label": 1, "fine_label": number}]
        error = refused_update("trec", write_parquet(tmp_path / "test.parquet", withheld, classes))
        assert "row 1, has in its field `fine_label` no str" in error
    nameless = write_parquet(tmp_path / "test.parquet", [{"text": "x", "coarse_label": 1, "fine_label": 1}])
    assert "has in its field `coarse_label` no str" in refused_update("trec", nameless)


def test_banking77_as_its_makers_have_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / f"{split}.csv").write_text('text,category\n"Where is my card, please?",card_arrival\n')
    prepare("banking77", tmp_path / "copy")
    (row,) = load_rows("banking77", "test")
    assert row.question == "Where is my card, please?" and row.references == ("card_arrival",)


def test_web_questions_in_both_forms(tmp_path: Path) -> None:
    row = {"url": "u", "question": "where is x?", "answers": ["X", "Xs"]}
    write_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", [row])
    prepare("web_questions", tmp_path / "hub")
    (loaded,) = load_rows("web_questions", "test")
    assert loaded.question == "where is x?" and loaded.references == ("X", "Xs") and loaded.document_id is None
    (tmp_path / "trainmodel.json").write_text('[{"qId": "wq7", "answers": ["Y"], "qText": "what is y?"}]')
    assert cli("data", "prepare", "web_questions", "--update", "--from", tmp_path / "trainmodel.json").code == 0
    (loaded,) = load_rows("web_questions", "train")
    assert (loaded.id, loaded.question, loaded.references) == ("wq7", "what is y?", ("Y",))


def test_gsm8k_takes_its_main_configuration(tmp_path: Path) -> None:
    for configuration in ("main", "socratic"):
        row = {"question": configuration, "answer": "2+2=<<2+2=4>>4\n#### 1,004 "}
        write_parquet(tmp_path / "gsm8k" / configuration / "test-00000-of-00001.parquet", [row])
    prepare("gsm8k", tmp_path / "gsm8k")
    (row,) = load_rows("gsm8k", "test")
    assert row.question == "main" and row.references == ("1,004",) and row.meta["solution"].startswith("2+2")
    bad = write_jsonl(tmp_path / "train.jsonl", [{"question": "q", "answer": "4"}])
    assert "has no number after ####" in refused_update("gsm8k", bad)


def test_humaneval(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n"}
    prepare("humaneval", write_jsonl(tmp_path / "HumanEval.jsonl.gz", [row | {"test": "def check(f): ..."}]))
    (loaded,) = load_rows("humaneval", "test")
    assert loaded.id == "HumanEval/0" and loaded.question == row["prompt"] and loaded.meta["entry_point"] == "f"
    assert loaded.references == ("    return 1\n",) and loaded.meta["test"] == "def check(f): ..."


def test_paul_graham_essays_are_a_haystack(tmp_path: Path, root: Path) -> None:
    from lcbench.data.texts import read_texts

    prepare("paul_graham_essays", write_parquet(tmp_path / "essays.parquet", [{"text": "One."}, {"text": "Two."}]))
    assert len(load_rows("paul_graham_essays", "train")) == 2
    assert list(read_texts(str(root / "paul_graham_essays" / "documents.jsonl"))) == ["One.", "Two."]


def test_squad(tmp_path: Path) -> None:
    row = {"id": "a", "title": "Rome", "context": "Rome is old.", "question": "What is old?"}
    rows = [row | {"answers": {"text": ["Rome", "Rome", "It"], "answer_start": [0, 0, 0]}}]
    rows += [row | {"id": "b", "answers": {"text": [], "answer_start": []}}]
    prepare("squad", write_parquet(tmp_path / "squad_v2" / "validation-00000-of-00001.parquet", rows).parents[1])
    first, unanswerable = load_rows("squad", "validation")
    assert first.references == ("Rome", "It") and unanswerable.references == ()
    assert load_document("squad", str(unanswerable.document_id)).text == "Rome is old."


def test_hotpotqa(tmp_path: Path) -> None:
    context = {"title": ["X", "Y"], "sentences": [["One.", " Two."], ["Three."]]}
    row = {"id": "h", "question": "Both?", "answer": "yes", "type": "comparison", "level": "hard", "context": context}
    row |= {"supporting_facts": {"title": ["X", "Y"], "sent_id": [0, 0]}}
    folder = tmp_path / "hotpot"
    write_parquet(folder / "distractor" / "validation-00000-of-00001.parquet", [row])
    write_parquet(folder / "fullwiki" / "validation-00000-of-00001.parquet", [row | {"id": "other"}])
    prepare("hotpotqa", folder)
    (loaded,) = load_rows("hotpotqa", "validation")
    assert loaded.id == "h" and loaded.references == ("yes",) and loaded.meta["supporting"] == ["X", "Y"]
    assert load_document("hotpotqa", str(loaded.document_id)).text == "X\nOne. Two.\n\nY\nThree."


def test_every_script_is_documented_and_named_as_its_data() -> None:
    table = (REPOSITORY / "data_scripts" / "README.md").read_text()
    for name in script_files():
        row = re.search(rf"^\| `{name}` \|.*\|$", table, re.M)
        assert row, name
        for data_set in data_sets(name):
            assert data_set.name == name or data_set.name.startswith(f"{name}/")
            assert f"`{data_set.hub.repo}`" in row[0]
            commit = re.fullmatch("[0-9a-f]{40}", data_set.hub.revision)
            pin = "commit and sha256" if data_set.hub.sha256 else "commit" if commit else "first use"
            assert row[0].endswith(f"| {pin} |"), name
            assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in data_set.hub.sha256.values())
            assert data_set.hub.choose(data_set.hub.sha256) == sorted(data_set.hub.sha256)


def test_a_script_runs_by_itself(tmp_path: Path, root: Path) -> None:
    path = write_jsonl(tmp_path / "books.jsonl", [BOOK])
    script = str(REPOSITORY / "data_scripts" / "pg19.py")
    done = subprocess.run([sys.executable, script, "--from", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "pg19: test 1, documents 1" in done.stdout
    assert (root / "pg19" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("trec_test/TREC.train.label", "train"),
        ("default/test/0000.parquet", "test"),
        ("qasper_dev.jsonl", "validation"),
        ("a.zip/x/valid.jsonl", "validation"),
        ("latest/questions.jsonl", "test"),
        ("training-notes.jsonl", "test"),
    ],
)
def test_the_split_of_a_file(name: str, split: str) -> None:
    (data_set,) = data_sets("pg19")
    assert replace(data_set, splits=SPLITS).split(name) == split
