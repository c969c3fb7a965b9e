"""SCROLLS: each rule by a case worked out by hand, and the formulas against a second, plainer writing of them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.metrics import score_corpus, score_example
from lcbench.metrics.overlap import has_words

WORDS = st.lists(
    st.sampled_from(["a", "the", "The", "an", "theme", "x", "X", "1,5", "é", "“q”", "d-e", "'s", ".", "don't"]),
    max_size=8,
)
TEXTS = st.builds(lambda words, blank: blank.join(words), WORDS, st.sampled_from([" ", "  ", "\n", "\u00a0", " \t"]))


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("well-known", "wellknown", 100.0),  # punctuation is deleted, not replaced by a blank
        ("well known", "well-known", 0.0),
        ("1,000.50", "100050", 100.0),
        ("The  answer\u00a0is\u3000X", "answer is x", 100.0),
        ("theory", "ory", 0.0),  # articles are whole words
        ("the-ory", "theory", 100.0),  # and are looked for after the punctuation has gone
        ("a.n apple", "apple", 100.0),
        ("café", "cafe", 0.0),  # no accents and no typographic quotes are touched
        ("“yes”", "yes", 0.0),
        ('"yes"!', "yes", 100.0),
        ("İ", "i̇", 100.0),  # lower-casing is Unicode's
        ("x x y", "x y y", 66.6667),  # multisets: one x and one y are shared, of three
        ("x y", "y x", 100.0),
        ("x", "x y z", 50.0),
        ("", "", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_f1(prediction: str, reference: str, score: float) -> None:
    scored = score_example("scrolls/qasper", prediction, [reference])
    assert scored == {"score": score, "f1": score, "score_corrected": score}


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("", "the", 100.0),  # two empty texts are equal here, though their F1 is 0
        ("(A) text", "text", 100.0),
        ("b) text", "text", 0.0),
        ("C", "the option's text", 0.0),
        ("Entailment.", "entailment", 100.0),
        ("not entailment", "entailment", 0.0),
        ("not\nmentioned", "Not mentioned", 100.0),
    ],
)
def test_exact_match(prediction: str, reference: str, score: float) -> None:
    scored = score_example("scrolls/contract_nli", prediction, reference)
    corrected = 0.0 if (prediction, reference) == ("", "the") else score
    assert scored == {"score": score, "exact_match": score, "score_corrected": corrected}


@pytest.mark.parametrize(("own", "official"), [("exact_match", "scrolls/quality"), ("f1", "scrolls/qasper")])
@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("A", "A", True),  # the article is all there is
        ("a", "A", True),
        ("A.", "A", True),
        ("", "A", False),
        ("The", "A", False),
        ("B", "A", False),
        ("the", "The", True),
        ("the map", "a map", True),
        ("?", "!", False),
        ("!", "!", True),
    ],
)
def test_texts_of_articles_and_punctuation_alone(
    own: str, official: str, prediction: str, reference: str, right: bool
) -> None:
    assert score_example(own, prediction, reference)["score"] == 100.0 * right
    assert score_example(official, prediction, reference)["score_corrected"] == 100.0 * right


@pytest.mark.parametrize("text", ["the red map", "красная карта", "北京是首都", "خريطة حمراء", "지도", "赤い地図"])
def test_rouge_of_tasks_of_ones_own_knows_every_script(text: str) -> None:
    assert score_example("rouge", text, text)["score"] == (100.0 if text != "지도" else 0.0)  # one word has no bigram
    assert score_example("rouge", text, text)["rouge1"] == 100.0
    assert has_words(text) == text.isascii()


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("Cafe\u0301", "Caf\u00e9", True),  # an accent of its own
        ("“4821”。", "4821", True),
        ("\u200f4821\u200b", "4821", True),
        ("¿Qué?", "qué", True),
        ("Cafe", "Café", False),
        ("。", "！", False),
        ("。", "。", True),
    ],
)
def test_one_spelling_for_what_looks_the_same(prediction: str, reference: str, right: bool) -> None:
    """In tasks of one's own; official scorers stay as they are."""
    for own in ("exact_match", "f1"):
        assert score_example(own, prediction, reference)["score"] == 100.0 * right
    assert score_example("rouge", "Cafe\u0301", "Caf\u00e9")["rouge1"] == 100.0
    assert score_example("scrolls/quality", prediction, reference)["score"] == 100.0 * (prediction == reference)


def test_a_chinese_character_is_a_word() -> None:
    scored = score_example("rouge", "北京是城市", "北京是首都")
    assert (scored["rouge1"], scored["rouge2"], scored["rougeL"]) == (60.0, 50.0, 60.0)


