"""The published rows of GraphWalks, BABILong, LongBench v2 and InfiniteBench: prompts word by word, from YAML alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import TooLongError
from lcbench.metrics.infinitebench import INFINITEBENCH
from lcbench.tasks import Cell, load_task, task_files
from tests.data.quoted import BABILONG, GRAPH, LONGBENCH_V2, infinite
from tests.helpers import cli
from tests.tokenizers import chatting

# New tokens of its open models.
BUDGETS = {"passkey": 6, "number_string": 12, "kv_retrieval": 50, "longbook_sum_eng": 1200, "math_find": 3}
BUDGETS |= {"math_calc": 30000, "code_run": 5, "code_debug": 5}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def talking() -> PreTrainedTokenizerBase:
    return chatting()


def prepare(name: str, row: dict[str, Any]) -> None:
    path = Path(f"{name.rpartition('/')[2]}.jsonl")
    path.write_text(json.dumps(row) + "\n")
    done = cli("data", "prepare", name, "--from", path)
    assert done.code == 0, done.err


def prompt(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    example = load_task(name).example(Cell(100_000), 0, tokenizer, 0)
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")


def test_graphwalks_is_the_whole_prompt_or_is_not_asked(talking: PreTrainedTokenizerBase) -> None:
    prepare("graphwalks", GRAPH)
    assert prompt("graphwalks/published", talking) == f"<user>{GRAPH['prompt']}<assistant>"
    task = load_task("graphwalks/published:max_new_tokens=8")
    example = task.example(Cell(400), 0, talking, 0)
    assert example.details["groups"] == {"problem_type": "parents", "part": "up to 128k"}
    assert task.score(example, "Final Answer: [ab]")["score"] == 100.0
    with pytest.raises(TooLongError, match="does not cut documents"):
        task.example(Cell(40), 0, talking, 0)


def test_an_empty_set_is_an_answer(talking: PreTrainedTokenizerBase) -> None:
    prepare("graphwalks", GRAPH | {"answer_nodes": []})
    task: Any = load_task("graphwalks/published")
    example = task.example(Cell(9000), 0, talking, 0)
    assert task.problems(1, 0) == {} and example.references == ()
    assert task.score(example, "Final Answer: []")["score"] == 100.0
    assert task.score(example, "Final Answer: [ab]")["score"] == 0.0


def test_babilong_published(talking: PreTrainedTokenizerBase) -> None:
    prepare("babilong/qa1", BABILONG)
    text = prompt("babilong/published_qa1", talking)
    made = str(
        talking.decode(load_task("babilong/qa1").example(Cell(700), 0, talking, 0).head, skip_special_tokens=True)
    )
    assert text.startswith("<user>I will give you context with the facts about positions")
    assert text.endswith(f"<context>\n{BABILONG['input']}\n</context>\n\nQuestion: Where is Mary?<assistant>")
    assert made == text.partition(BABILONG["input"])[0]
    task = load_task("babilong/published_qa1")
    assert task.score(task.example(Cell(9000), 0, talking, 0), "In the office.")["score"] == 100.0


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_generated_and_published_babilong_ask_alike(number: int) -> None:
    made: Any = load_task(f"babilong/qa{number}")
    published: Any = load_task(f"babilong/published_qa{number}")
    asked = made.template.replace("{context}", "{{ document }}").replace("{question}", "{{ question }}")
    assert published.prompt == asked and published.max_new_tokens == made.max_new_tokens == 20


def test_longbench_v2(talking: PreTrainedTokenizerBase) -> None:
    prepare("longbench_v2", LONGBENCH_V2)
    choices = "(A) North\n(B) South\n(C) East\n(D) West\n\n"
    ask = f"What is the correct answer to this question: Which gate?\nChoices:\n{choices}"
    end = 'Format your response as follows: "The correct answer is (insert answer here)".'
    text = "\n\n<text>\nThe south gate was open.\n</text>\n\n"
    assert prompt("longbench_v2:chat=false", talking) == (
        f"Please read the following text and answer the question below.{text}{ask}{end}"
    )
    assert prompt("longbench_v2:protocol=no_context", talking) == (
        f"<user>{ask}What is the single, most likely answer choice? {end}<assistant>"
    )
    read = "Please read the following text and answer the questions below."
    think = "Let\u2019s think step by step:"
    assert prompt("longbench_v2:protocol=cot", talking) == f"<user>{read}{text}{ask}{think}<assistant>"
    task: Any = load_task("longbench_v2:protocol=cot")
    example = task.example(Cell(9000), 0, talking, 0)
    assert (example.max_new_tokens, example.follow_up_tokens) == (1024, 128)
    assert talking.decode(example.follow_up_of(" It is open.\n"), skip_special_tokens=True) == (
        f"<user>{read}\n\nThe text is too long and omitted here.\n\n{ask}{think} It is open.\n\n"
        f"Based on the above, what is the single, most likely answer choice? {end}<assistant>"
    )
    assert task.joined(["thoughts: The correct answer is (C)", "The correct answer is (B)"]).endswith("(B)")
    assert task.score(example, task.joined(["C", "The correct answer is (B)"]))["score"] == 100.0
    assert example.details["groups"] == {"difficulty": "hard", "length": "short"}


def test_infinitebench_has_a_task_for_each_metric(talking: PreTrainedTokenizerBase) -> None:
    names = {name.removeprefix("infinitebench/") for name in task_files() if name.startswith("infinitebench/")}
    assert names == INFINITEBENCH.keys() - {"lm_eval_longbook_choice"}
    for name in names:
        task: Any = load_task(f"infinitebench/{name}")
        assert (task.data, task.scorer) == (f"infinitebench/{name}",) * 2 and task.truncate == "middle"
        assert task.resolved.max_new_tokens == BUDGETS.get(name, 40) and task.resolved.chat == "off"
        assert load_task(f"infinitebench/{name}:protocol=gpt4").resolved.chat == "on"  # type: ignore[attr-defined]


def test_infinitebench_prompts(talking: PreTrainedTokenizerBase) -> None:
    options = ["f", "g.h", "k", "m"]
    prepare("infinitebench/code_debug", infinite(context="def f(): ...", input="", answer=["k"], options=options))
    assert prompt("infinitebench/code_debug", talking) == (
        "Following is a Python code where exactly one of the functions/methods has a deliberate error that makes it "
        "crash.\n\ndef f(): ...\n\nOptions:\nA. f\nB. g.h\nC. k\nD. m\n\nThe correct option is:"
    )
    prepare("infinitebench/code_run", infinite(context="CODE", input="Please give func_7(-2).", answer=[-7]))
    assert prompt("infinitebench/code_run", talking) == (
        "There is a function called func_7 in the following Python code.\n\nCODE\n\nPlease compute the exact value of "
        "func_7(-2). The value of func_7(-2) is"
    )
    ask = "You should answer with only one number, no other words. The largest number of the list is: "
    prepare("infinitebench/math_find", infinite(context="[1, 2]", input=ask, answer=[94]))
    assert prompt("infinitebench/math_find", talking) == (
        f"What is the largest number in the following list?\n\n[1, 2]\n\n{ask}"
    )
    task = load_task("infinitebench/code_run")
    assert task.score(task.example(Cell(900), 0, talking, 0), "-7")["score"] == 100.0  # a number again, not a text
