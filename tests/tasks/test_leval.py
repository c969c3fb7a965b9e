"""L-Eval as published: prompts word by word, what of a document is cut, and two questions where it asks twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.data.scripts import data_sets
from lcbench.engine import steered
from lcbench.engine.generate import Generation, Prompt
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, Example, load_task, task_files
from tests.helpers import cli, fields_of
from tests.tokenizers import chatting

DOCUMENT = " ".join(f"Fact {n}: the sun is {n} miles away." for n in range(300))
FACT = "True or False? Answer this question based on the world described in the document."
ROWS: dict[str, tuple[str, str]] = {
    "tpo": ("Who sang?\nA. Ann\nB. Ben", "B"),
    "quality": ("Who ran?\n\n (A) Ann\n (B) Ben", "(B) Ben"),
    "coursera": ("Question 1. Which?\nA. one\nB. two", "AB"),
    "sci_fi": (f"1.\tpeople fly, {FACT}", "True [fact: False]"),
    "gsm100": ("Question: How many?\nLet's think step by step\n", "18"),
    "codeU": ("What is the output of f(3)?", "[3]"),
    "topic_retrieval_longchat": ("What is the first topic we discussed?", "Birds"),
    "scientific_qa": ("How long?", "twelve long years"),
    "meeting_summ": ("Summarize.", "They met and left."),
}


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions to one document in every data set that is looked at here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


def prepare(*names: str, document: str = DOCUMENT) -> None:
    for name in names:
        question, output = ROWS[name]
        row = {"instructions": [question, "And then?"], "outputs": [output, output], "input": document}
        Path(f"{name}.jsonl").write_text(json.dumps({**row, "source": "a test", "evaluation": "exam"}) + "\n")
        done = cli("data", "prepare", f"leval/{name}", "--from", f"{name}.jsonl")
        assert done.code == 0, done.err


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return ModelSource().tokenizer()


@pytest.fixture(scope="module")
def talking() -> PreTrainedTokenizerBase:
    return chatting()


def text_of(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).removeprefix(" ")


def asked(name: str, tokenizer: PreTrainedTokenizerBase, seq_len: int = 100_000, sample: int = 0) -> Example:
    return load_task(f"leval/{name}").example(Cell(seq_len), sample, tokenizer, 0)


def test_every_data_set_has_its_task() -> None:
    names = [data_set.name for data_set in data_sets("leval")]
    assert sorted(names) == [name for name in sorted(task_files()) if name.startswith("leval/")]
    assert len(names) == 20
    for name in names:
        for protocol in ("chat", "chunkllama"):
            task: Any = load_task(f"{name}:protocol={protocol}")
            assert (task.data, task.scorer, task.split) == (name, name, "test"), name
            assert task.resolved.max_new_tokens == 512 and task.resolved.chat == ("on" if protocol == "chat" else "off")
            assert task.resolved.system and task.resolved.prompt.count("{{ document }}") == 1
            assert task.resolved.prompt.index("{{ document }}") < task.resolved.prompt.index("{{ question }}")
            assert ("{{ system }}" in task.resolved.prompt) == (protocol == "chunkllama")
            assert bool(task.resolved.follow_up) == (name == "leval/sci_fi")
            assert task.resolved.truncate == ("left" if name == "leval/codeU" else "right")
        assert load_task(name).protocol == "chat"  # type: ignore[attr-defined]


EXAM = (
    "Now you are given a very long document. Please follow the instruction based on this document. For multi-choice "
    "questions, there is only a sinlge correct option. Please only provide the letter corresponding to the answer "
    "(like A or B) when answering. For other questions, please directly give the concise and accurate answer. "
)
CODE = (
    "Now you are given a code base consisting of a large amount of functions and the corresponding comments. In the "
    "end, I will call some functions defined in the code base. Please carefully read these codes and comments and "
    "answer the question."
)
OPEN = (
    "Now you are given a very long document. Please follow the instruction after this document. These instructions may "
    "include summarizing a document, answering questions based on the document, or writing a required paragraph. "
)


@pytest.mark.parametrize(
    ("name", "system", "rest"),
    [
        (
            "tpo",
            EXAM,
            "Document is as follows. {document} \nQuestion: {question}. Please directly give answer without any "
            "additional output or explanation [/INST]\nAnswer:",
        ),
        ("codeU", CODE, "{document}\n\n{question}"),
        (
            "scientific_qa",
            OPEN,
            "Document is as follows. {document} Instruction: {question} \nAnswer this question with 3 words.[/INST]",
        ),
    ],
)
def test_chunkllama_word_by_word(name: str, system: str, rest: str, tokenizer: PreTrainedTokenizerBase) -> None:
    prepare(name)
    example = asked(f"{name}:protocol=chunkllama", tokenizer)
    question, reference = ROWS[name]
    expected = f"[INST]<<SYS>>\n{system}\n<</SYS>>\n\n" + rest.format(document=DOCUMENT, question=question)
    assert text_of(example.prompt, tokenizer) == expected
    assert example.references == (reference,) and example.max_new_tokens == 512
    assert example.prompt.count(tokenizer.bos_token_id) == 1 and example.prompt[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("name", "system", "rest"),
    [
        (
            "tpo",
            EXAM,
            "Document is as follows. {document} Question: {question} \nPlease directly give answer without any "
            "additional output or explanation\n Answer: ",
        ),
        ("codeU", CODE, "{document}\n\n{question}"),
        (
            "meeting_summ",
            OPEN,
            "Document is as follows. {document} Instruction: {question} The suggested output length is around 4 words. "
            "Output: ",
        ),
    ],
)
def test_chat_word_by_word(name: str, system: str, rest: str, talking: PreTrainedTokenizerBase) -> None:
    prepare(name)
    example = asked(name, talking)
    user = rest.format(document=DOCUMENT, question=ROWS[name][0])
    assert text_of(example.prompt, talking) == f"<system>{system}<user>{user}<assistant>"
    assert example.prompt.count(talking.bos_token_id) == 1


def test_topics_and_solved_problems(tokenizer: PreTrainedTokenizerBase) -> None:
    prepare("topic_retrieval_longchat", "gsm100")
    topics = text_of(asked("topic_retrieval_longchat:protocol=chunkllama", tokenizer).prompt, tokenizer)
    assert topics.endswith(f"{DOCUMENT}\n\nWhat is the first topic we discussed?[/INST]")
    assert "Memorize each <TOPIC>." in topics and "first/second/third topic names. Now the record start. \n" in topics
    solved = text_of(asked("gsm100:protocol=chunkllama", tokenizer).prompt, tokenizer)
    assert solved.endswith(f"{DOCUMENT}\n\nQuestion: How many?\nLet's think step by step\n")
    assert "end with The answer is _ . \n<</SYS>>\n\n" in solved and "[/INST]" not in solved


@pytest.mark.parametrize("protocol", ["chat", "chunkllama"])
@pytest.mark.parametrize(("name", "side"), [("tpo", "right"), ("codeU", "left")])
def test_only_the_document_is_cut(name: str, side: str, protocol: str, talking: PreTrainedTokenizerBase) -> None:
    prepare(name)
    whole = asked(f"{name}:protocol={protocol}", talking)
    short = asked(f"{name}:protocol={protocol}", talking, seq_len=2048)
    assert len(short.prompt) + 512 == 2048 and short.prompt.count(talking.bos_token_id) == 1
    assert (short.head, short.tail) == (whole.head, whole.tail) and ROWS[name][0] in text_of(short.tail, talking)
    room = len(short.context)
    assert 0 < room < len(whole.context)
    assert short.context == (whole.context[:room] if side == "right" else whole.context[-room:])


def test_a_model_without_chat_template_is_told_what_to_do() -> None:
    prepare("tpo")
    done = cli("run", "leval/tpo", "--model", "lcbench-tiny", "--seq-len", "4k", "--dry-run")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "use a chat model, or leval/tpo:protocol=chunkllama." in done.error
    told = cli("run", "leval/tpo:protocol=chunkllama", "--model", "lcbench-tiny", "--seq-len", "4k", "--dry-run")
    assert told.code == 0, told.err


def said(texts: dict[str, str], seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers a prompt by what it contains."""
    tokenizer = ModelSource().tokenizer()

    def generate(prompt: Prompt) -> Generation:
        assert prompt.max_new_tokens == 512
        text = text_of(list(prompt.tokens), tokenizer)
        seen.append(text)
        reply = next(reply for part, reply in texts.items() if part in text)
        return Generation(tokenizer(reply, add_special_tokens=False).input_ids, 0, 0.1, 0.1)

    monkeypatch.setattr(steered, "generate_together", lambda model, prompts, *_: list(map(generate, prompts)))


