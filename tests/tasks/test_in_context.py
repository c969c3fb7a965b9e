"""As many demonstrations as fit, to the token; the same ones for all questions of a draw; sets of the user's own."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_start
from lcbench.engine.models import ModelSource
from lcbench.results.report.draws import Spread, spread
from lcbench.results.schema import Record
from lcbench.tasks import Cell, load_task
from lcbench.tasks.in_context import InContextTask
from tests.helpers import REPOSITORY, cli, fields_of
from tests.results.report import samples
from tests.tokenizers import STYLES, build

KINDS = {"A": "colour", "B": "number", "C": "name"}
YAML = """
family: in_context
data: asked.csv
demonstrations: shown.csv
columns: {question: text, references: kind, id: key}
prompt: "Text: {{ text }}\\nKind: {{ label }}\\n\\n"
labels: {A: colour, B: number, C: name}
draws: 3
"""


def write(name: str, rows: list[dict[str, Any]]) -> None:
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 rows of A, 30 of B, 10 of C to learn from, sorted by label; 12 to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    kinds = "A" * 80 + "B" * 30 + "C" * 10
    write("shown.csv", [{"key": f"s{n}", "text": f"Here is {n * 7}.", "kind": kind} for n, kind in enumerate(kinds)])
    write("asked.csv", [{"key": f"q{n}", "text": f"Asked {'is ' * n}{n}.", "kind": "ABC"[n // 4]} for n in range(12)])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return ModelSource().tokenizer()


def task(more: str = "", options: str = "") -> InContextTask:
    keys = {line.split(":")[0] for line in more.splitlines()}
    kept = "\n".join(line for line in YAML.splitlines() if line.split(":")[0] not in keys)
    Path("mine.yaml").write_text(f"{kept}\n{more}")
    loaded = load_task("mine.yaml" + options)
    assert isinstance(loaded, InContextTask)
    return loaded


def shown(prompt: str) -> list[tuple[str, str]]:
    """Text and label of each demonstration."""
    *demonstrations, _ = prompt.strip().split("\n\n")
    return [tuple(line.split(": ", 1)[1] for line in one.split("\n")) for one in demonstrations]  # type: ignore[misc]


def text_of(example: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(example.prompt, skip_special_tokens=True))


def test_a_prompt_is_demonstrations_one_behind_the_other(tokenizer: PreTrainedTokenizerBase) -> None:
    example = task().example(Cell(400), 0, tokenizer, 0)
    text = text_of(example, tokenizer)
    pairs = shown(text)
    assert len(pairs) == example.details["demonstrations"] == len(set(pairs)) > 10
    rows = {(row["text"], KINDS[row["kind"]]) for row in read("shown.csv")}
    assert set(pairs) <= rows
    question = next(row for row in read("asked.csv") if row["key"] == example.details["row"])
    expected = "".join(f"Text: {text}\nKind: {label}\n\n" for text, label in pairs)
    expected += f"Text: {question['text']}\nKind:"
    assert text.strip() == expected and example.references == (KINDS[question["kind"]],)
    assert example.prompt == encode_start(tokenizer, expected)  # as the tokenizer itself cuts the whole


@pytest.mark.parametrize("style", STYLES)
def test_one_demonstration_more_would_not_fit(style: str) -> None:
    """In tokens, behind the longest question and with the longest answer."""
    tokenizer = build(style)
    for scoring in ("likelihood", "generate"):
        mine = task(f"scoring: {scoring}\n")
        for length in (300, 417):
            for draw in range(3):
                all_of_it = [mine.example(Cell(length), draw + 3 * n, tokenizer, 0) for n in range(12)]
                assert len({tuple(example.context) for example in all_of_it}) == 1
                longest = max(len(example.prompt) + example.max_new_tokens for example in all_of_it)
                count = all_of_it[0].details["demonstrations"]
                more = next(
                    example
                    for extra in range(100)
                    if (example := mine.example(Cell(length + extra), draw, tokenizer, 0)).details["demonstrations"]
                    > count
                )
                added = len(more.context) - len(all_of_it[0].context)
                assert longest <= length < longest + added
                assert more.context[: len(all_of_it[0].context)] == all_of_it[0].context


def test_tokens_of_a_label_are_those_behind_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    example = task().example(Cell(400), 0, tokenizer, 0)
    assert list(example.choices) == ["colour", "name", "number"]
    for label, tokens in example.choices.items():
        assert example.prompt + tokens == encode_start(tokenizer, f"{text_of(example, tokenizer).strip()} {label}")
    assert example.max_new_tokens == max(map(len, example.choices.values()))


def test_a_label_that_begins_another_can_win_and_lose(tokenizer: PreTrainedTokenizerBase) -> None:
    end = tokenizer("a\n\n").input_ids[-1:]
    assert all(t[-1:] != end for t in task().example(Cell(400), 0, tokenizer, 0).choices.values())
    begun = task("labels: {A: 1, B: '10', C: '2'}\n".replace("1,", "'1',")).example(Cell(400), 0, tokenizer, 0)
    assert list(begun.choices) == ["1", "10", "2"]
    assert all(tokens[-1:] == end for tokens in begun.choices.values())


def test_draws(tokenizer: PreTrainedTokenizerBase) -> None:
    mine = task()

    def context(sample: int, length: int = 400, seed: int = 0) -> tuple[int, ...]:
        return tuple(mine.example(Cell(length), sample, tokenizer, seed).context)

    assert mine.available(tokenizer) == 36
    assert len({context(draw) for draw in range(3)}) == 3
    for sample in range(9):
        assert context(sample) == context(sample % 3) and context(sample) == context(sample)
        assert context(sample, 600)[: len(context(sample))] == context(sample)
        assert mine.shares(Cell(400), sample) == mine.shares(Cell(600), sample % 3)
    assert mine.shares(Cell(400), 0) != mine.shares(Cell(400), 1)
    assert context(0, seed=1) != context(0)
    details = [mine.example(Cell(400), sample, tokenizer, 0).details for sample in range(36)]
    asked = {draw: [d["row"] for d in details if d["draw"] == draw] for draw in range(3)}
    assert asked[0] == asked[1] == asked[2], "all draws have the same questions, in the same order"
    assert sorted(asked[0]) == sorted(f"q{n}" for n in range(12))
    assert {int(row[1:]) // 4 for row in asked[0][:5]} != {0}, "data sorted by label are shuffled"
    assert asked[0] != [mine.example(Cell(400), 3 * n, tokenizer, 1).details["row"] for n in range(12)]


def labels_of(balance: str, tokenizer: PreTrainedTokenizerBase, length: int) -> list[list[str]]:
    mine = task(f"balance: {balance}\n")
    examples = [mine.example(Cell(length), draw, tokenizer, 0) for draw in range(3)]
    return [[label for _, label in shown(text_of(example, tokenizer))] for example in examples]


def test_balance(tokenizer: PreTrainedTokenizerBase) -> None:
    for labels in labels_of("balanced", tokenizer, 400):
        assert len(labels) > 10 and max(Counter(labels).values()) - min(Counter(labels).values()) <= 1
    firsts = {tuple(labels[:3]) for labels in labels_of("balanced", tokenizer, 400)}
    assert len(firsts) > 1, "the order within a round is drawn, too"
    for labels in labels_of("random", tokenizer, 400):
        assert Counter(labels)["colour"] > len(labels) / 2
    for labels in labels_of("balanced", tokenizer, 20_000):  # all there are: the rarest is used up first
        assert Counter(labels) == {"colour": 80, "number": 30, "name": 10}
        assert set(labels[30:70]) == {"colour", "number"} and set(labels[70:]) == {"colour"}
    for labels in labels_of("random", tokenizer, 20_000):
        assert Counter(labels) == {"colour": 80, "number": 30, "name": 10} and labels != sorted(labels)


def test_labels_as_they_are(tokenizer: PreTrainedTokenizerBase) -> None:
    example = task("labels: {}\n").example(Cell(400), 0, tokenizer, 0)
    assert list(example.choices) == ["A", "B", "C"] and "Kind: A\n\n" in text_of(example, tokenizer)
    write("asked.csv", [{"key": "x", "text": "Asked.", "kind": "D"}])
    assert list(task("labels: {}\n").example(Cell(400), 0, tokenizer, 0).choices) == ["A", "B", "C", "D"]


def test_scores() -> None:
    def score(scoring: str, prediction: str) -> float:
        mine = task(f"scoring: {scoring}\n")
        return mine.score(mine.example(Cell(400), 0, ModelSource().tokenizer(), 0), prediction)["score"]

    right = task().example(Cell(400), 0, ModelSource().tokenizer(), 0).references[0]
    assert score("likelihood", right) == 100.0 and score("likelihood", right.upper()) == 0.0
    assert score("generate", f" {right.upper()}\nText:") == 100.0 and score("generate", "none") == 0.0


def test_ids_of_documents_are_no_ids_of_questions(tokenizer: PreTrainedTokenizerBase) -> None:
    """Statistics take what has one id for one question, asked after several draws."""
    write("asked.csv", [{**row, "key": f"document {n // 4}"} for n, row in enumerate(read("asked.csv"))])
    rows = {task().example(Cell(400), sample, tokenizer, 0).details["row"] for sample in range(0, 36, 3)}
    assert len(rows) == 12 and "document 0#3" in rows


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("demonstrations: ../asked.csv\n", "there is no file ../asked.csv"),
        ("demonstrations: asked.csv\n", "would use the rows of asked.csv both as demonstrations and questions"),
        ("demonstrations: gone.csv\n", "there is no file gone.csv"),
        ("labels: {A: colour, B: number}\n", "unknown label of mine in row 111 of shown.csv: 'C'; known: A, B."),
        ("labels: {A: colour, B: no, C: x}\n", "labels must be text, not False"),
        ("columns: {question: text, references: sort}\n", "unknown column in row 1 of asked.csv: 'sort'"),
        ("columns: {question: text}\n", "row 1 of asked.csv has no label"),
        ("prompt: '{{ text }}'\n", "must name `label` once"),
        ("prompt: '{{ text }} {{ label | upper }}'\n", "must name `label` once"),
        ("prompt: '{{ document }} {{ label }}\n\n  '\n", "must name `label` once, as it is, and no document"),
        ("prompt: '{{ text }} {{ label }}'\n", "must follow the label"),
        ("prompt: '{{ text }} {{ label }} {{ key }}'\n", "must be the same for all rows; row 2 of"),
        ("prompt: '{{ texts }} {{ label }} '\n", "'texts' is undefined"),
        ("scorer: trek\n", "unknown scorer of mine: 'trek'; did you mean 'trec'?"),
        ("draws: 0\n", "draws and max_new_tokens must be at least 1"),
        ("balance: even\n", "balance must be random or balanced"),
        ("data: trec\ndemonstrations: ''\ncolumns: {}\n", "run `lcbench data prepare trec`"),
    ],
)
def test_what_a_user_gets_wrong(more: str, sentence: str) -> None:
    keys = {line.split(":")[0] for line in more.splitlines()}
    kept = "\n".join(line for line in YAML.splitlines() if line.split(":")[0] not in keys)
    Path("mine.yaml").write_text(f"{kept}\n{more}")
    done = cli("run", "mine.yaml", "--seq-len", "2k")
    assert done.code == 2 and sentence in done.error, done.error
    assert done.error.count("\n") == 0


def test_too_short_for_a_demonstration(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"take (\d+) of them, which leaves no space for a demonstration") as error:
        task().example(Cell(20), 0, tokenizer, 0)
    taken = int(str(error.value).split("take ")[1].split()[0])
    first = min(n for n in range(taken, taken + 60) if fits(n, tokenizer))
    example = task().example(Cell(first), 0, tokenizer, 0)
    assert example.details["demonstrations"] == 1 and first == taken + len(example.context)


def fits(length: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        task().example(Cell(length), 0, tokenizer, 0)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("scoring", ["likelihood", "generate"])
def test_a_set_of_the_users_own_by_yaml_alone(scoring: str) -> None:
    task(f'scoring: {scoring}\nmax_new_tokens: 4\nstop: ["\\n"]\n')
    done = cli("run", "mine.yaml", "--method", "vanilla,dca", "--seq-len", "256,400", "--samples", 6, "--output", "run")
    assert done.code == 0, done.err
    records = fields_of(Path("run"))
    assert len(records) == 24 and {record["details"]["draw"] for record in records} == {0, 1, 2}
    for record in records:
        assert record["prompt_tokens"] + record["max_new_tokens"] <= record["seq_len"]
        assert scoring == "generate" or record["prediction"] in KINDS.values()
        assert "\n" not in record["prediction"]
    total = sum(record["prompt_tokens"] for record in records)
    assert sum(record["cost"]["reused_tokens"] for record in records) > 0.6 * total
    rescored = cli("rescore", "run", "--task", "mine.yaml")
    assert rescored.code == 0 and "0 of 24 scores changed" in rescored.out


def test_spread() -> None:
    def record(draw: int | None, score: float, error: str | None = None) -> Record:
        details = {} if draw is None else {"details": {"draw": draw}}
        fields = samples.failure("vanilla", 256, error) if error else samples.record(scores={"score": score})
        return Record.from_json({**fields, **details, **({} if error else {"metric": "score"})})

    assert spread([record(None, 1)]) is None and spread([]) is None and spread([record(0, 0, "out of memory")]) is None
    assert spread([record(0, 100), record(0, 0)]) == Spread(1, 50.0, None)
    uneven = [record(0, 100), record(0, 0), record(1, 100), record(2, 0), record(2, 0), record(2, 0, "out of memory")]
    assert spread(uneven) == Spread(3, 50.0, 50.0)  # of 50, 100 and 0


@pytest.mark.parametrize(("name", "source"), [("trec", "trec"), ("trec_coarse", "trec"), ("webqs", "web_questions")])
def test_real_data(name: str, source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Real rows, where they lie beside the repository."""
    files = REPOSITORY.parent / "shared" / "data" / source
    if not files.is_dir():
        pytest.skip(f"no {files}")
    assert cli("data", "prepare", source, "--from", files).code == 0
    mine = load_task(name)
    assert isinstance(mine, InContextTask)
    example = mine.example(Cell(1024), 7, tokenizer, 0)
    assert example.details["demonstrations"] > 10 and mine.available(tokenizer) == 250 * 5
    labels = {"trec": 50, "trec_coarse": 6, "webqs": 0}[name]
    assert len(example.choices) == labels
    prediction = example.references[-1]
    assert mine.score(example, prediction)["score"] == 100.0 and mine.score(example, "Nonsense")["score"] == 0.0


def test_no_label_of_trec_begins_another() -> None:
    for name, kinds in (("trec", 50), ("trec_coarse", 6)):
        mine = load_task(name)
        assert isinstance(mine, InContextTask)
        labels = sorted(set(mine.labels.values()))
        assert len(labels) == kinds and len(mine.labels) == 50
        assert not any(other.startswith(label) for label in labels for other in labels if other != label)
