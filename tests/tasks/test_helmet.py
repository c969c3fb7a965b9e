"""HELMET and LongProc as asked: prompts word by word, labels that mean something else in every prompt."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, Example, helmet_icl, load_task
from lcbench.tasks.questions import drawn, questions
from tests.data.sources import write_parquet
from tests.data.test_quoted_scripts import helmet
from tests.helpers import cli

KINDS = {"NUM": "How far is {}?", "HUM": "Who met {}?", "LOC": "Where is {}?"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


def text_of(example: Example) -> str:
    return str(ModelSource().tokenizer().decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def asked(name: str, seq_len: int = 9000, sample: int = 0) -> Example:
    return load_task(name).example(Cell(seq_len), sample, ModelSource().tokenizer(), 0)


def test_recall_rag_and_ranking(tmp_path: Path) -> None:
    assert cli("data", "prepare", "helmet", "--from", helmet(tmp_path)).code == 0
    assert text_of(asked("helmet/json_kv")) == (
        'JSON data:\n{"a": "1", "b": "2"}\n\nExtract the value corresponding to the specified key in the JSON object '
        "below.\n\nKey: a\nCorresponding value: 1\n\nKey: c\nCorresponding value: 3\n\nKey: b\nCorresponding value:"
    )
    assert asked("helmet/json_kv:only=[k=1800]").references == ("2",)
    rag, passages = text_of(asked("helmet/nq")), "Document (Title: Mill): The mill stands in Dale."
    assert rag.startswith(
        "Use the given documents to write a concise and short answer to the question. Write your answer"
    )
    assert rag.count(passages) == 3 and len(re.findall(r"Question: Q\d\?\nAnswer: Dale\n\n", rag)) == 2
    assert rag.endswith("\n\nQuestion: Where is the mill?\nAnswer:")
    example = asked("helmet/msmarco")
    ranking = text_of(example)
    assert ranking.count("Ranking: 4 > 9\n\n") == 2 and ranking.endswith("\n\nQuery: mill location\nRanking:")
    assert load_task("helmet/msmarco").score(example, " 4 > 9")["score"] == 100.0


def test_rows_are_those_that_helmet_draws(tmp_path: Path) -> None:
    """Its shuffle; or all rows of 100 questions by its seed, and demonstrations of other questions, each one once."""
    rows = [{"question": f"Q{n // 3}", "references": ["x"], "key": n // 3} for n in range(360)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    every = questions("rows.jsonl", "test", {})
    chosen = random.Random(42).sample(range(120), 100)
    taken = drawn(every, "rows", "questions")
    assert [taken.number(n) for n in range(len(taken))] == [n for n in range(360) if n // 3 in chosen]
    shuffled = drawn(every, "rows", "rows")
    assert [shuffled.number(n) for n in range(360)] == Dataset.from_dict({"n": [*range(360)]}).shuffle(seed=42)["n"][:]
    task = "family: document\ndata: rows.jsonl\nscorer: f1\nshots: 99\nshots_split: test\nprompt: '{{ question }}'\n"
    Path("own.yaml").write_text(task + "draw: questions\n")
    example = load_task("own.yaml").example(Cell(9000), 4, ModelSource().tokenizer(), 0)
    asked_about = [int(id) // 3 for id in (example.details["row"], *example.details["shots"])]
    assert len(set(asked_about)) == 100
    Path("bare.jsonl").write_text('{"question": "Q"}\n')
    with pytest.raises(UserError, match="has no column `key`"):
        drawn(questions("bare.jsonl", "test", {}), "bare", "questions")


def trec() -> None:
    Path("trec").mkdir()
    for split, count in (("train", 12), ("test", 4)):
        rows = [
            {"text": text.format(f"{split}{n}"), "coarse_label": kind, "fine_label": f"{kind}:x"}
            for n in range(count)
            for kind, text in KINDS.items()
        ]
        Path(f"trec/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli("data", "prepare", "trec", "--from", "trec").code == 0


@pytest.mark.parametrize("name", ["helmet/icl_trec_coarse", "helmet/icl_trec_fine"])
def test_numbers_mean_something_else_in_every_prompt(name: str) -> None:
    trec()
    meanings = set()
    for sample in range(8):
        example = asked(name, 500, sample)
        assert len(example.prompt) + 20 <= 500
        text = text_of(example)
        shots = re.findall(r"\n\n(How|Who|Where) [^\n]*\nlabel: (\d)(?=\n)", text)
        mapping = dict(shots)
        assert len(shots) == example.details["demonstrations"] and len(set(shots)) == len(mapping) == 3
        assert {tuple(sorted(kind for kind, _ in shots[n : n + 3])) for n in range(0, len(shots) - 2, 3)} == {
            ("How", "Where", "Who")
        }
        question = re.search(r"\n\n(How|Who|Where) [^\n]*test[^\n]*\nlabel:$", text)
        assert question and example.references == (mapping[question[1]],)
        assert load_task(name).score(example, f" {example.references[0]}\n")["score"] == 100.0
        # The prompt has begun the answer: what stands behind a second cue is not it.
        assert load_task(name).score(example, f" 9 label: {example.references[0]}")["score"] == 0.0
        meanings.add(tuple(sorted(mapping.items())))
        longer = asked(name, 700, sample)
        assert longer.context[: len(example.context)] == example.context
    assert len(meanings) > 1


SETS = {"banking77": "label", "clinc150": "intent", "nlu": "label"}


@pytest.mark.parametrize("data", SETS)
def test_other_sets_as_the_hub_has_them(data: str, tmp_path: Path) -> None:
    """By the names of their classes; of data with one split, a tenth is asked about and never shown."""
    splits = {"banking77": ("train", "test"), "clinc150": ("train", "validation", "test"), "nlu": ("train",)}[data]
    kinds = list(KINDS)
    for split in splits:
        rows = [
            {"text": KINDS[kind].format(f"{split}{n}"), SETS[data]: kinds.index(kind)}
            for n in range(10)
            for kind in kinds
        ]
        write_parquet(tmp_path / "hub" / "default" / split / "0000.parquet", rows, {SETS[data]: kinds})
    assert cli("data", "prepare", data, "--from", tmp_path / "hub").code == 0
    task = load_task(f"helmet/icl_{data}")
    assert task.available(ModelSource().tokenizer()) == (3 if data == "nlu" else 30)
    asked_about = splits[1] if len(splits) > 1 else "train"
    for sample in range(3):
        text = text_of(asked(f"helmet/icl_{data}", 900, sample))
        question = re.search(rf"\n\n([^\n]*{asked_about}\d+\?)\nlabel:$", text)
        assert question and text.count(question[1]) == 1 and text.count("train") >= 27
    if data == "nlu":
        with pytest.raises(UserError, match="held_out divides a single split"):
            load_task("helmet/icl_nlu:split=test")
        with pytest.raises(UserError, match="held_out must be a share"):
            load_task("helmet/icl_nlu:held_out=1")


def test_rows_that_are_held_out_are_those_of_datasets() -> None:
    """Of 23 rows, train_test_split(test_size=0.1, seed=42) takes ceil(2.3), the first of numpy's permutation."""
    Path("trec.jsonl").write_text(
        "".join(json.dumps({"question": str(n), "references": ["x"]}) + "\n" for n in range(23))
    )
    rows = questions("trec.jsonl", "train", {})
    held, others = helmet_icl._parted(rows, 0.1)
    expected = Dataset.from_dict({"n": list(range(23))}).train_test_split(test_size=0.1, seed=42)
    for found, split in ((held, "test"), (others, "train")):
        assert [int(found.row(n).question) for n in range(len(found))] == expected[split]["n"]


def test_labels_that_are_missing() -> None:
    trec()
    with pytest.raises(UserError, match="unknown column of trec as label: 'kind'"):
        load_task("helmet/icl_trec_coarse:label=kind").require_data()
    with pytest.raises(UserError, match="with a demonstration"):
        asked("helmet/icl_trec_coarse", 100)


def test_longproc_path_traversal() -> None:
    row: dict[str, Any] = {
        "context_nl": "You can travel from A to B by bus.\nYou can travel from B to C by train.",
        "question_repr": ["A", "C"],
        "answer_nl": "From A, take a bus to B.\nFrom B, take a train to C.",
    }
    Path("path_traversal_0.5k.json").write_text(json.dumps([row]))
    example = asked("longproc/path_traversal")
    text = text_of(example)
    assert f"[PROBLEM]\n{row['context_nl']}\n\nNow find the route from A to C based on the information above." in text
    task = load_task("longproc/path_traversal")
    assert task.score(example, f"<Route>\n{row['answer_nl']}\n</Route>")["score"] == 100.0
    assert task.score(example, "<Route>From A, take a bus to B.</Route>")["partial_corrected"] == 50.0
