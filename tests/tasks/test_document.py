"""Questions about documents: prompts to the token, what is cut and what never is, and tasks that are a file of data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import TooLongError, UserError
from lcbench.engine import steered
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, Task, load_task, task_files
from lcbench.tasks.document import shorten
from tests.helpers import cli, fields_of
from tests.tokenizers import STYLES, build

STORY = " ".join(f"The code of Mara is {n}. The sky is blue." for n in range(1000, 1060))
ROWS: list[dict[str, Any]] = [
    {"story": STORY, "ask": "What is the code?", "gold": ["1000", "1001"], "number": 7},
    {"story": STORY, "ask": "What is blue?", "gold": "the sky", "number": 8},
    {"story": ("It was late. " * 5).strip(), "ask": "When?", "gold": "late", "number": 9},
]
YAML = """
family: document
data: rows.jsonl
columns: {document: story, question: ask, references: gold, id: number}
prompt: "{{ document }}\\n\\nQuestion: {{ question }} ({{ number }})\\nAnswer:"
scorer: f1
max_new_tokens: 8
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return ModelSource().tokenizer()


def task(more: str = "", of: str = YAML, name: str = "mine.yaml", options: str = "") -> Task:
    Path(name).write_text(of + more)
    return load_task(name + options)


def text_of(example: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True))


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


def test_questions_on_one_document_belong_together(tokenizer: PreTrainedTokenizerBase) -> None:
    mine = task()
    keys = [mine.shares(Cell(400), sample) for sample in range(3)]
    assert keys[0] == keys[1] != keys[2]
    assert mine.available(tokenizer) == 3


def test_too_short_for_the_question(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"does not fit into 20 tokens: sample 0 needs (\d+)") as error:
        task().example(Cell(20), 0, tokenizer, 0)
    needed = int(str(error.value).split("sample 0 needs ")[1].split()[0])
    assert len(task().example(Cell(needed), 0, tokenizer, 0).context) == 1
    with pytest.raises(UserError):
        task().example(Cell(needed - 1), 0, tokenizer, 0)


SHOTS = YAML.replace(
    'prompt: "{{ document }}',
    'prompt: "{{ document }}{% for shot in shots %}\\nQ: {{ shot.question }} A: {{ shot.answer }}{% endfor %}',
)


def test_demonstrations_by_seed(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"story": "", "ask": f"ask {n}", "gold": f"gold {n}", "number": n} for n in range(30)]
    Path("rows.jsonl").write_text("".join(json.dumps({**row, "story": "A text."}) + "\n" for row in rows))
    few = task("shots: 3\nshots_split: validation\n", SHOTS)

    def drawn(sample: int, seed: int = 0, length: int = 4000) -> list[str]:
        example = few.example(Cell(length), sample, tokenizer, seed)
        text, shots = text_of(example, tokenizer), list(example.details["shots"])
        assert [f"Q: ask {n} A: gold {n}" in text for n in shots] == [True] * 3
        assert text.count("Q: ") == 3
        return shots

    assert drawn(0) == drawn(0) == drawn(0, length=2000)
    assert drawn(0) != drawn(0, seed=1) and drawn(0) != drawn(1)
    for sample in range(30):
        assert str(sample) not in drawn(sample), "a row does not demonstrate itself"
    with pytest.raises(UserError, match="not enough for 40 shots"):
        task("shots: 40\nshots_split: validation\n", SHOTS).example(Cell(4000), 0, tokenizer, 0)


def chat(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    import copy

    talking = copy.deepcopy(tokenizer)
    talking.chat_template = template
    return talking


CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT


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
        ("answer: '('\n", "is no regular expression"),
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


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_the_same_rows_in_other_formats(suffix: str, tokenizer: PreTrainedTokenizerBase) -> None:
    expected = [task().example(Cell(600), sample, tokenizer, 0) for sample in range(3)]
    rows = [{**row, "gold": row["gold"] if isinstance(row["gold"], list) else [row["gold"]]} for row in ROWS]
    path = Path(f"rows.{suffix}")
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "gold": json.dumps(row["gold"])} for row in rows)
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    other = task(of=YAML.replace("rows.jsonl", path.name), name="other.yaml")
    for sample, example in enumerate(expected):
        found = other.example(Cell(600), sample, tokenizer, 0)
        assert (found.prompt, found.references) == (example.prompt, example.references)


