"""LongBench as published: prompts, the middle cut away, chat templates for some tasks only, and classes by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.metrics.longbench import LONGBENCH
from lcbench.tasks import Cell, Example, load_task, task_files
from tests.helpers import cli
from tests.tokenizers import chatting

CONTEXT = " ".join(f"Item {n} is worth {n} coins." for n in range(400))
QUESTIONS = {"qasper": "Who wrote it?", "trec": "Question: Who?\nType:", "samsum": "Dialogue: A: hi\nSummary: "}
CLASSES = ["Food", "Number of something", "Number", "Other location"]
# Of the published script: what it asks without chat template, and the length of an answer.
BARE = {"trec": 64, "triviaqa": 32, "samsum": 128, "lsht": 64, "lcc": 64, "repobench-p": 64}
IN_CHAT = {
    **dict.fromkeys(("narrativeqa", "qasper"), 128),
    **dict.fromkeys(("multifieldqa_en", "multifieldqa_zh"), 64),
    "dureader": 128,
    **dict.fromkeys(("hotpotqa", "2wikimqa", "musique"), 32),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), 512),
    **dict.fromkeys(("passage_count", "passage_retrieval_en", "passage_retrieval_zh"), 32),
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def talking() -> PreTrainedTokenizerBase:
    return chatting()


def prepare(name: str, question: str | None = None, context: str = CONTEXT) -> None:
    row = {
        "_id": f"{name}0",
        "input": QUESTIONS.get(name, "") if question is None else question,
        "context": context,
        "answers": ["Number"],
        "all_classes": CLASSES if name in ("trec", "lsht") else None,
        "length": 2000,
        "language": "en",
        "dataset": name,
    }
    Path(f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    done = cli("data", "prepare", f"longbench/{name}", "--from", f"{name}.jsonl")
    assert done.code == 0, done.err


def asked(name: str, tokenizer: PreTrainedTokenizerBase, seq_len: int = 100_000) -> Example:
    return load_task(f"longbench/{name}").example(Cell(seq_len), 0, tokenizer, 0)


def text_of(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).removeprefix(" ")


def test_misspelled_as_published() -> None:
    task: Any = load_task("longbench/narrativeqa")
    assert task.resolved.prompt.count("asconcisely as you can") == 2  # dataset2prompt.json, in every version


def test_every_metric_has_its_task() -> None:
    names = [name.removeprefix("longbench/") for name in task_files() if name.startswith("longbench/")]
    assert sorted(names) == sorted(LONGBENCH) == sorted({**BARE, **IN_CHAT})
    for name, length in {**BARE, **IN_CHAT}.items():
        task: Any = load_task(f"longbench/{name}")
        assert (task.data, task.scorer, task.split) == (f"longbench/{name}", f"longbench/{name}", "test")
        assert task.resolved.max_new_tokens == length and task.resolved.truncate == "middle", name
        assert task.resolved.chat == ("on" if name in IN_CHAT else "off"), name
        assert task.classes == ("choices" if name in ("trec", "lsht") else ""), name
        assert not task.answer  # the scorers take the first line themselves, where the published ones do
        assert task.resolved.prompt.count("{{ document }}") == 1
        assert ("{{ question }}" in task.resolved.prompt) == (
            name not in ("gov_report", "multi_news", "vcsum", "passage_count", "lcc")
        ), name


def test_prompts_word_by_word(talking: PreTrainedTokenizerBase) -> None:
    for name in ("qasper", "trec", "samsum", "lcc", "repobench-p", "passage_count"):
        prepare(name, "def f():\n" if name == "repobench-p" else None)
    rules = (
        "as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered "
        'based on the information in the article, write "unanswerable". If the question is a yes/no question, answer '
        '"yes", "no", or "unanswerable". Do not provide any explanation.'
    )
    qasper = (
        f"You are given a scientific article and a question. Answer the question {rules}\n\nArticle: {CONTEXT}\n\n"
        f" Answer the question based on the above article {rules}\n\nQuestion: Who wrote it?\n\nAnswer:"
    )
    expected = {
        "qasper": f"<user>{qasper}<assistant>",
        "qasper:protocol=plain": qasper,
        "trec": "Please determine the type of the question below. Here are some examples of questions.\n\n"
        f"{CONTEXT}\nQuestion: Who?\nType:",
        "samsum": "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"
        f"{CONTEXT}\n\n{QUESTIONS['samsum']}",
        "lcc": f"Please complete the code given below. \n{CONTEXT}Next line of code:\n",
        "repobench-p": f"Please complete the code given below. \n{CONTEXT}def f():\nNext line of code:\n",
    }
    for name, text in expected.items():
        example = asked(name, talking)
        assert text_of(example.prompt, talking) == text, name
        assert example.prompt.count(talking.bos_token_id) == 1 and example.prompt[0] == talking.bos_token_id
    counted = text_of(asked("passage_count:protocol=plain", talking).prompt, talking)
    assert counted.endswith("such as 1, 2, 3, and so on.\n\nThe final answer is: ")


@pytest.mark.parametrize("name", ["qasper", "qasper:protocol=plain", "trec"])
def test_the_middle_of_the_context_is_cut(name: str, talking: PreTrainedTokenizerBase) -> None:
    prepare(name.partition(":")[0])
    whole, short = asked(name, talking), asked(name, talking, seq_len=1024)
    assert len(short.prompt) + short.max_new_tokens == 1024
    assert (short.head, short.tail) == (whole.head, whole.tail)
    room = len(short.context)
    assert short.context == whole.context[: room - room // 2] + whole.context[-(room // 2) :]
    assert short.details["cut_tokens"] == len(whole.context) - room > 0


@pytest.mark.parametrize(
    ("said", "score", "corrected"),
    [
        (" Number\nQuestion: What?\nType: Food", 100.0, 100.0),  # what the model goes on with does not count
        ("\n\nNumber", 100.0, 100.0),
        (" Food or Number", 50.0, 50.0),
        (" Food\nNumber", 0.0, 0.0),
    ],
)
def test_classes_come_from_the_row(said: str, score: float, corrected: float, talking: PreTrainedTokenizerBase) -> None:
    prepare("trec")
    example = asked("trec", talking)
    assert example.details["classes"] == CLASSES
    assert load_task("longbench/trec").score(example, said) == {"score": score, "score_corrected": corrected}


def test_summaries_of_chats_end_with_the_next_chat(talking: PreTrainedTokenizerBase) -> None:
    prepare("samsum")
    example = asked("samsum", talking)
    assert example.stop == ("\nDialogue:",)
    task = load_task("longbench/samsum")
    assert task.score(example, "\nNumber\nand more of it") == task.score(example, "Number")


def test_chinese_prompts(talking: PreTrainedTokenizerBase) -> None:
    prepare("lsht", question="新闻\n类别", context="例子")
    text = text_of(asked("lsht", talking).prompt, talking)
    lines = text.split("\n")
    assert lines[0].startswith("请判断给定新闻的类别") and lines[0].endswith("下面是一些例子。")
    assert lines[1:] == ["", "例子", "新闻", "类别"]


def test_a_model_without_chat_template_is_told_what_to_do() -> None:
    prepare("qasper")
    prepare("trec")
    done = cli("run", "longbench/qasper", "--model", "lcbench-tiny", "--seq-len", "4k", "--dry-run")
    assert done.code == 2 and "use a chat model, or longbench/qasper:protocol=plain." in done.error
    for task in ("longbench/qasper:protocol=plain", "longbench/trec"):
        told = cli("run", task, "--model", "lcbench-tiny", "--seq-len", "4k", "--dry-run")
        assert told.code == 0, told.err
