"""What a value in somebody's row means: a text, several, nothing, or a refusal that names the place."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lcbench.core.errors import UserError
from lcbench.data import texts
from lcbench.data.raw import read_rows
from lcbench.data.raw_file import RawFile
from lcbench.data.values import clean, document_of, spelled_out, text_of, texts_of
from lcbench.tasks.questions import questions
from tests.helpers import cli

WHERE = "`answers` in row 3 of rows.jsonl"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("4821", ("4821",)),
        (["4821", "4,821"], ("4821", "4,821")),
        (4821, ("4821",)),
        (4821.0, ("4821",)),
        (0.5, ("0.5",)),
        (0, ("0",)),
        (None, ()),
        (math.nan, ()),
        ("", ()),
        ([None, "4821", math.nan], ("4821",)),
        ({"text": ["4821"], "answer_start": [20]}, ("4821",)),
        ({"text": "4821"}, ("4821",)),
        ({"label": ["A", "B"], "text": ["one", "two"]}, ("one", "two")),
        ([], ()),
    ],
)
def test_texts(value: Any, texts: tuple[str, ...]) -> None:
    assert texts_of(value, WHERE) == texts


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"spans": ["4821"]}, "a mapping"),
        ([["4821"], ["9034"]], "a list"),
        ([{"text": "4821"}], "a mapping"),
        (True, "true or false"),
        (math.inf, "float"),
        (b"4821", "bytes"),
    ],
)
def test_what_is_refused_by_name(value: Any, kind: str) -> None:
    with pytest.raises(UserError, match=rf"^{WHERE} is {kind} \("):
        texts_of(value, WHERE)
    with pytest.raises(UserError):
        text_of(["a", "b"], WHERE)


def test_paragraphs_are_a_document() -> None:
    assert document_of(["One.", None, "Two.\r\nThree."], WHERE) == "One.\n\nTwo.\nThree."
    assert clean("\ufeffOne.\r\nTwo.\rThree.\n") == "One.\nTwo.\nThree.\n"
    with pytest.raises(UserError, match="is a list"):
        document_of([["title", ["One."]]], WHERE)


def test_cells_of_a_csv() -> None:
    assert spelled_out('["a", "b"]', WHERE) == spelled_out("['a', 'b']", WHERE) == ["a", "b"]
    assert spelled_out("{'text': ['a']}", WHERE, "[{") == {"text": ["a"]}
    for text in ("[1] Smith, J. [2]", "[unclear]", "{x}", "a, b", "[", ""):
        assert spelled_out(text, WHERE, "[{") == text
    for printed in ("['a' 'b']", "{'text': array(['a'], dtype=object)}"):
        with pytest.raises(UserError, match="is an object that Python printed"):
            spelled_out(printed, WHERE, "[{")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a,b\n1,It rained, a lot\n", "row 1, has 1 more than the 2 cells of the header"),
        ('a,b\n"x,1\ny,2\nz,3\n', "as CSV, up to line 4: unexpected end of data"),
        ('a,b\n"x"y,1\n', "up to line 2: ',' expected after"),
        ("a,b,a\n1,2,3\n", "has 2 columns 'a'"),
    ],
)
def test_a_csv_loses_nothing_without_a_word(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=re.escape(why)):
        list(read_rows(RawFile(tmp_path / "x.csv", "x.csv")))


def test_questions_and_texts_have_the_same_rows_and_the_same_faults(tmp_path: Path) -> None:
    """Who reads a file does not matter: a strict CSV, a key twice, two columns of one name, names of classes."""
    (tmp_path / "twice.jsonl").write_text('{"text": "x", "text": "y"}\n')
    (tmp_path / "open.csv").write_text('question,references\n"x,1\ny,2\n')
    columns = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["text", "text"])
    parquet.write_table(columns, tmp_path / "two.parquet")
    for name, why in (("twice.jsonl", "twice"), ("two.parquet", "2 columns 'text'"), ("open.csv", "up to line 3")):
        with pytest.raises(UserError, match=why):
            questions(str(tmp_path / name), "test", {})
        with pytest.raises(UserError, match=why if name != "open.csv" else "neither"):
            texts.read_rows(str(tmp_path / name))

    features = {"info": {"features": {"kind": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    rows = pyarrow.table({"question": list("abc"), "kind": [1, 0, -1]})
    rows = rows.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=2)
    found = texts.read_rows(str(tmp_path / "x.parquet"))
    assert [found[n]["kind"] for n in (2, 0, -2)] == [None, "yes", "no"] and len(found) == 3
    assert list(found) == [questions(str(tmp_path / "x.parquet"), "test", {}).row(n).meta for n in range(3)]


def test_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    twice = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["a", "a"])
    parquet.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet has 2 columns 'a'"):
        list(read_rows(RawFile(tmp_path / "x.parquet", "x.parquet")))


@pytest.mark.parametrize(
    ("reference", "outcome"),
    [
        ({"text": ["4821"], "answer_start": [20]}, "answer '4821'"),
        (4821.0, "answer '4821'"),
        ([None, "4821"], "answer '4821'"),
        ({"spans": []}, "`gold` in row 1 of rows.jsonl is a mapping"),
        (math.nan, "row 1 of rows.jsonl (validation) has no references"),
    ],
)
def test_in_a_task_of_ones_own(reference: Any, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"document": ["Mara's code is 4821.", "Ivo's is 9034."], "question": "Which?", "gold": reference}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    Path("mine.yaml").write_text(
        "family: document\ndata: rows.jsonl\ncolumns: {references: gold}\nscorer: f1\n"
        "prompt: '{{ document }} {{ question }}'\n"
    )
    shown = cli("show", "./mine.yaml", "--seq-len", "128")
    assert outcome in shown.err
    if shown.code == 0:
        assert "Mara's code is 4821.\n\nIvo's is 9034. Which?" in shown.out


def test_numbers_as_they_were_written(tmp_path: Path) -> None:
    spelled = {4821.0: "4821", 1e22: "1" + "0" * 22, 1e-7: "0.0000001", -0.0: "0", 10**30: "1" + "0" * 30, 4.25: "4.25"}
    assert {number: text_of(number, WHERE) for number in spelled} == spelled
    single = pyarrow.table({"a": pyarrow.array([0.1, None], pyarrow.float32()), "b": [0.1, 0.1]})
    parquet.write_table(single, tmp_path / "x.parquet")
    rows = list(read_rows(RawFile(tmp_path / "x.parquet", "x.parquet")))
    assert rows == [{"a": 0.1, "b": 0.1}, {"a": None, "b": 0.1}]


def test_what_cannot_be_seen_is_missing() -> None:
    assert texts_of(["\u200b", "\ufeff ", "\u200e4821"], WHERE) == ("\u200e4821",)
