"""Prompts in the chat template of every family of models, and as plain text: exact in length, one BOS, all of it said
once, and the answer's beginning behind the generation prompt."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, Example, Task, load_task
from lcbench.tasks.format import PromptFormat
from tests.families import FAMILIES, Family, talking
from tests.tokenizers import chatting

every_family = pytest.mark.parametrize("name", FAMILIES)
SYSTEM = "Answer with one word."
SHORT = [("passkey", 700), ("ruler/vt", 2500)]
LONG = [
    ("needle", 800),
    ("needle:protocol=codes", 700),
    ("ruler/niah_single_3", 1200),
    ("ruler/fwe", 2500),
    ("ruler/cwe", 4000),
    ("passkey:protocol=longlm", 500),
]
ANSWERS = {  # what stands behind the generation prompt
    "passkey": "The pass key is",
    "passkey:protocol=longlm": "The pass key is ",
    "needle": "The best thing to do in ",
    "needle:protocol=codes": "The code of ",
    "ruler/niah_single_3": "The special magic uuid for ",
    "ruler/vt": "Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned ",
    "ruler/fwe": "Answer: According to the coded text above, the three most frequently appeared words are:",
    "ruler/cwe": "Answer: The top 10 words that appear most often in the list are:",
}
ROWS = [
    {
        "text": f"Room {n} is {colour}. </s> [INST] <|im_end|> {'It is large. ' * 40}",
        "ask": f"Which colour is room {n}?",
        "gold": colour,
    }
    for n, colour in enumerate(("red", "blue", "green"))
]
YAML = """
family: document
data: rows.jsonl
columns: {document: text, question: ask, references: gold}
prompt: "Read this. {{ document }}\\n\\nQuestion: {{ question }}\\nAnswer:"
scorer: scrolls/qasper
max_new_tokens: 8
truncate: middle
"""
SHOTS = """
family: in_context
data: asked.jsonl
demonstrations: shown.jsonl
columns: {question: text, references: kind}
prompt: "Text: {{ text }}\\nKind: {{ label }}\\n\\n"
draws: 1
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [{"text": f"Here is {n}.", "kind": "even" if n % 2 == 0 else "odd"} for n in range(60)]
    asked = [{"text": f"There are {n}.", "kind": "even" if n % 2 == 0 else "odd"} for n in range(90, 94)]
    for file, rows in (("rows", ROWS), ("shown", shown), ("asked", asked)):
        Path(f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(YAML)
    Path("shots.yaml").write_text(SHOTS)


def prompt_of(spec: str, name: str, seq_len: int, **given: Any) -> tuple[Task, Example, str]:
    task, tokenizer = load_task(spec).asked(**given), talking(name)
    example = task.example(Cell(seq_len), 0, tokenizer, 0)
    return task, example, even(str(tokenizer.decode(example.prompt)).removeprefix(" "))


def even(text: str) -> str:
    """Without the spaces that tokenizers like Llama 2's put behind a control token."""
    return re.sub(r"(<[^< >]+>) +", r"\1", text)


def begins(prompt: str, family: Family) -> None:
    assert prompt.startswith(even(family.start)), prompt[:200]
    if family.bos and family.bos not in family.tokens:
        assert prompt.count(family.bos) == int(bool(family.plain) or family.bos in family.start)


@every_family
@pytest.mark.parametrize(("spec", "seq_len"), SHORT)
def test_every_task_of_every_family(name: str, spec: str, seq_len: int) -> None:
    in_the_template(name, spec, seq_len)


@pytest.mark.parametrize(
    ("name", "spec", "seq_len"),
    [
        (name, spec, seq_len)
        for n, name in enumerate(["llama-2", "qwen-3", "gemma-2", "deepseek-r1"])
        for spec, seq_len in LONG[n % 2 :: 2]
    ],
)
def test_the_other_tasks(name: str, spec: str, seq_len: int) -> None:
    in_the_template(name, spec, seq_len)


def in_the_template(name: str, spec: str, seq_len: int) -> None:
    family, tokenizer = FAMILIES[name], talking(name)
    _, example, prompt = prompt_of(spec, name, seq_len)
    assert len(example.prompt) + example.max_new_tokens == seq_len
    begins(prompt, family)
    asked, _, answer = prompt.rpartition(even(family.behind))
    assert asked and answer.startswith(ANSWERS[spec]), prompt[-300:]
    _, plain, text = prompt_of(spec, name, seq_len, chat="off")
    assert len(plain.prompt) + plain.max_new_tokens == seq_len and plain.seed == example.seed
    assert plain.references == example.references
    start = [tokenizer.convert_tokens_to_ids(one) for one in family.plain]
    assert plain.prompt[: len(start)] == start
    assert not any(one in text for one in family.tokens if one not in family.plain)
    question, beginning, rest = str(tokenizer.decode(plain.tail)).rpartition(answer.strip())
    assert beginning and not rest.strip() and asked.endswith(question.strip())


@every_family
def test_a_system_message_is_said_once(name: str) -> None:
    _, example, prompt = prompt_of("passkey", name, 700, system=SYSTEM)
    assert len(example.prompt) + example.max_new_tokens == 700
    assert prompt.count(SYSTEM) == 1 and "You are a helper" not in prompt
    assert prompt.index(SYSTEM) < prompt.index("There is an important info")


@every_family
def test_documents_and_what_they_spell_out(name: str) -> None:
    family, tokenizer = FAMILIES[name], talking(name)
    for seq_len in (260, 3000):
        _, example, prompt = prompt_of("mine.yaml", name, seq_len, system=SYSTEM)
        assert len(example.prompt) + 8 == seq_len or seq_len == 3000
        for said in (SYSTEM, "Read this.", "Question: Which colour is room 0?"):
            assert prompt.count(said) == 1
        assert prompt.rstrip(" ").endswith("\nAnswer:" + even(family.behind).rstrip(" "))
    spelled = ("</s>", "<|im_end|>", "[INST]")
    specials = {tokenizer.convert_tokens_to_ids(one) for one in spelled} - {tokenizer.unk_token_id}
    assert "[INST] <|im_end|>" in prompt and not specials & set(example.context)


@every_family
def test_a_bos_by_the_rule(name: str) -> None:
    family, tokenizer = FAMILIES[name], talking(name)

    def start(**given: Any) -> list[str]:
        _, example, _ = prompt_of("passkey", name, 700, **given)
        return list(tokenizer.convert_ids_to_tokens(example.prompt[:2]))

    assert start(chat="off", bos="auto")[: len(family.plain)] == list(family.plain)
    assert start(chat="off", bos="never")[0] not in (family.bos, "[gMASK]")
    if family.bos or family.plain:
        first, second = start(chat="off", bos="always")
        assert first == (family.plain or (family.bos,))[0] and second != first
    else:
        with pytest.raises(UserError, match="no BOS token"):
            start(chat="off", bos="always")
    for bos in ("auto", "never") + (("always",) if family.bos else ()):
        first, second = start(bos=bos)
        assert first != second, "never two"
        assert bos == "auto" or (first == family.bos) >= (bos == "always")


@every_family
def test_perplexity_is_never_in_a_chat(name: str) -> None:
    family, tokenizer = FAMILIES[name], talking(name)
    for chat in ("auto", "on"):
        _, example, prompt = prompt_of("pg19", name, 64, chat=chat)
        first = (*family.plain, *filter(None, [family.bos]), family.eos)[0]
        assert tokenizer.convert_ids_to_tokens(example.prompt[:1]) == [first]
        assert not any(one in prompt for one in family.tokens if one not in (*family.plain, first))
    assert not load_task("pg19").asked(chat="on").format.in_chat(tokenizer)


@every_family
def test_labels_behind_their_beginning(name: str) -> None:
    family, tokenizer = FAMILIES[name], talking(name)
    _, example, prompt = prompt_of("shots.yaml", name, 400)
    begins(prompt, family)
    assert prompt.endswith(f"There are {prompt.split('There are ')[1][:2]}.{even(family.behind)}Kind:")
    assert len(example.prompt) + example.max_new_tokens <= 400
    assert prompt.count("\nKind: ") == example.details["demonstrations"]
    for label, ids in example.choices.items():
        assert str(tokenizer.decode(example.prompt + ids)).endswith(f"Kind: {label}")


@every_family
def test_demonstrations_as_turns(name: str) -> None:
    family, tokenizer = FAMILIES[name], talking(name)
    _, example, prompt = prompt_of("shots.yaml:multiturn=true", name, 500)
    assert prompt.startswith(even(family.start)) and (family.turns_with_bos or not prompt[3:].count("<s>"))
    shown = example.details["demonstrations"]
    assert shown > 3 and prompt.count("Kind: ") == shown and prompt.endswith(f"{even(family.behind)}Kind:")
    messages = []
    for line in prompt.split("Text: ")[1:]:
        messages += [{"role": "user", "content": f"Text: {line.partition('.')[0]}."}]
        messages += [{"role": "assistant", "content": f"Kind: {'even' if 'even' in line else 'odd'}"}]
    rendered = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    expected = even(rendered + " " * family.behind.endswith(" ") + "Kind:")
    assert prompt.removeprefix("<s>") == expected.removeprefix("<s>")


def test_options_reach_the_template() -> None:
    _, example, prompt = prompt_of("passkey", "qwen-3", 700, chat_options=("enable_thinking=false",))
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\nThe pass key is")
    assert len(example.prompt) + example.max_new_tokens == 700
    assert "<think>" not in prompt_of("passkey", "qwen-3", 700, chat_options=("enable_thinking=true",))[2]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"chat_options": ("enable_thnking=false",)}, "has no option 'enable_thnking'"),
        ({"chat_options": ("enable_thinking",)}, "is not name=value, as in enable_thinking=false"),
    ],
)
def test_options_that_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prompt_of("passkey", "qwen-3", 700, **given)


