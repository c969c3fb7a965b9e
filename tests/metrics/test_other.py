"""RULER, GSM8K and the in-context tasks: each rule by a case worked out by hand."""

from __future__ import annotations

import pytest

from lcbench.metrics import names, score_corpus, score_example


def test_ruler_has_thirteen_tasks() -> None:
    assert sum(name.startswith("ruler/") for name in names()) == 13


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multivalue", "vt", "cwe", "fwe"])
def test_ruler_counts_the_strings_found(task: str) -> None:
    name = f"ruler/{task}"
    assert score_example(name, "they are ABC and 12", ["abc", "12", "13", "14"])["score"] == 50.0
    assert score_corpus(name, ["1", "2"], [["1"], ["2", "3", "4"]])["score"] == 66.6667  # rows weigh the same
    assert score_example(name, "", ["1"])["score"] == 0.0


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_ruler_questions_need_one_answer(task: str) -> None:
    assert score_example(f"ruler/{task}", "In Paris, France", ["Lyon", "paris"])["score"] == 100.0
    assert score_example(f"ruler/{task}", "In Nice", ["Lyon", "paris"])["score"] == 0.0


def test_ruler_reads_control_characters_as_line_breaks() -> None:
    assert score_example("ruler/vt", "A\tB", ["a b"])["score"] == 0.0
    assert score_example("ruler/vt", "\x00A\tB\x1fC ", ["a\nb\nc"])["score"] == 100.0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("#### 18", "She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", 100),
        ("so it is 18 dollars.", "18", 100),
        ("so it is $1,018.00.", "1018", 100),
        ("1,234,567", "1234567", 100),
        ("18 then 19", "18", 0),  # the last number counts
        ("it is -5", "-5", 100),
        ("it is 5", "-5", 0),
        ("10-3", "-3", 100),  # a minus sign belongs to the number behind it
        ("18 ...", "18", 100),
        ("version 1.2.3", "1", 0),
        ("no number", "18", 0),
        ("", "18", 0),
        ("0.50", ".5", 0),  # a number does not begin with its point: the reference is 5
        ("18 eggs, i.e. none", "18", 100),
    ],
)
def test_gsm8k(prediction: str, reference: str, score: float) -> None:
    assert score_example("gsm8k", prediction, reference)["score"] == score


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("The result is \u22125", "5", False),
        ("The result is \u22125", "-5", True),
        ("It is 48\u202f213", "48213", True),
        ("It is 48 213", "48213", True),
        ("It is \uff14\uff18", "48", True),
        ("It is 5\u00a0%", "5", True),
        ("about $1,000.00.", "1000", True),
        ("10-12", "12", True),
        ("x = -3.5", "-3.5", True),
        ("1,2,3", "3", True),
        ("1 2345", "2345", True),
        ("it is .5", "0.5", True),
        ("no number", "5", False),
    ],
)
def test_gsm8k_corrected(prediction: str, reference: str, right: bool) -> None:
    assert score_example("gsm8k", prediction, reference)["score_corrected"] == 100.0 * right


@pytest.mark.parametrize("opening", ["<think>\n", ""])  # a chat template may have written it
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("leval/tpo", "D"),
        ("leval/coursera", "D"),
        ("longbench/passage_count", "3"),
        ("longbench/trec", "Y"),
        ("trec", "NUM:dist"),
        ("scrolls/qasper", "42"),
        ("longbench/samsum", "D"),
        ("gsm8k", "42"),
        ("exact_match", "A"),
    ],
)
def test_reasoning_is_no_part_of_an_answer(name: str, answer: str, opening: str) -> None:
    thought = f"{opening}Bob says C. It could be A or B, or 17.\n</think>\n\n"
    classes = ["X", "Y"]
    alone = score_example(name, answer, answer, classes=classes)
    assert score_example(name, thought + answer, answer, classes=classes) == alone
    assert alone["score"] == 100.0
    cut_off = score_example(name, f"<think>Is it {answer}", answer, classes=classes)
    assert cut_off["score"] == score_example(name, "", answer, classes=classes)["score"] == 0.0


@pytest.mark.parametrize(
    ("prediction", "score"),
    [(" NUM:date", 100), ("num:DATE \nQuestion: x", 100), ("\n\nNUM:date", 100), ("NUM:date.", 0), ("NUM", 0), ("", 0)],
)
def test_trec(prediction: str, score: float) -> None:
    assert score_example("trec", prediction, "NUM:date")["score"] == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [("The Beatles.", 100), ("fab four\nQ: who", 100), ("the beatles band", 0), ("", 0), ("Q\nbeatles", 0)],
)
def test_webqs(prediction: str, score: float) -> None:
    scored = score_example("webqs", prediction, ["Beatles", "Fab Four"])
    assert scored == {"score": score, "exact_match": score}
