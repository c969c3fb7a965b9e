"""Rows that cannot be used: told before a run, recorded as failed, and no obstacle to the others."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import RowError
from lcbench.engine.models import ModelSource
from lcbench.run.plan import Plan, make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Task, all_families, load_task
from lcbench.tasks.helmet_icl import HelmetIcl
from lcbench.tasks.questions import questions
from tests.helpers import cli, lines_of, records_of

YAML = """
family: document
data: rows.jsonl
prompt: "{{ title }}: {{ document }} {{ question }}"
scorer: f1
max_new_tokens: 5
"""
RUN = ["run", "./t.yaml", "--seq-len", "128"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.yaml").write_text(YAML)


def row(number: int, **changes: Any) -> dict[str, Any]:
    good = {
        "title": "Codes",
        "document": f"Number {number}. The code of Mara is 4821.",
        "question": "The code of Mara is",
    }
    return {**good, "references": ["4821"], **changes}


def write(rows: list[dict[str, Any]]) -> None:
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no document": ({"document": " "}, "has no document"),
    "no reference": ({"references": [None]}, "has no references"),
    "a mapping": ({"references": {"a": 1}}, "is a mapping"),
    "a value that is missing": ({"title": None}, "it prints a value that is missing"),
}


@pytest.mark.parametrize(("name", "place"), list(zip(BAD, (0, 3, 0, 3), strict=True)))
def test_a_bad_row_fails_alone(name: str, place: int) -> None:
    changes, reason = BAD[name]
    write([row(number, **(changes if number == place else {})) for number in range(4)])
    dry = cli(*RUN, "--dry-run")
    assert dry.code == 0 and "note: t: 1 of 4 rows cannot be used" in dry.err
    assert f"row {place + 1} of" in dry.err and reason in dry.err

    done = cli(*RUN, "-o", "out")
    assert done.code == 1 and "note: t: 1 of 4 rows cannot be used" in done.err and "Traceback" not in done.err
    lines = lines_of(Path("out"))
    (failed,) = [line for line in lines if line["error"]]
    assert failed["sample"] == place and reason in failed["error"] and "scores" not in failed
    assert len(lines) == 4 and failed["prompt_tokens"] == 0
    assert "failed: vanilla at 128" in done.out and "3 samples" in done.out

    write([row(number) for number in range(4)])  # a row that was mended is measured, and no other again
    again = cli(*RUN, "-o", "out")
    assert again.code == 0 and "3 of them already recorded" in again.err and "note:" not in again.err
    cli(*RUN, "-o", "undisturbed")
    assert records_of(Path("out")) == records_of(Path("undisturbed"))


def test_a_row_that_is_too_long_fails_alone() -> None:
    write([row(number, question="long " * (200 if number == 2 else 1)) for number in range(4)])
    done = cli(*RUN, "-o", "out")
    assert done.code == 1 and "failed: t  128  vanilla: t does not fit into 128 tokens" in done.err
    assert [line["sample"] for line in lines_of(Path("out")) if line["error"]] == [2]
    assert len(lines_of(Path("out"))) == 4


def test_several_methods_and_lengths_each_record_it() -> None:
    write([row(number, **({"references": []} if number == 1 else {})) for number in range(3)])
    done = cli(*RUN[:2], "--seq-len", "128,96", "--method", "vanilla,dca", "-o", "out")
    failed = [line for line in lines_of(Path("out")) if line["error"]]
    assert done.code == 1 and len(failed) == 4 and len(lines_of(Path("out"))) == 12
    assert done.err.count("note: t: 1 of 3 rows cannot be used") == 1


def test_no_usable_row_is_one_sentence() -> None:
    write([row(number, references=[]) for number in range(4)])
    done = cli(*RUN, "-o", "out")
    assert done.code == 2 and "none of 4 rows can be used; row 1 of" in done.err and not Path("out").exists()


def plan(target: str = "./t.yaml") -> Plan:
    return make_plan(ModelSource("lcbench-tiny"), [Request(target, seq_lens=(128,))])


def test_references_that_published_rouge_cannot_read() -> None:
    write([row(0, references=["The hat."]), row(1, references=["\u041a\u043e\u0434 \u041c\u0430\u0440\u044b"])])
    assert not plan().notes
    Path("t.yaml").write_text(YAML.replace("scorer: f1", "scorer: scrolls/qmsum"))
    (note,) = plan().notes
    assert "1 of 2 rows have references without a letter a-z or a digit" in note
    Path("t.yaml").write_text(YAML.replace("scorer: f1", "scorer: rouge"))
    assert not plan().notes


def test_the_date_of_a_chat_template_is_part_of_the_run() -> None:
    write([row(0)])
    dated = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    for chat, template, date in (
        (True, dated, "2024-07-26"),
        (True, dated.partition("}}")[2], None),
        (False, dated, None),
    ):
        Path("t.yaml").write_text(f"{YAML}chat: {str(chat).lower()}\n")
        mine = plan_with(template)
        assert mine.identity().get("chat_date") == date


def plan_with(template: str) -> Plan:
    source = ModelSource("lcbench-tiny")
    tokenizer = source.tokenizer()
    tokenizer.chat_template = template
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelSource, "tokenizer", lambda self: tokenizer)
        return make_plan(source, [Request("./t.yaml", seq_lens=(128,))])


SHOTS = """
family: in_context
data: asked.jsonl
demonstrations: shown.jsonl
columns: {references: kind}
prompt: "{{ question }}: {{ label }}\\n"
draws: 1
"""


def shown(number: int, **changes: Any) -> dict[str, Any]:
    return {"question": f"Text {number}", "kind": ("sun", "rain")[number % 2], **changes}


def in_context(asked: list[dict[str, Any]], demonstrations: list[dict[str, Any]]) -> None:
    Path("t.yaml").write_text(SHOTS)
    for name, rows in (("asked", asked), ("shown", demonstrations)):
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("changes", [{"kind": float("nan")}, {"kind": ""}, {"kind": {"a": 1}}, {"question": {"a": 1}}])
def test_a_bad_question_after_demonstrations_fails_alone(changes: dict[str, Any]) -> None:
    in_context([shown(n, **(changes if n == 2 else {})) for n in range(4)], [shown(n) for n in range(9)])
    done = cli(*RUN, "-o", "out")
    assert done.code == 1 and "note: t: 1 of 4 rows cannot be used" in done.err and "row 3 of asked.jsonl" in done.err
    assert [line["error"] is None for line in lines_of(Path("out"))].count(False) == 1
    assert len(lines_of(Path("out"))) == 4


@pytest.mark.parametrize("changes", [{"kind": float("nan")}, {"kind": " "}, {"question": {"a": 1}}])
def test_a_bad_demonstration_is_refused(changes: dict[str, Any]) -> None:
    in_context([shown(n) for n in range(4)], [shown(n, **(changes if n == 2 else {})) for n in range(9)])
    done = cli(*RUN, "--dry-run")
    assert done.code == 2 and "row 3 of shown.jsonl" in done.error


@pytest.mark.parametrize(
    "changes", [{"test": None}, {"entry_point": 3}, {"prompt": float("nan")}, {"prompt": {"a": 1}}]
)
def test_a_bad_problem_fails_alone(changes: dict[str, Any]) -> None:
    good = {"prompt": "def f():\n", "test": "def check(f):\n    f()\n", "entry_point": "f", "answer": "    pass\n"}
    write([{**good, "id": str(n), **(changes if n == 2 else {})} for n in range(3)])
    Path("t.yaml").write_text(
        "family: humaneval\ndata: rows.jsonl\nexecute: true\nmax_new_tokens: 2\n"
        "columns: {question: prompt, references: answer}\n"
    )
    done = cli(*RUN, "-o", "out")
    assert done.code == 1 and "note: t: 1 of 3 rows cannot be used" in done.err, done.err
    assert [line["sample"] for line in lines_of(Path("out")) if line["error"]] == [2] and len(
        lines_of(Path("out"))
    ) == 3


@pytest.mark.parametrize(("reference", "told"), [("4821", True), ("\u0434\u0430", True), ("The hat.", False)])
def test_rouge_of_one_word_is_told(reference: str, told: bool) -> None:
    write([row(0, references=[reference])])
    Path("t.yaml").write_text(YAML.replace("scorer: f1", "scorer: rouge"))
    assert [note.split(" where ")[0] for note in plan().notes] == ["t: 1 of 1 rows have references of one word,"] * told


ASKED = [
    {"role": "user", "content": "Write."},
    {"role": "assistant", "content": "A."},
    {"role": "user", "content": "?"},
]
TALK = {"document": json.dumps(ASKED), "question": "", "references": ["xA.", "x"], "n_needles": 2}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"document": "no JSON"}, "is not a conversation in JSON"),
        ({"document": json.dumps(ASKED[:2])}, "does not end with a message of the user"),
        ({"document": None}, "has no conversation"),
        ({"references": []}, "has no answer to compare with"),
        ({"references": ["A.", "x"]}, "does not begin with its random string"),
        ({"references": {"a": 1}}, "is a mapping"),
    ],
)
def test_a_bad_conversation_is_told_before_the_first_sample(changes: dict[str, Any], reason: str) -> None:
    write([TALK | (changes if number == 3 else {}) for number in range(4)])
    task = load_task("mrcr:data=rows.jsonl,max_new_tokens=4")
    if "is a mapping" in reason:  # where the rows are chosen by a column
        with pytest.raises(RowError, match=reason):
            task.require_data()
        return
    (problem,) = task.problems(4, 0).items()
    assert problem[0] == 3 and problem[1].startswith("row 4 of rows.jsonl") and reason in problem[1]


@pytest.mark.parametrize("changes", [{"label": "fog"}, {"label": None}, {"label": ["sun"]}, {"question": " "}])
def test_a_bad_question_with_numbers_for_labels_is_told(changes: dict[str, Any], monkeypatch: Any) -> None:
    """Its place among the samples is drawn by the seed; the others are asked."""
    rows = [{"question": f"T{n}", "label": ("sun", "rain")[n % 2]} for n in range(4)]
    in_context([row | (changes if n == 2 else {}) for n, row in enumerate(rows)], rows)
    monkeypatch.setattr(HelmetIcl, "_pool", property(lambda self: questions("shown.jsonl", "train", {})))
    task = HelmetIcl(name="t", data="asked.jsonl", label="label", instruction="Label.")
    task.require_data()
    found = [task.problems(4, seed) for seed in range(9)]
    assert all(len(problems) == 1 and "2 in asked.jsonl" in str(problems) for problems in found)
    assert len({number for problems in found for number in problems}) > 1


def test_every_family_with_rows_checks_them() -> None:
    """In one place, before the first sample; RULER's questions are checked where their collection is read."""
    reads = {name: cls for name, cls in all_families().items() if {one.name for one in fields(cls)} & {"data", "kind"}}
    assert {"document", "dialogue", "in_context", "helmet_icl", "humaneval", "nolima"} <= reads.keys()
    assert [name for name, cls in reads.items() if cls.check_row is Task.check_row] == []
    assert [name for name, cls in all_families().items() if cls.problems is not Task.problems] == []
