"""Needle tasks of every protocol, and what their prompts look like as text."""

from __future__ import annotations

import re
from functools import cache

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.needle.task import Needle
from tests.tokenizers import build

RULER = ["multi_key", "multi_value", "multi_query"]
PROTOCOLS = ["niah", "codes", *RULER]
STATEMENTS = {
    "niah": r"The best thing to do in (\w+) is ([\w ]+)\.",
    "codes": r"The code of (\w+) is (\d{4})\.",
    **dict.fromkeys(RULER, r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\."),
}
COUNTS = {"niah": (1, 1), "codes": (4, 1), "multi_key": (4, 1), "multi_value": (4, 4), "multi_query": (4, 4)}


@cache
def task_of(protocol: str, haystack: str = "books") -> Needle:
    task = load_task(f"needle:protocol={protocol},haystack={haystack}")
    assert isinstance(task, Needle)
    return task


@cache
def shortest(style: str, protocol: str) -> int:
    with pytest.raises(UserError, match="does not fit into 5 tokens") as error:
        task_of(protocol).example(Cell(5), 0, build(style), 0)
    found = re.search(r"--seq-len (\d+) or more", str(error.value))
    assert found
    return int(found[1])


def text_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def answered(task: Needle, references: tuple[str, ...], prediction: str) -> tuple[float, float]:
    scores = task.score(Example([], [], [], references, 9, seed=0), prediction)
    assert set(scores) == {"recall", "exact"}
    return scores["recall"], scores["exact"]
