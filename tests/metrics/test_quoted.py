"""The benchmarks of model cards: each rule by cases worked out by hand from its published code."""

from __future__ import annotations

from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.metrics import as_published, may_be_empty, score_corpus, score_example
from lcbench.metrics.helmet import ndcg, parse_output, parse_rankings

AB = ["aa", "bb"]


def scores(name: str, prediction: str, references: Any) -> tuple[float, float]:
    scored = score_example(name, prediction, references)
    return scored["score"], scored.get("score_corrected", scored["score"])


@pytest.mark.parametrize(
    ("prediction", "references", "fixed", "strict", "flexible", "literal"),
    [
        ("Final Answer: [aa, bb]", AB, 100, 100, 100, 50),
        ("So.\nFinal Answer: ['bb', \"aa\", cc]", AB, 80, 80, 80, 100),
        ("Final Answer: [aa, bb]\n", AB, 100, 100, 100, 100),
        ("Final Answer: [aa, bb]\nDone.", AB, 0, 0, 100, 100),
        ("Final Answer: [aa]\nFinal Answer: [aa, bb]\n\n", AB, 100, 100, 100, 100),
        ("Final Answer: [zz]", AB, 0, 0, 0, 100),
        ("final answer: [aa, bb]", AB, 0, 0, 0, 100),
        ("Final Answer: []", [], 100, 0, 0, 100),
        ("Final Answer: [aa]", [], 0, 0, 0, 100),
        ("I do not know.", [], 0, 0, 0, 100),
        ("Final Answer: [aa, aa, bb, bb]", AB, 100, 100, 100, None),
    ],
)
def test_graphwalks(
    prediction: str,
    references: list[str],
    fixed: float,
    strict: float,
    flexible: float,
    literal: float | None,
) -> None:
    scored = score_example("graphwalks/opus46_fixed", prediction, references)
    assert scored["score"] == fixed
    assert (scored["lm_eval_f1"], scored["lm_eval_flexible_f1"]) == (strict, flexible)
    for rule in ("lm_eval_f1", "lm_eval_flexible_f1", "readme_literal"):
        assert score_example(f"graphwalks/{rule}", prediction, references)["score"] == scored[rule]
    if literal is not None:
        assert scored["readme_literal"] == literal


def test_only_sets_may_be_empty() -> None:
    assert may_be_empty("graphwalks/opus46_fixed") and not may_be_empty("f1")
    empty = score_corpus("graphwalks/opus46_fixed", ["Final Answer: []", "Final Answer: [x]"], [[], ["x"]])
    assert empty["score"] == empty["exact"] == 100.0
    with pytest.raises(UserError, match="without a reference"):
        score_example("mrcr/openai_grade", "x", [])


ANSWER, RANDOM = "Kd83mPq0ZaA second lantern, a second tide.", "Kd83mPq0Za"


@pytest.mark.parametrize(
    ("prediction", "score", "corrected"),
    [
        (ANSWER, 100, 100),
        (f" {ANSWER}\n", 0, 100),
        (f"Sure! {ANSWER}", 0, 0),
        (RANDOM, 0, 0),
        (ANSWER.lower(), 0, 0),
        (f"{RANDOM}A second", 40, 40),  # 2 * 8 matched of 8 + 32 characters
    ],
)
def test_mrcr_of_openai(prediction: str, score: float, corrected: float) -> None:
    assert scores("mrcr/openai_grade", prediction, [ANSWER, RANDOM]) == (score, corrected)


def test_mrcr_of_google_takes_the_last_hash() -> None:
    target = "Qx7aBc9ZkTp4Lamp on water."
    for said, score in (
        (f"Sure: {target} ", 100.0),
        (f"{target}Qx7aBc9ZkTp4", 0.0),
        ("Qx7aBc9ZkTp4\nLamp on water.", 100.0),
        ("Lamp on water.", 0.0),
    ):
        assert score_example("mrcr/gdm_v2_metric", said, target)["score"] == score
    assert score_example("mrcr/gdm_v2_metric", target, target[:5])["score"] == 0.0


