"""HumanEval from its rows to pass@1; nothing runs without a word of the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from lcbench.tasks.humaneval import HumanEval
from tests.helpers import REPOSITORY, cli, fields_of

PUBLISHED = REPOSITORY.parent / "shared" / "data" / "humaneval" / "HumanEval.jsonl"
ROWS = [
    {
        "task_id": f"HumanEval/{number}",
        "prompt": f'\n\ndef {name}(a, b):\n    """ {text}. """\n',
        "entry_point": name,
        "canonical_solution": f"    return {answer}\n",
        "test": f"def check(candidate):\n    assert candidate(4, 2) == {expected}\n",
    }
    for number, (name, text, answer, expected) in enumerate(
        [("add", "The sum", "a + b", 6), ("subtract", "The difference of two whole numbers", "a - b", 2)]
    )
]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows, prepared as the command does it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    source = tmp_path / "HumanEval.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert cli("data", "prepare", "humaneval", "--from", source).code == 0
    return source


def task(options: str = ":execute=true") -> HumanEval:
    loaded = load_task(f"humaneval{options}")
    assert isinstance(loaded, HumanEval)
    return loaded


def test_the_prompt_is_the_beginning_of_a_file() -> None:
    tokenizer = ModelSource().tokenizer()
    example = task().example(Cell(1024), 1, tokenizer, 0)
    assert tokenizer.decode(example.prompt) == "<|endoftext|>" + ROWS[1]["prompt"]
    assert not example.context and example.max_new_tokens == 512
    assert example.stop == ("\ndef ", "\nclass ", "\nif __name__")


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("    return a - b\n", 1.0),
        ("    return a + b\n", 0.0),
        ("    return a - b", 1.0),  # cut before "\ndef ": no line break at its end
        ("  return\n    a", 0.0),
        ("    while True: pass\n", 0.0),
        ("    import sys; sys.exit(0)\n", 0.0),
        ("", 0.0),
    ],
)
def test_what_passes_its_test_is_right(completion: str, right: float) -> None:
    one = task(":execute=true,timeout=0.5")
    example = one.example(Cell(1024), 1, ModelSource().tokenizer(), 0)
    assert one.score(example, completion) == {"pass@1": right}


def test_nothing_runs_unless_allowed(tmp_path: Path) -> None:
    refused = cli("run", "humaneval", "--seq-len", "1k")
    assert refused.code == 2 and "execute=true" in refused.error and "resource limits only" in refused.error
    assert not (tmp_path / "results").exists()
    one = task("")
    example = one.example(Cell(1024), 0, ModelSource().tokenizer(), 0)
    with pytest.raises(UserError, match="execute=true"):
        one.score(example, "    open('ran', 'w')\n")


def test_a_run_records_what_it_was_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cli("run", "humaneval:execute=true,max_new_tokens=4", "--seq-len", "512", "-o", folder)
    assert done.code == 0, done.err
    records = fields_of(folder)
    assert [record["details"]["row"] for record in records] == ["HumanEval/0", "HumanEval/1"]
    assert all("execute=true" in record["task"] and record["scores"] == {"pass@1": 0.0} for record in records)
    assert cli("rescore", folder).code == 0


def test_every_problem_must_fit() -> None:
    tokenizer = ModelSource().tokenizer()
    longest = max(len(tokenizer(row["prompt"]).input_ids) for row in ROWS)
    with pytest.raises(UserError, match=f"--seq-len {512 + longest} "):
        task().example(Cell(512 + longest - 1), 0, tokenizer, 0)
    assert task().example(Cell(512 + longest), 0, tokenizer, 0).prompt


def test_rows_of_a_file_of_ones_own(data: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        f"family: humaneval\ndata: {data}\nexecute: true\n"
        "columns: {id: task_id, question: prompt, references: canonical_solution}\n"
    )
    mine = load_task(str(yaml))
    example = mine.example(Cell(1024), 0, ModelSource().tokenizer(), 0)
    assert mine.score(example, example.references[0]) == {"pass@1": 1.0}


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published problems are not beside the repository")
def test_the_published_solutions_pass(tmp_path: Path) -> None:
    assert cli("data", "prepare", "humaneval", "--from", PUBLISHED, "--update").code == 0
    tokenizer, one = ModelSource().tokenizer(), task()
    examples = [one.example(Cell(4096), number, tokenizer, 0) for number in range(one.available(tokenizer))]
    assert len(examples) > 50
    assert all(one.score(example, example.references[0])["pass@1"] for example in examples)
    assert not any(one.score(example, "    return None\n")["pass@1"] for example in examples[:10])
