"""L-Eval: each official rule by a case worked out by hand, the faults among them, and what stands beside them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.core.errors import UserError
from lcbench.metrics import score_corpus, score_example

# prediction, gold -> official score, ChunkLlama's copy, corrected
SINGLE = [
    ("B", "B", 100, 100, 100),
    ("(D) Yes, because", "(D) Yes, because the ruler says so.", 100, 100, 100),
    ("D", "(D) 406", 100, 100, 100),
    ("Based on the text, the answer is C.", "C", 0, 0, 100),  # the first capital A to D is the B of Based
    ("Based on the text, the answer is C.", "B", 100, 100, 0),
    ("Answer: C", "C", 0, 0, 100),
    ("Answer: C", "A", 100, 100, 0),
    ("Because C", "C", 0, 0, 100),
    ("A good reason for C.", "C", 0, 0, 100),  # the article is not an answer
    ("The answer is A because of it.", "A", 100, 100, 100),
    ("The correct option would be D", "D", 100, 100, 100),
    ("I think A is right.", "A", 100, 100, 100),
    ("Option D fits, not option A.", "D", 100, 100, 100),
    ("b", "B", 0, 0, 0),
    ("b", "A", 100, 0, 0),  # no letter: the official scorer guesses A, the copy does not
    ("no idea", "A", 100, 0, 0),
    ("EFG", "A", 100, 0, 0),
    ("None", "A", 100, 0, 0),
    ("", "A", 0, 25, 0),  # the copy keeps the empty answer, whose letters are among the right ones
    ("", "D", 0, 25, 0),
    (" \n", "A", 0, 0, 0),
    ("\u00a0", "A", 0, 0, 0),
    ("BC", "B", 0, 0, 0),  # the whole response is a piece of ABCD and stays as it is
    ("AC", "A", 100, 100, 0),  # this one is not, and its first letter is taken
    ("ABCD", "A", 0, 0, 0),
    ("The answer is A. Question 2: B", "A", 100, 100, 100),
    ("Question 2. C", "C", 100, 100, 100),
    ("It's Barnes' D", "D", 0, 0, 100),
    ("B", "none of these", 0, 0, 0),  # a gold without letters is A, in the copy nothing
    ("A", "none of these", 100, 0, 100),
]
SEVERAL = [
    ("CD", "CD", 100, 100, 100),
    ("DC", "CD", 100, 100, 100),
    ("C", "CD", 25, 25, 25),
    ("BCD", "CD", 0, 0, 0),  # more than the right ones earn nothing
    ("CCD", "CD", 100, 100, 100),
    ("CD and more", "CD", 100, 100, 100),
    ("B, D", "BD", 25, 25, 100),  # the last letter has nothing after it and is lost
    ("B, D.", "BD", 100, 100, 100),
    ("A B C D", "ABC", 100, 100, 0),
    ("A B C D", "ABCD", 25, 25, 100),
    ("A) x\nC) y", "AC", 100, 100, 100),
    ("The answers are A, C and D.", "ACD", 25, 25, 100),  # "A," is lost as well: D before ". " and C before " "
    ("The answer is AC", "AC", 100, 100, 100),  # no letter is marked; the first run of letters counts
    ("The answer is CA", "AC", 25, 25, 100),  # a run is not sorted
    ("The answer: BD, as shown", "BD", 100, 100, 100),
    ("Because of it", "B", 100, 100, 0),
    ("C. Question 3. D. A.", "C", 100, 100, 100),
    ("Options C. and D.", "CD", 100, 100, 100),
    ("E. F.", "A", 100, 0, 0),
    ("AD, since both hold", "AD", 100, 100, 100),
    ("", "BD", 0, 25, 0),
    ("  ", "BD", 0, 0, 0),
    ("nothing fits", "AB", 25, 0, 0),
]


@pytest.mark.parametrize("task", ["tpo", "quality"])
@pytest.mark.parametrize(("prediction", "gold", "score", "copy", "corrected"), SINGLE)
def test_one_letter(task: str, prediction: str, gold: str, score: float, copy: float, corrected: float) -> None:
    scored = score_example(f"leval/{task}", prediction, gold)
    assert (scored["score"], scored["score_chunkllama_copy"], scored["score_corrected"]) == (score, copy, corrected)


@pytest.mark.parametrize(("prediction", "gold", "score", "copy", "corrected"), SEVERAL)
def test_several_letters(prediction: str, gold: str, score: float, copy: float, corrected: float) -> None:
    scored = score_example("leval/coursera", prediction, [gold])
    assert (scored["score"], scored["score_chunkllama_copy"], scored["score_corrected"]) == (score, copy, corrected)


@pytest.mark.parametrize(
    ("task", "prediction", "letters"),
    [
        ("tpo", "", "None"),
        ("tpo", "x", "A"),
        ("tpo", "BC", "BC"),
        ("coursera", "x CA", "CA"),
        ("coursera", "DAD", "AD"),
    ],
)
def test_letters_that_the_official_scorer_reads(task: str, prediction: str, letters: str) -> None:
    scored = score_example(f"leval/{task}", prediction, "(B) b")
    assert (scored["pred_letters"], scored["gt_letters"]) == (letters, "B")


@given(answer=st.lists(st.sampled_from(["A", "B", "D", "E", "x", " ", ".", ")", "\n", "Question"]), max_size=9))
def test_coursera_letters_written_plainly(answer: list[str]) -> None:
    text = "".join(answer)
    scored = score_example("leval/coursera", text, "C")
    assert scored["pred_letters"] == _letters_of_coursera(text)


def _letters_of_coursera(text: str) -> str:
    """The rule by single characters instead of patterns."""
    if not text.strip():
        return "None"
    if text in ("A", "B", "AB", "D"):
        return text
    leading = len(text) - len(text.lstrip("ABCD"))
    if leading > 1:
        return "".join(letter for letter in "ABCD" if letter in text[:leading])
    rest = text[leading:]
    if "Question" in rest:
        rest = rest[: rest.index("Question")]
    kept = set(text[:leading])
    for here, following in itertools.pairwise(rest):
        if here in "ABCD" and (following in ".)" or following.isspace()):
            kept.add(here)
    if kept:
        return "".join(sorted(kept))
    run = ""
    for letter in rest:
        if letter in "ABCD":
            run += letter
        elif run:
            break
    return run or "A"


def test_a_corpus_of_letters_is_the_mean() -> None:
    corpus = score_corpus("leval/coursera", ["C", "CD", "", "A"], ["CD", "CD", "A", "B"])
    assert corpus == {"score": 31.25, "score_chunkllama_copy": 37.5, "score_corrected": 31.25}


@pytest.mark.parametrize(
    ("prediction", "gold", "pred", "score", "corrected"),
    [
        ("False [fact: True]", "False [fact: False]", ["false", "true"], 50, 50),
        ("TRUE. [Fact: It is false.]", "True [fact: False]", ["true", "false"], 100, 100),
        ("untrue [fact: true]", "True [fact: True]", ["true", "true"], 100, 50),  # "untrue" contains "true"
        ("True [fact: False", "True [fact: False]", ["true", "<error>"], 50, 100),  # "fals": the last letter is cut
        ("I cannot say [fact: true]", "True [fact: True]", ["<error>", "true"], 50, 50),
        ("false or true [fact: true or false]", "False [fact: True]", ["false", "true"], 100, 100),
        ("True [fact: False] [fact: True]", "True [fact: False]", ["true", "false"], 100, 100),
        ("True", "True [fact: True]", ["true", "<error>"], 50, 50),  # where the official scorer stops
        ("", "True [fact: True]", ["<error>", "<error>"], 0, 0),
        ("[fact:", "True [fact: True]", ["<error>", "<error>"], 0, 0),
    ],
)
def test_sci_fi(prediction: str, gold: str, pred: list[str], score: float, corrected: float) -> None:
    scored = score_example("leval/sci_fi", prediction, gold)
    assert (scored["pred"], scored["score"], scored["score_corrected"]) == (pred, score, corrected)
    assert scored["score"] == (scored["loyalty"] + scored["fact"]) / 2 == scored["score_chunkllama_copy"]


def test_sci_fi_averages_each_half() -> None:
    gold = ["True [fact: True]"] * 3
    corpus = score_corpus("leval/sci_fi", ["true [fact: false]", "true [fact: true]", "no [fact: false]"], gold)
    assert (corpus["loyalty"], corpus["fact"], corpus["score"]) == (66.6667, 33.3333, 50.0)


@pytest.mark.parametrize("task", ["gsm", "gsm100"])
@pytest.mark.parametrize(
    ("prediction", "gold", "number", "score", "corrected"),
    [
        ("The answer is 42.", "42", "42", 100, 100),
        ("The answer is $1,042.50 in all", "1042", "1042", 100, 0),
        ("The answer is -7", "7", "7", 100, 0),
        ("So 3 + 4 = 7 apples.", "7", "7", 100, 100),
        ("first 5\n\nthen 6", "5", "5", 100, 0),  # only the first paragraph is read
        ("7 apples\nor 8", "8", "8", 100, 100),
        ("The answer is 3. The answer is 4.", "3", "3", 100, 0),  # the first statement counts
        ("the answer is 9, out of 10", "9", "10", 0, 100),  # small t: the last word with a digit
        ("The answer is unknown", "5", "", 0, 0),
        ("", "5", "", 0, 0),
        ("no digit", "5", "", 0, 0),
        ("The answer is 007", "7", "007", 100, 100),
        ("The answer is .5", "5", "", 0, 0),
    ],
)
def test_gsm(task: str, prediction: str, gold: str, number: str, score: float, corrected: float) -> None:
    scored = score_example(f"leval/{task}", prediction, gold)
    assert (scored["pred_number"], scored["score"], scored["score_corrected"]) == (number, score, corrected)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("The first topic was 'The Role of Art in Society'.", 100),
        ("the roleof  art insociety", 100),  # case and blanks do not count
        ("the role of art\nin society", 0),  # but other white space does
        ("the role of art in society's eyes", 100),
        ("art in society", 0),
        ("", 0),
    ],
)
def test_topic_retrieval(prediction: str, score: float) -> None:
    scored = score_example("leval/topic_retrieval_longchat", prediction, "The role of art in society")
    assert scored == {"score": score, "score_chunkllama_copy": score}


def test_topics_that_are_numbers_are_compared_as_numbers() -> None:
    assert score_example("leval/topic_retrieval_longchat", "1e3", "1000.0")["score"] == 100
    assert score_example("leval/topic_retrieval_longchat", "10001", "1000")["score"] == 0


def test_golds_of_letters_are_compared_without_punctuation() -> None:
    assert score_example("leval/topic_retrieval_longchat", "(A).", "A")["score"] == 100
    assert score_example("leval/topic_retrieval_longchat", "It is A", "A")["score"] == 0


def test_topics_are_averaged_by_turn() -> None:
    """Two documents: the first turn right in both, the second in one, the third in none; then half a document more."""
    gold = ["x", "y", "z"] * 2
    corpus = score_corpus("leval/topic_retrieval_longchat", ["x", "y", "-", "x", "-", "-"], gold)
    assert (corpus["turn_1"], corpus["turn_2"], corpus["turn_3"], corpus["score"]) == (100, 50, 0, 50)
    corpus = score_corpus("leval/topic_retrieval_longchat", ["x", "y", "-", "x"], gold[:4])
    assert corpus["score"] == 66.6667  # not the mean of the rows, 75
    assert score_corpus("leval/topic_retrieval_longchat", ["x", "-"], gold[:2])["score"] == 50


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("So, the final output of the code is:\n\n```\narray([6, 15])\n```", "[6 15]", 100),
        ("Therefore, the final output of the code is 21.", "3", 0),
        ("[[1, 2],\n [3, 4],\n [4, 4]]", "[[1 2][3 4][4 4]]", 100),
        ("the final output will be 5 as 1 2 3 4 5 6 7 8 9 10 11 12", "12", 0),  # of what follows, the first words
        ("12 first, then 1 2 3 4 5", "12", 0),  # else the last ones of all
        ("2.0", "2", 100),
        ("15", "5", 0),  # two numbers, compared as numbers
        ("it prints 15", "5", 100),  # contained
        ("'abc'", "abc", 100),
        ("", "abc", 0),
    ],
)
def test_code_output(prediction: str, gold: str, score: float) -> None:
    assert score_example("leval/codeU", prediction, gold)["score"] == score


@pytest.mark.parametrize("task", ["scientific_qa", "narrative_qa", "financial_qa"])
def test_open_questions_are_scored_by_f1(task: str) -> None:
    scored = score_example(f"leval/{task}", "A ReLU, selu", ["relu, selu, tanh"])
    assert scored == {"score": 80.0, "f1": 80.0, "score_corrected": 80.0}


@pytest.mark.parametrize("task", ["gov_report_summ", "paper_assistant"])
def test_summaries_are_scored_by_rouge(task: str) -> None:
    texts = ("The group decided to save time", "To save time, the group decided to label overlaps")
    assert score_example(f"leval/{task}", *texts) == score_example("scrolls/qmsum", *texts)


@pytest.mark.parametrize(("name", "reference"), [("leval/tpo", " "), ("leval/sci_fi", "True")])
def test_references_that_are_none(name: str, reference: str) -> None:
    with pytest.raises(UserError, match="reference"):
        score_example(name, "A", reference)
