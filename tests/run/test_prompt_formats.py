"""The format of prompts in runs: what changes a run's identity and what does not, and where it is told."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from lcbench.engine.models import ModelSource
from lcbench.results.records import read_manifest
from lcbench.tasks import load_task
from lcbench.tasks.base import Cell
from tests.helpers import REPOSITORY, TINY, cli, fields_of, model_folder
from tests.tasks.test_format import SHOTS, YAML

BASELINE = REPOSITORY / "results" / "baselines" / "smoke"
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PASSKEY = ("run", "passkey", "--seq-len", "256", "--samples", "2")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def chat_model() -> Path:
    """The embedded model with a chat template, which its answers are none the better for."""
    folder = model_folder(Path("chatty"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHAT}))
    return folder


@pytest.mark.skipif(not BASELINE.exists(), reason="baselines are in the repository only")
def test_runs_from_before_are_the_same_runs() -> None:
    """Prompts of a run that was made before formats could be chosen; nothing is added to what identifies it."""
    tokenizer = ModelSource().tokenizer()
    longest_first = sorted(fields_of(BASELINE), key=lambda record: -record["seq_len"])
    for known in {record["task"]: record for record in longest_first}.values():
        task = load_task(known["task"])
        prompt = task.example(Cell(known["seq_len"], known["cell_depth"]), known["sample"], tokenizer, 0).prompt
        assert hashlib.sha256(struct.pack(f"<{len(prompt)}q", *prompt)).hexdigest() == known["prompt_sha256"]
        assert not {"prompt_format", "chat", "bos", "system"} & task.identity(tokenizer).keys()


@pytest.mark.parametrize("text", [YAML, SHOTS])
def test_families_with_a_chat_of_their_own(text: str) -> None:
    """What these families say of themselves is what it was, with and without a chat."""
    Path("mine.yaml").write_text(text)
    plain, chat = load_task("mine.yaml"), load_task("mine.yaml").asked(chat="on")
    embedded, other = ModelSource().tokenizer(), ModelSource().tokenizer()
    other.chat_template = CHAT
    assert "prompt_format" not in plain.identity(embedded) and "multiturn" not in plain.identity(embedded)
    assert plain.identity(other)["prompt_format"] == {"chat": True}
    if text is YAML:
        assert (plain.identity(embedded)["chat"], plain.identity(embedded)["system"]) == (False, "")
        assert chat.identity(other)["chat"] is True and "prompt_format" not in chat.identity(other)


def test_what_changes_a_run() -> None:
    task = load_task("passkey")
    tokenizer = ModelSource().tokenizer()
    assert task.identity(tokenizer) == task.asked(bos="always").identity(tokenizer)
    assert task.asked(bos="never").identity(tokenizer)["prompt_format"] == {"bos": []}
    tokenizer.chat_template = CHAT
    said = task.asked(system="Be brief.", bos="never", chat_options=("role=1",)).identity(tokenizer)
    assert said["prompt_format"] == {"chat": True, "bos": "never", "system": "Be brief.", "chat_options": ["role=1"]}
    assert "prompt_format" not in task.asked(chat="off", system="unused").identity(tokenizer)
    one, other = (task.asked(chat=chat).example(Cell(256), 0, tokenizer, 0) for chat in ("on", "off"))
    assert one.seed == other.seed and one.references == other.references, "the same samples, whatever the format"


def test_a_run_in_the_chat_template(chat_model: Path) -> None:
    done = cli(*PASSKEY, "--model", chat_model, "--output", "chat")
    assert done.code == 0, done.err
    assert "uses the model's chat template; --chat off sends plain text" in done.err
    assert "in the chat template" in done.out
    for record in fields_of(Path("chat")):
        assert record["chat"] is True and record["prompt_tokens"] + record["max_new_tokens"] == 256
        assert record["excerpt"][0].startswith("<|endoftext|><user>There is an important info")
        assert record["excerpt"][-1].endswith("What is the pass key?</user>\n<assistant>The pass key is")
    assert read_manifest(Path("chat")).identity.tasks[0].prompt_format == {"chat": True}
    plain = cli(*PASSKEY, "--model", chat_model, "--chat", "off", "--output", "plain")
    assert plain.code == 0 and "chat template" not in plain.out + plain.err
    assert {record["chat"] for record in fields_of(Path("plain"))} == {False}
    again = cli(*PASSKEY, "--model", chat_model, "--chat", "off", "--output", "chat")
    assert again.code == 2, "another format is another run"
    both = cli("table", "chat", "plain")
    assert "in the chat template: chat" in " ".join(both.out.split())


def test_dry_runs_and_single_prompts_tell(chat_model: Path) -> None:
    dry = cli(*PASSKEY, "--model", chat_model, "--dry-run")
    assert "2 samples  in the chat template" in dry.out
    shown = cli("show", "passkey", "--seq-len", "256", "--model", chat_model, "--system", "Be brief.")
    assert shown.out.startswith("<|endoftext|><system>Be brief.</system>\n<user>There is")
    assert shown.out.rstrip().endswith("</user>\n<assistant>The pass key is") and ", in the chat template" in shown.err
    bare = cli("show", "passkey", "--seq-len", "256", "--model", chat_model, "--chat", "off", "--bos", "never")
    assert bare.out.startswith("There is") and "chat" not in bare.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--chat", "on"), "use a chat model, or --chat off."),
        (("--apply-chat-template",), "use a chat model, or --chat off."),
        (("--apply_chat_template",), "use a chat model, or --chat off."),
        (("--fewshot-as-multiturn",), "as in trec:multiturn=true; all others ask in one message."),
        (("--chat", "yes"), "chat must be auto or on or off, not 'yes'."),
        (("--bos", "one"), "bos must be auto or always or never, not 'one'."),
        (
            ("--system", "Be brief."),
            "--system is for prompts in a chat template, and no task here uses one; leave it out.",
        ),
        (("--chat-option", "a=b"), "--chat-option is for prompts in a chat template"),
    ],
)
def test_refusals(options: tuple[str, ...], sentence: str) -> None:
    refused = cli(*PASSKEY, *options)
    assert refused.code == 2 and sentence in refused.error


def test_the_embedded_models_start_with_a_bos_wherever_they_lie() -> None:
    for model in ("lcbench-tiny", "lcbench-tiny-fot", str(TINY)):
        assert ModelSource(model).tokenizer()("The sky").input_ids[0] == 0
