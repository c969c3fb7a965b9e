"""SCROLLS' tasks as they were published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.tasks import Cell, load_task, task_files
from tests.helpers import cli
from tests.tasks.document.tasks import text_of


def prepare(name: str, split: str, rows: list[dict[str, Any]], source: str) -> None:
    """Data of a source as `lcbench data prepare` writes them, from rows in the source's format."""
    folder = Path("source")
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("data", "prepare", f"{source}/{name}", "--from", folder, "--update")
    assert done.code == 0, done.err


def test_scrolls_few_shot_as_published(tokenizer: PreTrainedTokenizerBase) -> None:
    def row(n: int, split: str) -> dict[str, Any]:
        return {
            "id": f"{split}{n}",
            "pid": f"{n}_0",
            "input": f"What is {n}?\n\nThe text of {n}.",
            "output": f"gold {n}",
        }

    prepare("qasper", "train", [row(n, "t") for n in range(2)], "scrolls")
    prepare("qasper", "validation", [row(9, "v"), {**row(9, "v"), "output": "other"}], "scrolls")
    example = load_task("scrolls/qasper").example(Cell(2000), 0, tokenizer, 0)
    first, second = (int(id[1:]) for id in example.details["shots"])
    assert {first, second} == {0, 1}
    assert text_of(example, tokenizer).strip() == (
        f"The text of 9.\n\nQuestion: What is {first}? \nAnswer:gold {first}"
        f"\n\nQuestion: What is {second}? \nAnswer:gold {second}\n\nQuestion: What is 9? \nAnswer:"
    )
    assert example.references == ("gold 9", "other")  # rows of one id are one, with both references
    assert example.max_new_tokens == 64


@pytest.mark.parametrize(
    ("said", "scored"),
    [
        (" the answer\n\nQuestion: more", " the answer\n\n"),
        ("\nQuestion: the answer\nQuestion: x", " the answer\n"),
        ("a\nQuestion:\n\nQuestion: b c", " b c"),
        ("the answer", "the answer"),
        ("", ""),
    ],
)
def test_chunkllama_takes_the_first_piece_longer_than_a_sign(said: str, scored: str) -> None:
    pieces = (piece for piece in said.split("Question:") if len(piece.replace("\n", "")) > 1)
    assert next(pieces, "") == scored  # the rule, word for word
    assert load_task("scrolls/qasper").extract(said) == scored


def test_every_scrolls_task_loads() -> None:
    names = [name for name in task_files() if name.startswith("scrolls/")]
    assert len(names) == 7
    for name in names:
        assert load_task(name).corpus_scorer == name