@given(prediction=TEXTS.filter(str.isascii), reference=TEXTS.filter(str.isascii))
def test_rouge_of_ascii_is_the_official_one(prediction: str, reference: str) -> None:
    assert score_example("rouge", prediction, reference) == score_example("scrolls/qmsum", prediction, reference)


def test_the_best_reference_counts() -> None:
    assert score_example("scrolls/narrative_qa", "x y", ["z", "x", "x y"])["score"] == 100.0
    assert score_example("scrolls/quality", "x", ["z", "x"])["score"] == 100.0


def test_rouge_takes_the_maximum_of_each_part_by_itself() -> None:
    """ROUGE-1 from the first reference (5 of 5 words), ROUGE-2 and -L from the second (4 in a row of 4 and 5)."""
    scored = score_example("scrolls/qmsum", "p q r s t", ["t s r q p", "p q r s"])
    assert scored["rouge1"] == 100.0
    assert scored["rouge2"] == pytest.approx(100 * 2 * (3 / 4) * (3 / 3) / (3 / 4 + 3 / 3), abs=5e-5)
    assert scored["rougeL"] == pytest.approx(100 * 2 * (4 / 5) * (4 / 4) / (4 / 5 + 4 / 4), abs=5e-5)


def test_the_geometric_mean_is_of_averages() -> None:
    """The second row has no bigram, so its own geometric mean is 0; the corpus has averages 100, 50, 100."""
    corpus = score_corpus("scrolls/gov_report", ["one two", "yes"], [["one two"], ["yes"]])
    assert corpus["rouge2"] == 50.0 and corpus["score"] == round((100 * 50 * 100) ** (1 / 3), 4)


@pytest.mark.parametrize("prediction", ["", " ", "!?", "é", "世界"])
def test_rouge_knows_only_ascii_letters_and_digits(prediction: str) -> None:
    assert score_example("scrolls/qmsum", prediction, "é 世界 word")["score"] == 0.0


def test_rouge_words_end_at_punctuation_and_are_not_stemmed() -> None:
    assert score_example("scrolls/qmsum", "Well-Known facts", "well known facts")["score"] == 100.0
    assert score_example("scrolls/qmsum", "facts known", "fact known")["rouge1"] == 50.0


@given(prediction=TEXTS, reference=TEXTS)
def test_f1_and_exact_match_written_plainly(prediction: str, reference: str) -> None:
    predicted, expected = _words(prediction), _words(reference)
    score = 0.0
    left, shared = list(expected), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    if shared:
        score = 200 * shared / (len(predicted) + len(expected))  # 2pr / (p + r) with p = s/|P|, r = s/|E|
    assert score_example("scrolls/qasper", prediction, reference)["score"] == pytest.approx(score, abs=6e-5)
    assert score_example("scrolls/quality", prediction, reference)["score"] == 100.0 * (predicted == expected)


def _words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


@given(prediction=WORDS, reference=WORDS)
def test_rouge_written_plainly(prediction: list[str], reference: list[str]) -> None:
    scored = score_example("scrolls/qmsum", " ".join(prediction), " ".join(reference))
    one, other = _ascii_words(prediction), _ascii_words(reference)
    for part, length in (("rouge1", 1), ("rouge2", 2)):
        grams = [[tuple(words[at : at + length]) for at in range(len(words) - length + 1)] for words in (one, other)]
        shared = sum(min(grams[0].count(gram), grams[1].count(gram)) for gram in set(grams[0]))
        assert scored[part] == pytest.approx(_f(shared, len(grams[0]), len(grams[1])), abs=6e-5)
    assert scored["rougeL"] == pytest.approx(_f(_common(one, other), len(one), len(other)), abs=6e-5)


def _ascii_words(words: list[str]) -> list[str]:
    allowed = string.ascii_lowercase + string.digits
    text = "".join(letter if letter in allowed else " " for letter in " ".join(words).lower())
    return text.split()


def _common(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence, by its definition."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + _common(one[1:], other[1:])
    return max(_common(one[1:], other), _common(one, other[1:]))


def _f(shared: int, one: int, other: int) -> float:
    return 200 * shared / (one + other) if shared else 0.0


@given(prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=3), data=st.data())
@pytest.mark.parametrize("task", ["qasper", "quality", "qmsum"])
def test_what_holds_for_all_texts(task: str, prediction: str, references: list[str], data: st.DataObject) -> None:
    name = f"scrolls/{task}"
    scored = score_example(name, prediction, references)
    assert all(0 <= value <= 100 for value in scored.values())
    assert score_example(name, prediction, data.draw(st.permutations(references))) == scored
    assert score_corpus(name, [prediction] * 3, [references] * 3) == scored
    first = score_example(name, prediction, references[0])
    assert all(scored[part] >= first[part] for part in scored)
    assert score_example(name, references[0], prediction) == first
