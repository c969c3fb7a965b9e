"""MRCR: made-up conversations of exact length with the message that is meant, and the published rows turn by turn."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import RowError, TooLongError, UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from tests.data.quoted import ASK, CONVERSATION, MRCR
from tests.helpers import cli, records_of
from tests.tokenizers import STYLES, build

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


def talking(template: str = CHAT) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(ModelSource().tokenizer())
    other.chat_template = template
    return other


def prepare(*rows: dict[str, Any]) -> None:
    Path("mrcr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli("data", "prepare", "mrcr", "--update", "--from", "mrcr.jsonl").code == 0


def said(text: str) -> list[tuple[str, str]]:
    """Requests and replies of a plain conversation, after its examples."""
    body = text.rpartition("END EXAMPLE======\n\n")[2]
    turns = re.split(r"\n\n(?=User: |Assistant:)", body)
    assert turns[-1] == "Assistant:"
    asked = turns[0:-1:2]
    return [
        (one.removeprefix("User: "), other.removeprefix("Assistant:").removeprefix(" "))
        for one, other in zip(asked, turns[1::2])
    ]


@pytest.mark.parametrize("needles", [2, 8])
@pytest.mark.parametrize("style", STYLES)
def test_the_length_is_exact_and_the_answer_is_the_message_that_is_meant(style: str, needles: int) -> None:
    tokenizer = build(style)
    example = load_task(f"mrcr:needles={needles}").example(Cell(9000), needles, tokenizer, 0)
    assert len(example.prompt) + example.max_new_tokens == 9000
    text = str(tokenizer.decode(example.prompt, skip_special_tokens=True))
    turns = said(text)
    found = re.fullmatch(
        r"Prepend (\w{10}) to the (\d)\w\w \(1 indexed\) ([\w ]+) about (\w+)\. Do not include any other text.*",
        turns[-1][0],
    )
    assert found and example.references[1] == found[1] and turns[-1][1] == ""
    same = [reply for asked, reply in turns if re.fullmatch(rf"write an? {found[3]} about {found[4]}", asked)]
    assert len(same) == needles == len(set(same))
    assert example.references[0] == found[1] + same[int(found[2]) - 1]
    assert example.needle_at is not None
    needle = str(tokenizer.decode(example.prompt[example.needle_at :][: example.needle_tokens]))
    assert needle.lstrip().startswith("write a") and [each in needle for each in same].count(True) == 1
    assert same[int(found[2]) - 1] in needle
    assert len(turns) == example.details["turns"] + 1


def test_the_made_up_answer_fits_its_budget_and_scores() -> None:
    task, tokenizer = load_task("mrcr"), ModelSource().tokenizer()
    example = task.example(Cell(2500), 0, tokenizer, 0)
    assert task.score(example, example.references[0]) == {"score": 100.0, "score_corrected": 100.0}
    assert len(tokenizer(example.references[0]).input_ids) <= example.max_new_tokens
    with pytest.raises(UserError, match=r"use --seq-len (\d+)") as refusal:
        task.example(Cell(500), 0, tokenizer, 0)
    shortest = int(re.search(r"--seq-len (\d+)", str(refusal.value))[1])  # type: ignore[index]
    assert len(task.example(Cell(shortest), 0, tokenizer, 0).prompt) < shortest


def test_in_a_chat_every_message_is_a_turn() -> None:
    tokenizer = talking()
    example = load_task("mrcr").example(Cell(2500), 3, tokenizer, 0)
    assert len(example.prompt) + example.max_new_tokens == 2500
    text = str(tokenizer.decode(example.prompt))
    assert text.count("</>\n<assistant>") == example.details["turns"] + 1 and text.endswith("</>\n<assistant>")
    assert text.startswith("<|endoftext|><user>Here are some examples") and example.prompt.count(0) == 1


def test_published_rows_in_a_chat_and_in_plain_text() -> None:
    prepare(MRCR, MRCR | {"n_needles": 4})
    task, tokenizer = load_task("mrcr/4needle"), talking()
    assert task.available(tokenizer) == 1
    example = task.example(Cell(9000), 0, tokenizer, 0)
    turns = "".join(f"<{one['role']}>{one['content']}</>\n" for one in CONVERSATION)
    assert tokenizer.decode(example.prompt) == f"<|endoftext|>{turns}<assistant>"
    assert example.references == (MRCR["answer"], "aB3dE6gH9j") and example.details["groups"] == {"tokens": "up to 4k"}
    plain = load_task("mrcr/2needle").example(Cell(9000), 0, ModelSource().tokenizer(), 0)
    text = str(ModelSource().tokenizer().decode(plain.prompt, skip_special_tokens=True))
    assert text.endswith(f"Assistant: A grey drum, softly.\n\nUser: {ASK}\n\nAssistant:")
    with pytest.raises(TooLongError, match=r"row 2 of mrcr has .* does not cut conversations"):
        task.example(Cell(1100), 0, tokenizer, 0)


@pytest.mark.parametrize("content", [None, 3, {"a": "b"}, [], [{"type": "image"}], [{"text": "a"}, {"text": "b"}]])
def test_a_message_that_is_no_text_is_no_conversation(content: Any) -> None:
    asked, said = {"role": "user", "content": "Write."}, {"role": "assistant", "content": content}
    row = {"document": json.dumps([asked, said, asked]), "question": "", "references": ["x"], "n_needles": 2.0}
    Path("mine.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer, task = ModelSource().tokenizer(), load_task("mrcr:data=mine.jsonl,max_new_tokens=4")
    with pytest.raises(RowError, match=r"row 1 of mine\.jsonl is not a conversation"):
        task.example(Cell(500), 0, tokenizer, 0)
    said["content"] = [{"type": "text", "text": "Lamp."}]
    Path("other.jsonl").write_text(json.dumps(row | {"document": json.dumps([asked, said, asked])}) + "\n")
    example = load_task("mrcr:data=other.jsonl,max_new_tokens=4").example(Cell(500), 0, tokenizer, 0)
    assert "Assistant: Lamp.\n" in str(tokenizer.decode(example.prompt))


def test_a_template_that_wants_turns_to_alternate_gets_the_opening_as_one() -> None:
    prepare(MRCR)
    tokenizer = talking(STRICT)
    text = str(tokenizer.decode(load_task("mrcr/2needle").example(Cell(9000), 0, tokenizer, 0).prompt))
    opening = f"[user]{CONVERSATION[0]['content']}\n{CONVERSATION[1]['content']}[assistant]Rain is a thread.[user]"
    assert opening in text


def test_mrcr_v2_is_a_file_of_ones_own() -> None:
    text = "User: Write a poem.\n\nAssistant: Lamp on water.\n\nUser: Prepend Qx7aBc9ZkTp4 to it.\n\nAssistant:"
    Path("eight.csv").write_text(f'queries,answer,context_len\n"{text}",Qx7aBc9ZkTp4Lamp on water.,40\n')
    task = load_task("mrcr/v2:data=eight.csv")
    example = task.example(Cell(3000), 0, ModelSource().tokenizer(), 0)
    assert ModelSource().tokenizer().decode(example.prompt, skip_special_tokens=True).strip() == text
    assert task.score(example, "Here: Qx7aBc9ZkTp4Lamp on water.")["score"] == 100.0


def test_it_runs() -> None:
    done = cli("run", "mrcr", "--seq-len", "1500", "--samples", "1", "--output", "run")
    assert done.code == 0, done.err
    (record,) = records_of(Path("run")).values()
    assert record["scorer"] == "mrcr/openai_grade" and len(record["references"]) == 2