def test_data_beside_the_yaml_file(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there").mkdir()
    Path("rows.jsonl").rename("there/rows.jsonl")
    assert task(name="there/mine.yaml").available(tokenizer) == 3


def test_like(tokenizer: PreTrainedTokenizerBase) -> None:
    task()
    other = task(of="like: mine.yaml\nmax_new_tokens: 3\n", name="other.yaml")
    assert other.name == "other" and other.example(Cell(400), 0, tokenizer, 0).max_new_tokens == 3
    Path("a.yaml").write_text("like: b.yaml\n")
    Path("b.yaml").write_text("like: a.yaml\n")
    with pytest.raises(UserError, match="which is like it in turn"):
        load_task("a.yaml")


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


def test_an_answer_pattern_without_end_is_ended() -> None:
    endless = task("answer: '(a|aa)+$'\n")
    assert endless.extract("aaa") == "a"
    with pytest.raises(UserError, match=r"mine: `answer` takes more than 2 seconds to search 61 characters"):
        endless.extract("a" * 60 + "b")


def test_only_some_rows_are_asked_and_their_groups_are_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    some = task("only: [number=9]\ngroups: [number]\n")
    example = some.example(Cell(8000), 0, tokenizer, 0)
    assert some.available(tokenizer) == 1 and example.references == ("late",)
    assert example.details["groups"] == {"number": "9"}
    with pytest.raises(UserError, match=r"has no row with number: 1; name other values"):
        task("only: [number=1]\n").require_data()
    with pytest.raises(UserError, match=r"unknown column of .* in `only`: 'numbers'; did you mean 'number'"):
        task("only: [numbers=1]\n").require_data()
    with pytest.raises(UserError, match=r"only='number' is not column=value"):
        task("only: [number]\n").require_data()
    assert task(options=":only=[number=8]").available(tokenizer) == 1
    with pytest.raises(UserError, match="in `groups`: 'kind'"):
        task("groups: [kind]\n").example(Cell(8000), 0, tokenizer, 0)


@pytest.mark.parametrize(
    ("value", "group", "classes"),
    [
        (None, {}, "row 1 of rows.jsonl (validation) has no classes in `kind`."),
        (float("nan"), {}, "row 1 of rows.jsonl (validation) has no classes in `kind`."),
        (2.0, {"kind": "2"}, ["2"]),
        ("easy", {"kind": "easy"}, ["easy"]),
        (["a", "b"], "`kind` of row 1 of rows.jsonl (validation) is a list (['a', 'b']),", ["a", "b"]),
        (
            {"a": 1},
            "`kind` of row 1 of rows.jsonl (validation) is a mapping",
            "`kind` of row 1 of rows.jsonl (validati",
        ),
    ],
)
def test_groups_and_classes_are_texts(value: Any, group: Any, classes: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    Path("rows.jsonl").write_text(json.dumps(ROWS[2] | {"kind": value}) + "\n")
    for option, expected in (("groups: [kind]", group), ("classes: kind\nscorer: longbench/trec", classes)):
        asked = task(option + "\n", of=YAML.replace("scorer: f1\n", "" if "scorer" in option else "scorer: f1\n"))
        if isinstance(expected, str):
            assert asked.problems(1, 0)[0].startswith(expected)
        else:
            assert asked.example(Cell(8000), 0, tokenizer, 0).details[option.partition(":")[0]] == expected
            assert not asked.problems(1, 0)


def test_a_document_that_is_never_cut_fits_or_is_not_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = task("truncate: never\n")
    assert whole.example(Cell(8000), 0, tokenizer, 0).details["cut_tokens"] == 0
    with pytest.raises(TooLongError, match=r"row 2 of rows.jsonl .* asks whole documents only"):
        whole.example(Cell(300), 1, tokenizer, 0)
    assert len(whole.example(Cell(300), 2, tokenizer, 0).context) > 0


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
