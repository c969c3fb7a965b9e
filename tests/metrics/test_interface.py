"""What every metric keeps to: names, arguments, the shape of what comes back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcbench.core.errors import UserError
from lcbench.metrics import names, score_corpus, score_example

GOLD = {
    "leval/sci_fi": "True [fact: False]",
    "longbench/passage_retrieval_en": "Paragraph 3",
    "longbench/passage_retrieval_zh": "段落3",
}
ANSWERS = st.text(st.sampled_from("ABCDa1.,-[]:\n 世\u00a0\x00") | st.characters(codec="utf-8"), max_size=30)


def _classes(name: str, gold: str) -> dict[str, Any]:
    return {"classes": [gold, "b"]} if name in ("longbench/trec", "longbench/lsht") else {}


@pytest.mark.parametrize("name", names())
@settings(max_examples=25)
@given(answer=ANSWERS, gold=st.sampled_from(["A", "x 1", "the", "12"]))
def test_any_answer_has_a_score(name: str, answer: str, gold: str) -> None:
    """A model may say anything: no answer stops a run, and one string is a list of one."""
    gold = GOLD.get(name, gold)
    options = _classes(name, gold)
    scored = score_example(name, answer, gold, **options)
    assert scored == score_example(name, answer, (gold,), **options)
    numbers = {part: value for part, value in scored.items() if isinstance(value, float)}
    assert next(iter(scored)) == "score" and all(0 <= value <= 100 for value in numbers.values())
    corpus = score_corpus(name, [answer, answer], [gold, [gold]], **options)
    assert {part: value for part, value in corpus.items() if not part.startswith("turn_")} == numbers


LETTERS = {"leval/tpo", "leval/quality", "leval/coursera"}
# All references of an answer together say what is right.
TOGETHER = {name for name in names() if name.startswith(("graphwalks/", "babilong/"))} | {
    "mrcr/openai_grade",
    "helmet/rerank",
    "helmet/parse_rankings",
    "infinitebench/longdialogue_qa_eng",
    "infinitebench/longbook_choice_eng",
    "infinitebench/lm_eval_longbook_choice",
    "infinitebench/code_debug",
    "infinitebench/math_calc",
}


@pytest.mark.parametrize("name", sorted(set(names()) - LETTERS - TOGETHER))
def test_the_order_and_number_of_references_do_not_matter(name: str) -> None:
    """Multiple choice apart, a second wording of the gold can only help; RULER's tasks want all of them instead."""
    gold = GOLD.get(name, "alpha beta 1")
    other = gold.replace("3", "4").replace("1", "2")
    options = _classes(name, gold)
    there, back = (score_example(name, gold, both, **options)["score"] for both in ([gold, other], [other, gold]))
    assert there == back
    wants_all = name.startswith("ruler/") and not name.startswith("ruler/qa")
    assert there == (50.0 if wants_all else score_example(name, gold, gold, **options)["score"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scrolls/qaspr", "unknown metric 'scrolls/qaspr'; did you mean 'scrolls/qasper'?"),
        ("leval/code_u", "did you mean 'leval/codeU'?"),
        ("", "unknown metric ''; known: "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        score_example(name, "x", "y")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("prediction", "references", "message"),
    [
        (None, "x", "f1: None is not text"),
        ("x", None, "f1: None is not text"),
        ("x", [None], "f1: None is not text"),
        ("x", [["x"]], "is not text"),
        (3, "x", "f1: 3 is not text"),
        ("x", [], "f1: an answer without a reference"),
    ],
)
def test_what_cannot_be_scored(prediction: Any, references: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        score_example("f1", prediction, references)
    assert message in str(caught.value)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["x"], []), (["x"], ["x", "y"])])
def test_a_corpus_needs_as_many_references_as_predictions(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(UserError, match=f"f1: {len(predictions)} predictions and {len(references)} references"):
        score_corpus("f1", predictions, references)


def test_importing_the_metrics_loads_no_library() -> None:
    """The command line lists their names; ROUGE alone would add a second and a half."""
    heavy = "{'rouge_score', 'nltk', 'rouge', 'numpy', 'torch'}"
    code = f"import sys, lcbench.metrics as m; m.names(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
