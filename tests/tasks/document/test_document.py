"""Questions about documents: prompts to the token, what is cut and what never is, and tasks that are a file of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.engine import steered
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from lcbench.tasks.document import shorten
from tests.helpers import cli, fields_of
from tests.tasks.document.tasks import ROWS, STORY, YAML, task, text_of
from tests.tokenizers import STYLES, build


def test_a_prompt_that_fits_is_the_template_filled_in(tokenizer: PreTrainedTokenizerBase) -> None:
    example = task().example(Cell(8000), 0, tokenizer, 0)
    assert text_of(example, tokenizer).strip() == f"{STORY}\n\nQuestion: What is the code? (7)\nAnswer:"
    assert example.references == ("1000", "1001") and example.max_new_tokens == 8
    assert example.details["cut_tokens"] == 0 and example.details["row"] == "7"
    assert example.prompt.count(tokenizer.bos_token_id) == 1 and example.prompt[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("side", ["left", "middle", "right"])
def test_only_the_document_is_shortened_and_the_length_is_exact(style: str, side: str) -> None:
    tokenizer = build(style)
    example = task(f"truncate: {side}\n").example(Cell(400), 0, tokenizer, 0)
    whole = task(f"truncate: {side}\n").example(Cell(100_000), 0, tokenizer, 0)
    assert len(example.prompt) + 8 == 400
    assert (example.head, example.tail) == (whole.head, whole.tail)
    assert "Question: What is the code? (7)\nAnswer:" in text_of(example, tokenizer)
    assert example.details["cut_tokens"] == len(whole.context) - len(example.context) > 0
    room = len(example.context)
    assert (
        example.context
        == {
            "left": whole.context[-room:],
            "right": whole.context[:room],
            "middle": whole.context[: room - room // 2] + whole.context[-(room // 2) :],
        }[side]
    )


def test_shorten() -> None:
    assert shorten([1, 2, 3], 3, "left") == shorten([1, 2, 3], 9, "middle") == [1, 2, 3]
    assert [shorten([1, 2, 3, 4, 5], 3, side) for side in ("left", "middle", "right")] == [
        [3, 4, 5],
        [1, 2, 5],
        [1, 2, 3],
    ]
    assert [shorten([1, 2], 0, side) for side in ("left", "middle", "right")] == [[], [], []]


def test_a_space_before_the_document_goes_with_it(tokenizer: PreTrainedTokenizerBase) -> None:
    spaced = task(of=YAML.replace('"{{ document }}', '"The text: {{ document }}'))
    example = spaced.example(Cell(8000), 2, tokenizer, 0)
    assert str(tokenizer.decode(example.head, skip_special_tokens=True)).strip() == "The text:"
    expected = tokenizer("The text: " + ROWS[2]["story"] + "\n\nQuestion: When? (9)\nAnswer:").input_ids
    assert example.prompt == expected  # as the tokenizer itself cuts the whole text


def test_too_short_for_the_question(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"does not fit into 20 tokens: sample 0 needs (\d+)") as error:
        task().example(Cell(20), 0, tokenizer, 0)
    needed = int(str(error.value).split("sample 0 needs ")[1].split()[0])
    assert len(task().example(Cell(needed), 0, tokenizer, 0).context) == 1
    with pytest.raises(UserError):
        task().example(Cell(needed - 1), 0, tokenizer, 0)


CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT


def chat(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    import copy

    talking = copy.deepcopy(tokenizer)
    talking.chat_template = template
    return talking


@pytest.mark.parametrize("template", [CHAT, NO_SYSTEM])
def test_chat_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    talking = chat(tokenizer, template)
    mine = task("chat: true\nsystem: Be short.\n")
    example = mine.example(Cell(400), 0, talking, 0)
    text = text_of(example, talking)
    assert len(example.prompt) + 8 == 400 and example.prompt.count(tokenizer.bos_token_id) == 1
    start = "<system>Be short.<user>The code" if template == CHAT else "<user>Be short.\n\nThe code"
    assert text.strip().startswith(start) and text.endswith("Question: What is the code? (7)\nAnswer:<assistant>")
    with pytest.raises(UserError, match="this tokenizer has none"):
        mine.example(Cell(400), 0, tokenizer, 0)


def test_protocols(tokenizer: PreTrainedTokenizerBase) -> None:
    more = "protocol: a\nprotocols: {a: {max_new_tokens: 5}, b: {prompt: 'B {{ question }}', truncate: left}}\n"
    assert task(more).example(Cell(400), 0, tokenizer, 0).max_new_tokens == 5
    other = task(more, options=":protocol=b").example(Cell(400), 0, tokenizer, 0)
    assert text_of(other, tokenizer).strip() == "B What is the code?" and other.max_new_tokens == 8
    with pytest.raises(UserError, match=r"unknown protocol of mine:protocol=c"):
        task(more, options=":protocol=c")
    with pytest.raises(UserError, match="unknown option of protocol a of mine"):
        task("protocol: a\nprotocols: {a: {data: x}}\n")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("scorer: rogue\n", "unknown scorer of mine: 'rogue'"),
        ("answer: '('\n", "is not a regular expression"),
        ("max_new_tokens: 0\n", "max_new_tokens must be at least 1"),
        ("columns: {document: strory}\n", "unknown column in row 1 of rows.jsonl: 'strory'"),
        ("columns: {story: document}\n", "unknown entry of `columns`: 'story'"),
        ("prompt: '{{ document'\n", "mine: "),
        ("prompt: '{{ nothing }}'\n", "'nothing' is undefined"),
        ("prompt: '{{ document }} {{ document }}'\n", "has its document 2 times"),
        ("data: gone.jsonl\n", "there is no file gone.jsonl"),
        ("data: scrolls/qmsum\ncolumns: {}\n", "run `lcbench data prepare scrolls/qmsum`"),
        ("truncate: top\n", "truncate must be left or middle or right"),
    ],
)
def test_what_a_user_gets_wrong(more: str, sentence: str) -> None:
    keys = {line.split(":")[0] for line in more.splitlines()}
    kept = "\n".join(line for line in YAML.splitlines() if line.split(":")[0] not in keys) + "\n"
    Path("mine.yaml").write_text(kept + more)
    done = cli("run", "mine.yaml", "--seq-len", "2k")
    assert done.code == 2 and sentence in done.error, done.error
    assert done.error.count("\n") == 0


def run_with(texts: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict[str, Any]]:
    """A run whose model says what it is told to, so that everything behind it can be seen."""
    from lcbench.engine.generate import Generation, Prompt

    tokenizer, count = ModelSource().tokenizer(), iter(range(1000))

    def said(prompt: Prompt) -> Generation:
        tokens: list[int] = []
        for token in tokenizer(texts(next(count)), add_special_tokens=False).input_ids[: prompt.max_new_tokens]:
            tokens.append(token)
            if prompt.watch(tokens):
                break
        return Generation(tokens, 0, 0.1, 0.1)

    monkeypatch.setattr(steered, "generate_together", lambda model, prompts, *_: list(map(said, prompts)))
    done = cli("run", *arguments, "--output", "run")
    assert done.code == 0, done.err
    return sorted(fields_of(Path("run")), key=lambda record: int(record["sample"]))


def test_stop_strings_and_what_is_scored_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(
        YAML.replace("max_new_tokens: 8", "max_new_tokens: 60") + "stop: [\"\\nQ:\", END]\nanswer: 'is (.*)'\n"
    )
    said = [" It is late. END of it", " It is the sky\nQ: and more", " no"]
    first, second, third = run_with(lambda n: said[n], monkeypatch, "mine.yaml", "--seq-len", "2k")
    by_row = {record["details"]["row"]: record for record in (first, second, third)}
    assert {record["prediction"] for record in by_row.values()} == {" It is late. ", " It is the sky", " no"}
    for record in by_row.values():
        found = {" It is late. ": "late. ", " It is the sky": "the sky", " no": ""}[record["prediction"]]
        assert record["answer"] == found and record["scorer"] == "f1" and record["metric"] == "score"
        assert record["scores"]["score"] == (100.0 if found.strip(". ") in record["references"] else 0.0)
        assert record["output_tokens"] < 40  # generation ended at the stop string
    rescored = cli("rescore", "run", "--task", "mine.yaml")
    assert rescored.code == 0 and "0 of 3 scores changed" in rescored.out


def test_a_second_question(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(YAML + 'follow_up: "In fact, {{ question }}"\nanswers: "{0} [fact: {1}]"\n')
    records = run_with(lambda n: ("one", "two")[n % 2], monkeypatch, "mine.yaml", "--seq-len", "2k", "--samples", "1")
    assert records[0]["prediction"] == "one [fact: two]"


def test_the_embedded_model_answers_for_real() -> None:
    Path("mine.yaml").write_text(
        YAML.replace("Question: {{ question }} ({{ number }})\\nAnswer:", " The code of Mara is")
    )
    done = cli("run", "mine.yaml", "--method", "vanilla,dca", "--seq-len", "512", "--output", "run")
    assert done.code == 0, done.err
    records = fields_of(Path("run"))
    assert len(records) == 6 and all(record["prompt_tokens"] + 8 <= 512 for record in records)
    assert sum(record["cost"]["reused_tokens"] for record in records) > 0


def test_like(tokenizer: PreTrainedTokenizerBase) -> None:
    task()
    other = task(of="like: mine.yaml\nmax_new_tokens: 3\n", name="other.yaml")
    assert other.name == "other" and other.example(Cell(400), 0, tokenizer, 0).max_new_tokens == 3
    Path("a.yaml").write_text("like: b.yaml\n")
    Path("b.yaml").write_text("like: a.yaml\n")
    with pytest.raises(UserError, match="which is like it in turn"):
        load_task("a.yaml")


def test_an_answer_pattern_without_end_is_ended() -> None:
    endless = task("answer: '(a|aa)+$'\n")
    assert endless.extract("aaa") == "a"
    with pytest.raises(UserError, match=r"mine: `answer` takes more than 2 seconds to search 61 characters"):
        endless.extract("a" * 60 + "b")


def test_newer_options_leave_the_identity_of_older_runs_alone() -> None:
    options = task().options()
    assert not {"only", "groups", "follow_up_tokens"} & options.keys() and options["truncate"] == "right"
    assert task("groups: [number]\n").options()["groups"] == ("number",)


def test_a_second_prompt_may_have_the_first_answer_in_it(tmp_path: Path) -> None:
    more = "follow_up: 'Said: {{ answer }} Again: {{ question }}'\nfollow_up_tokens: 3\nanswers: '{0}|{1}'\n"
    example = task(more).example(Cell(400), 2, ModelSource().tokenizer(), 0)
    assert example.follow_up == [] and example.follow_up_of is not None and example.follow_up_tokens == 3
    second = str(ModelSource().tokenizer().decode(example.follow_up_of("{{ 7 }}"), skip_special_tokens=True))
    assert second.strip() == "Said: {{ 7 }} Again: When?"
    Path("mine.yaml").write_text(YAML + more)
    assert cli("run", "./mine.yaml", "--seq-len", "400", "--output", tmp_path / "run").code == 0
    for record in fields_of(tmp_path / "run"):
        first, _, second = record["prediction"].partition("|")
        assert first and second and record["output_tokens"] <= 8 + 3