@pytest.mark.parametrize(
    ("task", "prediction", "target", "question", "score", "corrected"),
    [
        ("qa1", "The most recent location of Mary is KITCHEN. Not the garden.", "kitchen", "Where is Mary? ", 100, 100),
        ("qa1", "kitchen or garden", "kitchen", "Where is Mary?", 0, 0),
        ("qa1", "kitchen<example>garden", "kitchen", "Where is Mary?", 100, 100),
        ("qa1", "The officer is in the kitchen", "kitchen", "Where is Mary?", 0, 100),
        ("qa1", "kitchen Question: who is in the garden", "kitchen", "Where is Mary?", 0, 100),
        ("qa3", "Before the garden it was in the office", "office", "Where was it before the garden?", 100, 100),
        ("qa5", "Fred gave it to Bill", "Bill", "Who did Fred give the apple to?", 100, 100),
        ("qa5", "Jeff and Mary", "Jeff,Mary", "Who?", 100, 100),
        ("qa5", "Jeff", "Jeff,Mary", "Who?", 0, 0),
        ("qa2", "", "office", "Where?", 0, 0),
    ],
)
def test_babilong(task: str, prediction: str, target: str, question: str, score: float, corrected: float) -> None:
    assert scores(f"babilong/{task}", prediction, [target, question]) == (score, corrected)


@pytest.mark.parametrize(
    ("prediction", "score", "compensated", "corrected"),
    [
        ("The correct answer is (B).", 100, 100, 100),
        ("**The correct answer is B**", 100, 100, 100),
        ("The correct answer is C; no, The correct answer is (B)", 100, 100, 100),  # brackets come first
        ("The correct answer is Bert", 100, 100, 0),
        ("the correct answer is (B)", 0, 25, 100),
        ("I think B", 0, 25, 100),
        ("The correct answer is (C)", 0, 0, 0),
        ("", 0, 25, 0),
    ],
)
def test_longbench_v2(prediction: str, score: float, compensated: float, corrected: float) -> None:
    scored = score_example("longbench_v2/0shot", prediction, "B")
    assert (scored["score"], scored["compensated"], scored["score_corrected"]) == (score, compensated, corrected)


@pytest.mark.parametrize(
    ("task", "prediction", "references", "score", "corrected"),
    [
        ("passkey", "It is 71432, not 5.", "71432", 100, 100),
        ("number_string", "33 44", "3344", 0, 0),
        ("kv_retrieval", 'The value is: "ab-12".', "ab-12", 100, 100),
        ("kv_retrieval", "ab-123", "ab-12", 0, 0),
        ("code_run", "The return value is: -7.", [-7], 100, 100),
        ("code_run", "-7", ["-7"], 0, 100),
        ("code_run", "It is 7.0", [7], 0, 100),
        ("math_find", "The largest is 94", [94], 100, 100),
        ("math_find", "94.0", [94], 0, 100),
        ("math_find", "It is -3", [-3], 0, 100),
        ("math_find", "2.5 or 3", [2.5], 100, 100),
        ("math_find", "none", [2.5], 0, 0),
        ("math_calc", "[4, 014, 6]", [4, 14, 7], 66.6667, 66.6667),
        ("math_calc", "4, -2", [4, -2], 50, 100),
        ("math_calc", "", [4], 0, 0),
        ("longdialogue_qa_eng", "Ace!", ["ACE", "ACE ROTHSTEIN"], 100, 100),
        ("longdialogue_qa_eng", "Sam Rothstein", ["ACE", "SAM ROTHSTEIN"], 0, 100),
        ("longbook_choice_eng", "Certainly, B", ["Snow", "B"], 0, 100),
        ("longbook_choice_eng", "Answer: C", ["Snow", "C"], 0, 100),
        ("longbook_choice_eng", "The answer is C", ["Snow", "C"], 100, 100),
        ("longbook_choice_eng", "The option is Snow.", ["Snow", "C"], 100, 100),
        ("longbook_choice_eng", " Snow\n", ["Snow", "C"], 100, 100),
        ("longbook_choice_eng", "I say: maybe D", ["Snow", "D"], 100, 100),
        ("longbook_choice_eng", "", ["Snow", "D"], 0, 0),
        ("code_debug", "B. load_rows", ["load_rows", "B"], 100, 100),
        ("code_debug", "B", ["load_rows", "B"], 0, 100),
        ("code_debug", "The answer is: `load_rows`", ["load_rows", "B"], 100, 100),
        ("code_debug", "The answer is: load_rows", ["load_rows", "B"], 100, 100),
        ("code_debug", "answer is:B", ["load_rows", "B"], 0, 100),
        ("longbook_qa_eng", "The tall red house", ["a red house", "house"], 80, 80),
        ("longbook_qa_chn", "红色的房子！", "红色房子", 88.8889, 88.8889),
        ("longbook_sum_eng", "a b c\nd e", "a b c\nd f", 80, 80),
        ("lm_eval_longbook_choice", "Certainly, B", ["Snow", "B"], 100, 100),
        ("lm_eval_longbook_choice", "answer is: c", ["Snow", "C"], 100, 100),
        ("lm_eval_longbook_choice", "no", ["Snow", "C"], 0, 0),
    ],
)
def test_infinitebench(task: str, prediction: str, references: Any, score: float, corrected: float) -> None:
    assert scores(f"infinitebench/{task}", prediction, references) == (score, corrected)


