"""What a value in somebody's row means: a text, several, nothing, or a refusal that names the place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.data.values import clean, document_of, spelled_out, text_of, texts_of
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
