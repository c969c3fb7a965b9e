"""Which rows are asked about, in which formats they come, and what they must have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import TooLongError, UserError
from lcbench.tasks import Cell
from tests.tasks.document.tasks import ROWS, YAML, task, text_of


def test_questions_on_one_document_belong_together(tokenizer: PreTrainedTokenizerBase) -> None:
    mine = task()
    keys = [mine.shares(Cell(400), sample) for sample in range(3)]
    assert keys[0] == keys[1] != keys[2]
    assert mine.available(tokenizer) == 3


SHOTS = YAML.replace(
    'prompt: "{{ document }}',
    'prompt: "{{ document }}{% for shot in shots %}\\nQ: {{ shot.question }} A: {{ shot.answer }}{% endfor %}',
)


def test_demonstrations_by_seed(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"story": "", "ask": f"ask {n}", "gold": f"gold {n}", "number": n} for n in range(30)]
    Path("rows.jsonl").write_text("".join(json.dumps({**row, "story": "A text."}) + "\n" for row in rows))
    few = task("shots: 3\nshots_split: validation\n", SHOTS)

    def drawn(sample: int, seed: int = 0, length: int = 4000) -> list[str]:
        example = few.example(Cell(length), sample, tokenizer, seed)
        text, shots = text_of(example, tokenizer), list(example.details["shots"])
        assert [f"Q: ask {n} A: gold {n}" in text for n in shots] == [True] * 3
        assert text.count("Q: ") == 3
        return shots

    assert drawn(0) == drawn(0) == drawn(0, length=2000)
    assert drawn(0) != drawn(0, seed=1) and drawn(0) != drawn(1)
    for sample in range(30):
        assert str(sample) not in drawn(sample), "a row does not demonstrate itself"
    with pytest.raises(UserError, match="not enough for 40 shots"):
        task("shots: 40\nshots_split: validation\n", SHOTS).example(Cell(4000), 0, tokenizer, 0)


def test_a_file_has_one_split_whatever_its_name(tokenizer: PreTrainedTokenizerBase) -> None:
    """Demonstrations are of `train` unless a task says otherwise: in a file, of the rows that are asked."""
    rows = [{"story": "A text.", "ask": f"ask {n // 2}", "gold": f"gold {n}", "number": n} for n in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = task("shots: 6\n", SHOTS)
    for sample in range(8):
        assert set(few.example(Cell(4000), sample, tokenizer, 0).details["shots"]) == (
            {str(n) for n in range(8)} - {str(sample), str(sample ^ 1)}  # the other one asks the same
        )


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_the_same_rows_in_other_formats(suffix: str, tokenizer: PreTrainedTokenizerBase) -> None:
    expected = [task().example(Cell(600), sample, tokenizer, 0) for sample in range(3)]
    rows = [{**row, "gold": row["gold"] if isinstance(row["gold"], list) else [row["gold"]]} for row in ROWS]
    path = Path(f"rows.{suffix}")
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "gold": json.dumps(row["gold"])} for row in rows)
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    other = task(of=YAML.replace("rows.jsonl", path.name), name="other.yaml")
    for sample, example in enumerate(expected):
        found = other.example(Cell(600), sample, tokenizer, 0)
        assert (found.prompt, found.references) == (example.prompt, example.references)


def test_data_beside_the_yaml_file(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there").mkdir()
    Path("rows.jsonl").rename("there/rows.jsonl")
    assert task(name="there/mine.yaml").available(tokenizer) == 3


def test_only_some_rows_are_asked_and_their_groups_are_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    some = task("only: [number=9]\ngroups: [number]\n")
    example = some.example(Cell(8000), 0, tokenizer, 0)
    assert some.available(tokenizer) == 1 and example.references == ("late",)
    assert example.details["groups"] == {"number": "9"}
    with pytest.raises(UserError, match=r"has no row with number: 1; name other values"):
        task("only: [number=1]\n").require_data()
    with pytest.raises(UserError, match=r"unknown column of .* in `only`: 'numbers'; did you mean 'number'"):
        task("only: [numbers=1]\n").require_data()
    with pytest.raises(UserError, match=r"only='number' is not column=value"):
        task("only: [number]\n").require_data()
    assert task(options=":only=[number=8]").available(tokenizer) == 1
    with pytest.raises(UserError, match="in `groups`: 'kind'"):
        task("groups: [kind]\n").example(Cell(8000), 0, tokenizer, 0)


@pytest.mark.parametrize(
    ("value", "group", "classes"),
    [
        (None, {}, "row 1 of rows.jsonl (validation) has no classes in `kind`."),
        (float("nan"), {}, "row 1 of rows.jsonl (validation) has no classes in `kind`."),
        (2.0, {"kind": "2"}, ["2"]),
        ("easy", {"kind": "easy"}, ["easy"]),
        (["a", "b"], "`kind` of row 1 of rows.jsonl (validation) is a list (['a', 'b']),", ["a", "b"]),
        (
            {"a": 1},
            "`kind` of row 1 of rows.jsonl (validation) is a mapping",
            "`kind` of row 1 of rows.jsonl (validati",
        ),
    ],
)
def test_groups_and_classes_are_texts(value: Any, group: Any, classes: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    Path("rows.jsonl").write_text(json.dumps(ROWS[2] | {"kind": value}) + "\n")
    for option, expected in (("groups: [kind]", group), ("classes: kind\nscorer: longbench/trec", classes)):
        asked = task(option + "\n", of=YAML.replace("scorer: f1\n", "" if "scorer" in option else "scorer: f1\n"))
        if isinstance(expected, str):
            assert asked.problems(1, 0)[0].startswith(expected)
        else:
            assert asked.example(Cell(8000), 0, tokenizer, 0).details[option.partition(":")[0]] == expected
            assert not asked.problems(1, 0)


def test_a_document_that_is_never_cut_fits_or_is_not_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = task("truncate: never\n")
    assert whole.example(Cell(8000), 0, tokenizer, 0).details["cut_tokens"] == 0
    with pytest.raises(TooLongError, match=r"row 2 of rows.jsonl .* does not cut documents"):
        whole.example(Cell(300), 1, tokenizer, 0)
    assert len(whole.example(Cell(300), 2, tokenizer, 0).context) > 0


def test_a_csv_of_ones_own_loses_nothing_without_a_word() -> None:
    for content, why in (
        ("story,ask,gold\nIt rained.,Why, what?,4821\n", r"rows.csv, row 1, has 1 more than the 3 cells"),
        ("story,ask,gold\nIt rained.,Why\n", r"rows.csv, row 1, has 2 of the 3 cells of the header; write empty"),
        ("story,ask,ask,gold\nIt rained.,Why,What,4821\n", "has 2 columns 'ask'"),
        ('story,ask,gold\n"It rained.,Why,4821\n', "unexpected end of data"),
    ):
        Path("rows.csv").write_text(content)
        with pytest.raises(UserError, match=why):
            task(of=YAML.replace("rows.jsonl", "rows.csv")).require_data()


def test_what_the_prompt_names_must_be_there() -> None:
    for row, why in (
        ({"story": "It rained.", "ask": None}, "has no question, and the prompt of mine names one."),
        ({"story": "It rained.", "ask": " \u200b"}, "has no question, and the prompt of mine names one."),
        ({"story": "\u200b", "ask": "Why?"}, "has no document, and the prompt of mine names one."),
    ):
        Path("rows.jsonl").write_text(json.dumps({**row, "gold": "x", "number": 1}) + "\n")
        assert task().problems(1, 0)[0].endswith(why)
    Path("rows.jsonl").write_text(json.dumps({"story;ask;gold": "x"}) + "\n")  # as a CSV with semicolons is read
    unnamed = task(of=YAML.replace("columns: {document: story, question: ask, references: gold, id: number}\n", ""))
    assert "to score an answer by: its columns are ['story;ask;gold']; say in `columns`" in unnamed.problems(1, 0)[0]