def test_numbers_of_a_data_set_are_numbers_again() -> None:
    assert as_published("infinitebench/math_find", ("94", "94.5", "x")) == [94, 94.5, "x"]
    assert as_published("infinitebench/passkey", ("94",)) == ["94"]
    with pytest.raises(UserError, match="94 is not text"):
        score_example("infinitebench/passkey", "94", [94])
    with pytest.raises(UserError, match="94 is not text"):
        score_example("infinitebench/math_find", 94, [94])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "prediction", "references", "score", "corrected"),
    [
        ("json_kv", "\nCorresponding value: 9f8a-11", "9f8a-11", 100, 100),
        ("substring_exact_match", "Answer: The Hague", ["Hague"], 100, 100),
        ("substring_exact_match", "New-York", ["new york"], 0, 0),
        ("substring_exact_match", "no idea", ["The"], 100, 0),
        ("rag", "Answers are given", ["answer"], 100, 0),
        ("rag", "", ["x"], 0, 0),
        ("rag", "no idea", ["ER", "x"], 100, 0),  # in the cue, which the official script puts before the answer
        ("json_kv", "value: 9f8a", "9f8a-11", 0, 0),
        ("icl", "17", "17", 100, 100),
        ("icl", "Label: label: 17\nlabel: 3", "17", 100, 100),
        ("icl", "It is label: 17 maybe", "17", 0, 0),
    ],
)
def test_helmet(task: str, prediction: str, references: Any, score: float, corrected: float) -> None:
    assert scores(f"helmet/{task}", prediction, references) == (score, corrected)


def test_helmet_parses_outputs_and_rankings() -> None:
    assert parse_output("Well.\nANSWER: Paris\nmore", "Answer:") == "Paris"
    assert parse_output("Paris\nRome", "Answer:") == "Paris" and parse_output("", "Answer:") == ""
    assert parse_rankings("Ranking: [ID3] > ID1 > ID3 and 9") == {"3": 3, "1": 2}
    assert parse_rankings("3, 1, 2") == {"3": 1} and parse_rankings("none") == {"none": 1}


def test_rerank_is_ndcg_at_ten() -> None:
    qrels = ["4 3", "9 0", "7 1"]
    assert score_example("helmet/rerank", "4 > 7 > 9", qrels)["score"] == 100.0
    # gains 1 and 3 at ranks 1 and 2, of an ideal 3 and 1
    assert score_example("helmet/rerank", "7 > 4", qrels)["score"] == 79.6708
    assert score_example("helmet/rerank", "5 > 6", qrels)["score"] == 0.0
    assert ndcg({"a": 1}, {"a": 0}) == 0.0
    late = {str(n): 20 - n for n in range(12)}
    assert ndcg(late, {"11": 1}) == 0.0  # below rank 10


def test_longproc_routes() -> None:
    right = "From A, take a bus to B.\nFrom B, take a train to C.\nFrom C, take a bus to D."
    for said, score, partial, corrected in (
        (f"<Route>\n{right}\n</Route>", 100.0, 100.0, 100.0),
        (right, 0.0, 0.0, 0.0),
        ("<Route>From A, take a bus to B.\nFrom B, take a bus to C.</Route>", 0.0, 66.6667, 33.3333),
        ("<Route>From A, take a bus to B.</Route>", 0.0, 33.3333, 33.3333),
    ):
        scored = score_example("longproc/path_traversal", said, right)
        assert (scored["score"], scored["partial_accuracy"], scored["partial_corrected"]) == (score, partial, corrected)


def test_nolima_contains_the_name_in_its_case() -> None:
    assert score_example("nolima/contains", "It is Ada.", ["Bo", "Ada"])["score"] == 100.0
    assert score_example("nolima/contains", "ada", ["Ada"])["score"] == 0.0