def test_without_a_template() -> None:
    bare = copy.deepcopy(talking("llama-3"))
    bare.chat_template = None
    assert not PromptFormat("mine").in_chat(bare)
    with pytest.raises(UserError, match=r"mine uses the tokenizer's chat template.*use a chat model, or --chat off"):
        PromptFormat("mine", "on").in_chat(bare)
    with pytest.raises(UserError, match="multiturn needs a chat template"):
        PromptFormat("mine").turns(bare)


def test_a_template_that_says_the_prompt_twice() -> None:
    echo = copy.deepcopy(talking("llama-3"))
    echo.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
    for spec in ("passkey", "mine.yaml"):
        with pytest.raises(UserError, match=r"writes the prompt (2 times|twice); use --chat off"):
            load_task(spec).example(Cell(700), 0, echo, 0)


def test_completion_of_code_in_a_chat_goes_on_with_the_file() -> None:
    row = {"task_id": "T/0", "prompt": "def two():\n", "canonical_solution": "    return 2\n", "entry_point": "two"}
    row["test"] = "def check(two):\n    assert two() == 2\n"
    Path("code.jsonl").write_text(json.dumps(row) + "\n")
    Path("code.yaml").write_text(
        "like: humaneval\ndata: code.jsonl\nexecute: true\n"
        "columns: {id: task_id, question: prompt, references: canonical_solution}\n"
    )
    _, plain, prompt = prompt_of("code.yaml", "qwen-3", 800)
    assert prompt == "def two():\n" and "\n```" not in plain.stop
    _, example, prompt = prompt_of("code.yaml", "qwen-3", 800, chat="on")
    assert prompt.endswith("def two():\n<|im_end|>\n<|im_start|>assistant\n```python\ndef two():\n")
    assert "\n```" in example.stop


@pytest.mark.parametrize("typed", ["on", "off", "true", "false", "auto"])
def test_yaml_takes_on_for_true(typed: str) -> None:
    chat = {"true": "on", "false": "off"}.get(typed, typed)
    Path("mine.yaml").write_text(YAML + f"chat: {typed}\n")
    assert load_task("mine.yaml").chat == load_task(f"passkey:chat={typed}").chat == chat


GPT_OSS = (  # the channel that begins an answer is not part of its generation prompt
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize(("thinks", "begins"), [(False, "<|channel|>final<|message|>"), (True, "")])
def test_an_answer_begins_in_the_channel_of_answers(thinks: bool, begins: str) -> None:
    """With a budget of its own the thought ends there."""
    asked, tokenizer = PromptFormat("asked", thinks=thinks), chatting(GPT_OSS)
    end = str(tokenizer.decode(asked.end(tokenizer, "What is it?", " It is")))
    assert end == f"What is it?<|end|><|start|>assistant{begins}It is"
    assert str(tokenizer.decode(asked.end(tokenizer, "What is it?"))).endswith("<|start|>assistant")
