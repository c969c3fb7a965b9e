"""LongBench: each rule by a case worked out by hand; ROUGE-L against its formula."""

from __future__ import annotations

import sys

import pytest

from lcbench.core.errors import UserError
from lcbench.metrics import score_corpus, score_example

CLASSES = ["Date", "Other number", "Number", "Other", "Description of a person", "Person", "Description"]


def test_questions_are_scored_by_f1() -> None:
    assert score_example("longbench/hotpotqa", "The Eiffel-Tower!", ["eiffeltower", "x"])["score"] == 100.0
    assert score_example("longbench/qasper", "x\ny", "x y")["score"] == 100.0
    only_articles = score_example("longbench/triviaqa", "The The", ["The The", "A"])
    assert only_articles == {"score": 0.0, "score_corrected": 100.0}


def test_tasks_with_demonstrations_take_the_first_line() -> None:
    answer = "\n\nParis\nPassage: more"
    assert score_example("longbench/triviaqa", answer, "Paris")["score"] == 100.0
    assert score_example("longbench/narrativeqa", answer, "Paris")["score"] == 50.0
    assert score_example("longbench/triviaqa", " \nParis", "Paris")["score"] == 0.0  # only line breaks are skipped
    assert score_example("longbench/samsum", "we meet\nmore", "we meet")["score"] == pytest.approx(100, abs=1e-4)
    assert score_example("longbench/trec", "Date\nType: Other", "Date", classes=["Date", "Other"])["score"] == 100.0


@pytest.mark.parametrize(
    ("prediction", "reference", "overlap", "predicted", "expected"),
    [
        ("p q r", "p q r", 3, 3, 3),
        ("p q r", "p r s", 2, 3, 3),
        ("P q", "p q", 1, 2, 2),  # case stays
        ("p, q", "p q", 1, 2, 2),  # and so does punctuation
        ("p p q", "p q", 2, 2, 2),  # distinct words are counted
        ("q r. p s", "p q. r s", 4, 4, 4),  # each sentence of the reference meets both of the answer's
        ("q p", "p q", 1, 2, 2),
        ("p q\nr", "p q r", 3, 3, 3),
    ],
)
def test_rouge_l(prediction: str, reference: str, overlap: int, predicted: int, expected: int) -> None:
    """F of distinct words, of which `overlap` lie on a longest common subsequence of two sentences."""
    precision, recall = overlap / predicted, overlap / expected
    score = 100 * 2 * precision * recall / (precision + recall + 1e-8)
    assert score_example("longbench/gov_report", prediction, reference)["score"] == pytest.approx(score, abs=6e-5)


@pytest.mark.parametrize("prediction", ["", ".", "..."])
def test_rouge_l_of_nothing(prediction: str) -> None:
    assert score_example("longbench/qmsum", prediction, "p q")["score"] == 0.0


def test_rouge_l_of_an_endless_sentence_is_zero_as_in_the_official_scorer() -> None:
    assert score_example("longbench/multi_news", "p q" + " word" * 100, "p q")["score"] > 0
    assert score_example("longbench/multi_news", "p q" + " word" * 1200, "p q")["score"] == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("x = 1", "x = 1", 100),
        ("\n# comment\n```python\nx = 1\ny = 2", "x = 1", 100),  # the first line that is code
        ("// no\n\nx", "x", 0),  # an empty line is one
        ("abcd", "bcde", 75),  # 2 * 3 / 8
        ("abc", "abd", 67),  # whole percents
        ("tide", "diet", 25),  # difflib's blocks: one letter; an edit distance would give 50
        ("# only", "x", 0),
        ("", "", 100),
        ("", "x", 0),
    ],
)
def test_code_similarity(prediction: str, reference: str, score: float) -> None:
    assert score_example("longbench/lcc", prediction, reference)["score"] == score


@pytest.mark.parametrize(
    ("prediction", "reference", "score", "corrected"),
    [
        ("Date", "Date", 100, 100),
        ("Date or Person", "Date", 50, 50),
        ("date", "Date", 0, 0),
        ("", "Date", 0, 0),
        ("Person", "Date", 0, 0),
        ("Other number", "Other number", 100, 100),  # its parts Other is taken out; Number is not named
        ("Description of a person", "Description of a person", 100, 100),
        ("Other", "Other number", 0, 0),
    ],
)
def test_classes(prediction: str, reference: str, score: float, corrected: float) -> None:
    scored = score_example("longbench/trec", prediction, reference, classes=CLASSES)
    assert scored == {"score": score, "score_corrected": corrected}


def test_the_class_after_a_removed_one_is_overlooked() -> None:
    """`ab` and `b` are parts of `abc`; once `ab` is out, the loop steps over `b`, which so halves the score."""
    scored = score_example("longbench/lsht", "abc", "abc", classes=["ab", "b", "abc"])
    assert scored == {"score": 50.0, "score_corrected": 100.0}


@pytest.mark.parametrize("classes", [None, []])
def test_classes_must_be_given(classes: list[str] | None) -> None:
    with pytest.raises(UserError, match=r"longbench/trec needs the names of all classes"):
        score_example("longbench/trec", "Date", "Date", classes=classes)


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "score"),
    [
        ("passage_count", "There are 7 of them", "7", 100),
        ("passage_count", "7, or 8, or 7.5", "7", 50),
        ("passage_count", "07", "7", 0),
        ("passage_count", "seven", "7", 0),
        ("passage_retrieval_en", "Paragraph 12", "Paragraph 12", 100),
        ("passage_retrieval_en", "12 or 3", "Paragraph 12", 50),
        ("passage_retrieval_en", "Paragraph 1", "Paragraph 12", 0),
        ("passage_retrieval_zh", "段落3", "段落3", 100),
    ],
)
def test_numbers(task: str, prediction: str, reference: str, score: float) -> None:
    assert score_example(f"longbench/{task}", prediction, reference)["score"] == score


def test_a_reference_must_name_its_paragraph() -> None:
    with pytest.raises(UserError, match="names no paragraph"):
        score_example("longbench/passage_retrieval_en", "12", "12")


def test_a_corpus_is_the_mean_of_the_best_references() -> None:
    assert score_corpus("longbench/passage_count", ["7", "8", "1"], [["6", "7"], "8", "2"])["score"] == 66.6667


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("中国", "中国", 100),
        ("中国。", "中国》", 100),  # signs belong to no word
        ("中国", "《中国》", 66.6667),  # but for this one, which the official list lacks
        ("", "中国", 0),
        ("北京大学", "清华大学", 0),  # each is one word
        ("我 喜欢 苹果", "我喜欢苹果", 100),
        ("我喜欢", "我喜欢苹果", 80),  # two of two words, two of three: 2 * 1 * 2/3 / (5/3)
    ],
)
def test_chinese_questions_are_scored_by_words(prediction: str, reference: str, score: float) -> None:
    assert score_example("longbench/multifieldqa_zh", prediction, reference)["score"] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("task", ["dureader", "vcsum"])
def test_chinese_rouge_l_is_of_segmented_words(task: str) -> None:
    assert score_example(f"longbench/{task}", "我喜欢苹果", "我喜欢苹果")["score"] == pytest.approx(100, abs=1e-4)
    half = score_example(f"longbench/{task}", "我喜欢", "我喜欢苹果")["score"]
    assert half == pytest.approx(score_example("longbench/gov_report", "w l", "w l a")["score"], abs=1e-4)
    assert score_example(f"longbench/{task}", "", "我喜欢苹果")["score"] == 0


def test_without_jieba_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UserError, match=r"pip install 'lcbench\[zh\]'"):
        score_example("longbench/vcsum", "我", "我")
