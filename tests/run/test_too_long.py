"""Documents that do not fit: cut, left out of the run, or failed by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcbench.core.errors import LeftOutError, TooLongError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from tests.helpers import cli, fields_of

YAML = """
family: document
data: rows.jsonl
columns: {document: text, question: ask, references: gold}
prompt: "{{ document }}\\n\\nQuestion: {{ question }}\\nAnswer:"
scorer: f1
max_new_tokens: 4
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = ["It was late. " * 90, "The sky is blue.", "It was late. " * 80, "The sky is black."]
    rows = [{"text": text, "ask": "What?", "gold": "late"} for text in texts]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(YAML)


def run(how: str, *more: str) -> tuple[int, str]:
    done = cli("run", "./mine.yaml", "--too-long", how, "--seq-len", "128", "--output", how, *more)
    return done.code, done.out + done.err


def test_cut_is_the_default() -> None:
    assert run("cut")[0] == 0
    assert [record["details"]["cut_tokens"] > 0 for record in fields_of(Path("cut"))] == [True, False, True, False]


def test_rows_that_are_left_out_are_counted_and_named_and_are_no_failure() -> None:
    code, said = run("skip")
    assert code == 0 and "failed" not in said
    assert "mine:too_long=skip at 128: 2 of 4 rows do not fit completely and were left out: samples 0, 2." in " ".join(
        said.split()
    )
    skipped = [record for record in fields_of(Path("skip")) if record.get("skipped")]
    assert [record["sample"] for record in skipped] == [0, 2] and "does not cut documents" in skipped[0]["error"]
    again, said = run("skip")
    assert again == 0 and len(Path("skip/records.jsonl").read_text().splitlines()) == 4  # nothing is tried again
    page = cli("report", "skip", "--out", "page.html")
    assert page.code == 0 and "rows do not fit completely" in Path("page.html").read_text()


def test_a_length_at_which_no_row_fits() -> None:
    done = cli("run", "./mine.yaml", "--too-long", "skip", "--seq-len", "128", "--samples", "1", "--output", "none")
    assert done.code == 0 and "left out" in done.out


def test_rows_that_fail_are_named() -> None:
    code, said = run("fail")
    assert code == 1 and "row 1 of rows.jsonl (validation) has" in " ".join(said.split())


def test_what_cannot_be_asked_for() -> None:
    assert "too_long must be cut or skip or fail, not 'drop'" in run("drop")[1]
    done = cli("run", "passkey", "--too-long", "skip")
    assert done.code == 2 and "passkey takes no --too-long; tasks that take one: " in done.error


def test_kinds_of_error() -> None:
    tokenizer = ModelSource().tokenizer()
    for options, kind in (
        ("too_long=skip", LeftOutError),
        ("too_long=fail", TooLongError),
        ("truncate=never", LeftOutError),
    ):
        with pytest.raises(TooLongError) as caught:
            load_task(f"./mine.yaml:{options}").example(Cell(128), 0, tokenizer, 0)
        assert type(caught.value) is kind


def test_tables_give_the_score_by_group(tmp_path: Path) -> None:
    rows = [
        {"text": f"The sky is {gold}.", "ask": "What?", "gold": gold, "kind": gold[0]}
        for gold in ("blue", "black", "red")
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(YAML + "groups: [kind]\n")
    assert cli("run", "./mine.yaml", "--seq-len", "128", "--output", "run").code == 0
    table = json.loads(cli("table", "run", "--format", "json").out)
    assert [(row["task"], row["samples"]) for row in table] == [("mine", 3), ("mine [kind=b]", 2), ("mine [kind=r]", 1)]
    total = sum(row["mean"] * row["samples"] for row in table[1:])
    assert abs(total - 3 * table[0]["mean"]) < 1e-6
