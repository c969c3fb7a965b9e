"""Documents around a question, from files in the formats of SQuAD and HotpotQA that are written here."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.ruler.documents import collection
from tests.helpers import cli, records_of
from tests.tokenizers import STYLES, build

ASK = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
HALLS, ROOMS = 9, 6


def shelf(rng: random.Random) -> str:
    return " ".join(f"Shelf {rng.randrange(999)} holds {rng.randrange(9)} things." for _ in range(rng.randrange(2, 9)))


def paragraph(hall: int, room: int) -> str:
    return f"Room {hall}/{room} was built by Builder{hall}x{room}. {shelf(random.Random(f'{hall}/{room}'))}"


def squad() -> dict[str, Any]:
    def qas(hall: int, room: int) -> list[dict[str, Any]]:
        name = {"text": f"Builder{hall}x{room}", "answer_start": 0}
        right = {"id": f"{hall}{room}", "question": f"Who built room {hall}/{room}?", "answers": [name, name]}
        wrong = {"id": "-", "question": "Why?", "answers": [], "plausible_answers": [name], "is_impossible": True}
        return [wrong, {**right, "is_impossible": False}]

    def article(hall: int) -> dict[str, Any]:
        rooms = [{"context": paragraph(hall, room), "qas": qas(hall, room)} for room in range(ROOMS)]
        return {"title": f"Hall {hall}", "paragraphs": rooms}

    return {"version": "v2.0", "data": [article(hall) for hall in range(HALLS)]}


def hotpotqa() -> list[dict[str, Any]]:
    def asked(number: int) -> dict[str, Any]:
        rng = random.Random(number)
        context = [[f"Title {number}/{k}", [f"Fact {number}/{k}.", f" {shelf(rng)}"]] for k in range(10)]
        facts = [[f"Title {number}/3", 0], [f"Title {number}/7", 0], [f"Title {number}/7", 1]]
        shared = ["Title everywhere", ["The same", " in all."]]
        return {
            "_id": str(number),
            "question": f"Which fact {number}?",
            "answer": f"Fact {number}/7",
            "type": "bridge",
            "level": "hard",
            "supporting_facts": facts,
            "context": [*context, shared],
        }

    return [asked(number) for number in range(12)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {"qa_1": tmp_path / "squad.json", "qa_2": tmp_path / "hotpot.json"}
    for path, content in zip(paths.values(), (squad(), hotpotqa()), strict=True):
        path.write_text(json.dumps(content, ensure_ascii=False))
    return paths


def documents(example: Example, style: str) -> tuple[list[str], str]:
    """The documents of a prompt in their order, and its question."""
    text = str(build(style).decode(example.prompt, skip_special_tokens=True)).removeprefix(" ")
    found = re.fullmatch(
        rf"{ASK}\n\nThe following are given documents\.\n\n(\n*)(Document 1:\n.*)\n\n{ASK}\n\nQuestion: (.*) Answer:",
        text,
        re.DOTALL,
    )
    assert found
    assert len(found[1]) < 20
    labels = re.findall(r"^Document (\d+):$", found[2], re.MULTILINE)
    assert labels == [str(place) for place in range(1, len(labels) + 1)]
    return re.split(r"(?:^|\n\n)Document \d+:\n", found[2])[1:], found[3]


@pytest.mark.parametrize("style", STYLES)
def test_squad(style: str, files: dict[str, Path]) -> None:
    task, tokenizer = load_task(f"ruler/qa_1:source={files['qa_1']}"), build(style)
    assert task.available(tokenizer) == HALLS * ROOMS
    known = {paragraph(hall, room) for hall in range(HALLS) for room in range(ROOMS)}
    for seq_len in [*range(700, 760, 3), 1500, 3000]:
        for sample in (0, 7):
            hall, room = divmod(sample, ROOMS)
            example = task.example(Cell(seq_len), sample, tokenizer, 0)
            assert len(example.prompt) + example.max_new_tokens == seq_len and example.max_new_tokens == 32
            shown, question = documents(example, style)
            assert question == f"Who built room {hall}/{room}?"
            assert example.references == (f"Builder{hall}x{room}",)
            cut = [document for document in shown if document not in known]
            assert len(cut) <= 1 and all(any(whole.startswith(document) for whole in known) for document in cut)
            assert shown.count(paragraph(hall, room)) == 1 and len(set(shown)) == len(shown)
            others = [document for document in shown if not document.startswith(f"Room {hall}/")]
            own = len(shown) - len(others)
            assert own == ROOMS or not [document for document in others if document not in cut]
            assert example.needle_at is not None
            needle = tokenizer.decode(example.prompt[example.needle_at :][: example.needle_tokens])
            place = shown.index(paragraph(hall, room)) + 1
            assert needle.strip() == f"Document {place}:\n{paragraph(hall, room)}".strip()


@pytest.mark.parametrize("style", ["lcbench-tiny", "llama-2", "llama-3"])
def test_hotpotqa(style: str, files: dict[str, Path]) -> None:
    task, tokenizer = load_task(f"ruler/qa_2:source={files['qa_2']}"), build(style)
    assert task.available(tokenizer) == 12
    for seq_len in (700, 1700, 4000):
        for sample in range(3):
            example = task.example(Cell(seq_len), sample, tokenizer, 0)
            assert len(example.prompt) + example.max_new_tokens == seq_len
            shown, question = documents(example, style)
            assert question == f"Which fact {sample}?" and example.references == (f"Fact {sample}/7",)
            for k in (3, 7):
                (whole,) = [text for text in shown if text.startswith(f"Title {sample}/{k}\nFact {sample}/{k}. Shelf ")]
                assert whole.endswith("things.")
            own = [text for text in shown if text.startswith((f"Title {sample}/", "Title everywhere"))]
            assert (len(own) == 11) == (len(shown) >= 11) or len(shown) - len(own) <= 1
            assert example.needle_at is not None
            first = min(place for place, text in enumerate(shown, start=1) if re.match(rf"Title {sample}/[37]\n", text))
            assert tokenizer.decode(example.prompt[example.needle_at :]).startswith(
                f"Document {first}:\nTitle {sample}/"
            )


def test_samples(files: dict[str, Path]) -> None:
    task, tokenizer = load_task(f"ruler/qa_1:source={files['qa_1']}"), build("lcbench-tiny")
    one = task.example(Cell(2000), 5, tokenizer, 0)
    task.example(Cell(900), 8, tokenizer, 0)
    again = load_task(f"ruler/qa_1:source={files['qa_1']}").example(Cell(2000), 5, tokenizer, 0)
    assert again == one
    other = task.example(Cell(2000), 5, tokenizer, 1)
    assert other.references == one.references and documents(other, "lcbench-tiny") != documents(one, "lcbench-tiny")
    places = {
        documents(task.example(Cell(2000), n, tokenizer, 0), "lcbench-tiny")[0].index(paragraph(0, n)) for n in range(6)
    }
    assert len(places) > 2


@pytest.mark.parametrize(("name", "style"), [(["qa_1", "qa_2"][n % 2], style) for n, style in enumerate(STYLES)])
def test_too_short_tells_what_fits(name: str, style: str, files: dict[str, Path]) -> None:
    task, tokenizer = load_task(f"ruler/{name}:source={files[name]}"), build(style)
    with pytest.raises(UserError, match="does not fit into 50 tokens") as error:
        task.example(Cell(50), 0, tokenizer, 0)
    length = int(str(error.value).split("--seq-len ")[1].split()[0])
    with pytest.raises(UserError, match=f"--seq-len {length} or more"):
        task.example(Cell(length - 1), 0, tokenizer, 0)
    tightest = []
    for sample in range(task.available(tokenizer) or 0):
        example = task.example(Cell(length), sample, tokenizer, 0)
        assert len(example.prompt) + example.max_new_tokens == length
        tightest.append(len(documents(example, style)[0]))
    assert min(tightest) == (1 if name == "qa_1" else 2)


def test_too_few_documents(files: dict[str, Path]) -> None:
    task = load_task(f"ruler/qa_1:source={files['qa_1']}")
    with pytest.raises(
        UserError, match=r"the documents of .*squad.json have [\d,]+ tokens, and the prompt needs [\d,]+; give"
    ):
        task.example(Cell(2**15), 0, build("lcbench-tiny"), 0)


def test_squad_of_the_first_version(tmp_path: Path) -> None:
    """It has no field is_impossible."""
    (tmp_path / "one.json").write_text(json.dumps(squad()).replace('"is_impossible": false', '"x": 0'))
    task = load_task(f"ruler/qa_1:source={tmp_path / 'one.json'}")
    assert task.available(build("lcbench-tiny")) == HALLS * ROOMS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qa_1", None, r"cannot read .*: No such file or directory; use the file of SQuAD 2.0, or prepared data"),
        ("qa_2", None, r"use the file of HotpotQA, or prepared data: `lcbench data prepare hotpotqa`"),
        ("qa_1", "{", "is not JSON"),
        ("qa_1", "[]", "is not in the format of SQuAD 2.0"),
        ("qa_1", '{"data": [{"paragraphs": [{"context": null, "qas": []}]}]}', "is not in the format"),
        ("qa_1", '{"data": []}', "has no questions with answers"),
        ("qa_2", '{"data": []}', "is not in the format of HotpotQA"),
        (
            "qa_2",
            '[{"question": "?", "answer": "a", "supporting_facts": [], "context": [["t", ["s"]]]}]',
            "supporting facts",
        ),
    ],
)
def test_files_that_cannot_be_used(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_task(f"ruler/{name}:source={path}").example(Cell(2000), 0, build("lcbench-tiny"), 0)


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_prepared_data_give_the_prompts_of_the_published_file(
    name: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    dataset, rows = ("squad", hub_squad()) if name == "qa_1" else ("hotpotqa", hub_hotpotqa())
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"there is no data `{dataset}`; run `lcbench data prepare {dataset}`"):
        load_task(f"ruler/{name}").require_data()
    done = cli("data", "prepare", dataset, "--from", tmp_path / "hub" / "validation.jsonl")
    assert done.code == 0, done.err
    prepared, published = collection(dataset, ""), collection(dataset, str(files[name]))
    assert (prepared.documents, prepared.questions) == (published.documents, published.questions)
    example = load_task(f"ruler/{name}").example(Cell(2000), 1, build("lcbench-tiny"), 0)
    assert len(example.prompt) + 32 == 2000 and example.references == published.questions[1].answers


def hub_squad() -> list[dict[str, Any]]:
    """The same questions as `squad`, in the rows of the hub."""
    return [
        {
            "id": f"{article['title']}-{number}-{qa['id']}-{qa['question']}",
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {"text": [answer["text"] for answer in qa["answers"]], "answer_start": [0] * len(qa["answers"])},
        }
        for article in squad()["data"]
        for number, paragraph in enumerate(article["paragraphs"])
        for qa in paragraph["qas"]
    ]


def hub_hotpotqa() -> list[dict[str, Any]]:
    return [
        {
            **{name: item[name] for name in ("question", "answer", "type", "level")},
            "id": item["_id"],
            "context": {
                "title": [title for title, _ in item["context"]],
                "sentences": [lines for _, lines in item["context"]],
            },
            "supporting_facts": {"title": [title for title, _ in item["supporting_facts"]], "sent_id": []},
        }
        for item in hotpotqa()
    ]


def test_an_unknown_data_set() -> None:
    with pytest.raises(UserError, match="dataset must be squad or hotpotqa"):
        load_task("ruler/qa_1:source=x,dataset=trivia")


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        (" The Normans", 1, 1),
        (" normans\n\nQuestion: next", 1, 1),
        ("It was the Normans.", 1, 0),
        ("\nNone\nNormans", 1, 0),
        ("Norma", 0, 0),
        ("", 0, 0),
    ],
)
def test_scores(prediction: str, recall: float, exact: float, files: dict[str, Path]) -> None:
    task = load_task(f"ruler/qa_1:source={files['qa_1']}")
    example = Example([], [], [], ("Normans", "the Normans"), 9, seed=0)
    assert task.score(example, prediction) == {"recall": recall, "exact": exact}


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("run", "ruler/qa_2:source=hotpot.json", "--seq-len", "600", "-o", "mine", "--samples", "2")
    assert done.code == 0, done.err
    assert len(records_of(Path("mine"))) == 2
    assert (
        "has only 12 samples, not 20"
        in cli("run", "ruler/qa_2:source=hotpot.json", "--seq-len", "600", "--samples", "20").error
    )