@pytest.mark.parametrize(
    ("story", "fact", "score"),
    [("True", "False", 100.0), ("True", "True", 50.0), ("False", "False.", 50.0), ("no", "maybe", 0.0)],
)
def test_science_fiction_is_asked_twice(story: str, fact: str, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("sci_fi", document="People fly in this story.")
    seen: list[str] = []
    said({"real-world": fact, "People fly in this story": story}, seen, monkeypatch)
    done = cli(
        *("run", "leval/sci_fi:protocol=chunkllama", "--seq-len", "2k", "--samples", "1", "--output", "run"),
    )
    assert done.code == 0, done.err
    (record,) = fields_of(Path("run"))
    assert record["prediction"].replace(" ", "") == f"{story}[fact:{fact}]"
    assert record["scores"]["score"] == score, record["scores"]
    assert seen[0].startswith("[INST]<<SYS>>\nNow you are given a scientific fiction.")
    assert seen[1] == (
        "1.\tpeople fly, True or False? Answer this question based on the real-world knowledge and facts up until your "
        "last training\nAnswer:"
    )


def test_the_second_question_is_without_story_and_its_rules(talking: PreTrainedTokenizerBase) -> None:
    prepare("sci_fi")
    example = asked("sci_fi", talking)
    follow_up = text_of(example.follow_up, talking)
    assert follow_up == (
        "<user>1.\tpeople fly, True or False? Answer this question based on the real-world knowledge and facts up "
        "until your last training\nPlease directly give answer without any additional output or explanation \n"
        "Answer:<assistant>"
    )
    assert example.follow_up.count(talking.bos_token_id) == 1
    assert "instead of your background knowledge" in text_of(example.head, talking)


def test_questions_on_a_document_share_its_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("tpo", document=DOCUMENT[:3000])
    real = steered.generate_together

    def in_a_token(model: Any, prompts: list[Prompt], *rest: Any) -> list[Generation]:
        return real(model, [replace(prompt, max_new_tokens=1) for prompt in prompts], *rest)

    monkeypatch.setattr(steered, "generate_together", in_a_token)
    done = cli("run", "leval/tpo:protocol=chunkllama", "--seq-len", "8k", "--output", "run")
    assert done.code == 0, done.err
    first, second = sorted(fields_of(Path("run")), key=lambda record: record["cost"]["reused_tokens"])
    assert first["cost"]["reused_tokens"] == 0 and first["details"]["document"] == second["details"]["document"]
    example = asked("tpo:protocol=chunkllama", ModelSource().tokenizer(), seq_len=8192)
    assert second["cost"]["reused_tokens"] >= len(example.head) + len(example.context)
