"""InfiniteBench: its twelve tasks.

Reference: OpenBMB/InfiniteBench@88b3daa6 src/compute_scores.py (Zhang et al. 2024, https://arxiv.org/abs/2402.13718).
References are as in its files: for longbook_choice_eng and code_debug the option's text and its letter; for code_run,
math_find and math_calc numbers. Given as texts, numbers never match there; tasks turn them into numbers first
(`lcbench.metrics.as_published`).

Faults of the official rules, which `score` keeps:
- longbook_choice_eng: an answer that begins with A, B, C or D is that letter, so "Certainly, B" is C.
- code_debug: a letter by itself is not an answer, though the prompt ends "The correct option is:", nor is "answer is
B";
  one character after the phrase is skipped, so "answer is:B" is none.
- math_find, math_calc: signs are not read. code_run: 4.0 is not 4.
- longdialogue_qa_eng: only the first of several names of a character counts, and one of two words never matches.

`score_corrected`, for those, takes the letter as a reader understands it, or the option's text; numbers as people
write them; any of the names.

Deviations: the official scorer stops at a decimal number for a whole one in math_find, and at labels of math_find
that are texts; here these score 0. The variant for GPT-4 of math_calc, which skips the first number, is not given.
`lm_eval_longbook_choice` is the rule of EleutherAI/lm-evaluation-harness@4e7e0d47 infinitebench/utils.py: the last
single letter.
"""

from __future__ import annotations

# ruff: noqa: RUF001  (full-width punctuation)
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from lcbench.metrics.arithmetic import number_as_written, numbers_as_written, same_number
from lcbench.metrics.base import JointMetric, Metric, Scored
from lcbench.metrics.choices import meant
from lcbench.metrics.overlap import OFFICIAL_F1, shared_f1

Number = int | float | str
_MARKS = "\n:\"'.,?!{}"
_WIDE = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation + _WIDE)
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_CHOICE_CUES = ("answer is:", "answer:", "answer is", "option is")
_DEBUG_CUES = ("answer is:", "is:", "answer:")


def _spaced(text: str, marks: Sequence[str]) -> str:
    """The text with each of these marks replaced by a blank."""
    for mark in marks:
        text = text.replace(mark, " ")
    return text


def _squeezed(text: str) -> str:
    """Runs of blanks, and of nothing else, become one."""
    return re.sub(" {2,}", " ", text)


def _first_digits(prediction: str, reference: str) -> Scored:
    found = re.search("[0-9]+", prediction)
    return Scored({"score": float((found[0] if found else "") == reference)})


def _value(prediction: str, reference: str) -> Scored:
    return Scored({"score": float(reference in _spaced(prediction, _MARKS).split())})


def _speaker(prediction: str, references: Sequence[str]) -> Scored:
    words = _spaced(prediction, _MARKS).upper().split()
    said = f" {' '.join(words)} "
    named = any(f" {' '.join(_spaced(name, _MARKS).upper().split())} " in said for name in references)
    return Scored({"score": float(references[0] in words), "score_corrected": float(named)})


def _code_output(prediction: str, reference: Number) -> Scored:
    words = _spaced(prediction, "\n.`'\":").split()
    try:
        score = float(int(words[-1]) == reference) if words else 0.0
    except ValueError:
        score = 0.0
    return Scored({"score": score, "score_corrected": _equal(number_as_written(prediction), reference)})


def _found_number(prediction: str, reference: Number) -> Scored:
    found = _NUMBER.search(prediction)
    written = numbers_as_written(prediction)
    score = 0.0
    if found and not isinstance(reference, str):
        whole = isinstance(reference, int)
        score = float((not whole or found[0].isdigit()) and float(found[0]) == reference)
    return Scored({"score": score, "score_corrected": _equal(written[0] if written else None, reference)})


def _intermediate_values(prediction: str, references: Sequence[Number]) -> Scored:
    digits = re.findall("[0-9]+", prediction)
    plain = [
        not isinstance(value, str) and str(value) == (one.lstrip("0") or "0") for value, one in zip(references, digits)
    ]
    signed = [bool(_equal(one, value)) for value, one in zip(references, numbers_as_written(prediction))]
    return Scored(
        {
            "score": _leading(plain) / len(references),
            "score_corrected": _leading(signed) / len(references),
        }
    )


def _leading(right: Sequence[bool]) -> int:
    """How many are right before the first that is not."""
    return next((place for place, one in enumerate(right) if not one), len(right))


def _equal(written: str | None, reference: Number) -> float:
    return float(same_number(written, str(reference)))


def _choice(prediction: str, references: Sequence[str]) -> Scored:
    return _of_option(_official_choice(prediction, references), prediction, references)


def _official_choice(prediction: str, references: Sequence[str]) -> bool:
    prediction = prediction.strip()
    if prediction[:1] and prediction[0] in "ABCD":
        return prediction[0] in references
    if prediction in references:
        return True
    text = _squeezed(_spaced(prediction, _MARKS.replace(":", "")))
    told = _after_cue(text, _CHOICE_CUES)
    if told is not None:
        return told.startswith(tuple(references))
    word = next((word for word in text.split() if word in "ABCD"), None)
    return word is not None and word in references


def _wrong_function(prediction: str, references: Sequence[str]) -> Scored:
    """`references` are the name of the function and its letter."""
    prediction = prediction.strip()
    if prediction[:2] in [f"{references[-1]}.", f"{references[-1]}:"]:
        return _of_option(True, prediction, references)
    text = _squeezed(_spaced(prediction, ("\n", *"`'\"-*", "Option", "option")))
    told = _after_cue(text, _DEBUG_CUES)
    return _of_option(told is not None and told.startswith(tuple(references)), prediction, references)


def _after_cue(text: str, cues: Sequence[str]) -> str | None:
    """The text after the first of the cues that occurs, less one character; None without a cue."""
    cue = next((cue for cue in cues if cue in text), None)
    return None if cue is None else text[text.find(cue) + len(cue) + 1 :]


def _of_option(official: bool, prediction: str, references: Sequence[str]) -> Scored:
    option, letter = references[0], references[-1]
    letters = meant(prediction, several=False)
    named = re.search(rf"(?<!\w){re.escape(option)}(?!\w)", prediction, re.IGNORECASE) is not None
    corrected = letters == {letter} if letters else named
    return Scored({"score": float(official), "score_corrected": float(corrected)})


def _last_letter(prediction: str, references: Sequence[str]) -> Scored:
    """The rule of lm-evaluation-harness; the letter is the last reference."""
    text = re.sub(r"[\x00-\x1f]", " ", prediction.strip()).strip()
    alone = re.findall(r"\b[A-D]\b", text)
    if alone or text[:1] in ("A", "B", "C", "D"):
        return Scored({"score": float((alone[-1] if alone else text[0]) == references[-1])})
    if text and text.upper() == references[-1]:
        return Scored({"score": 1.0})
    plain = _spaced(text, _MARKS.replace(":", ""))
    told = [
        plain[plain.lower().find(cue) + len(cue) :].strip().upper()[:1] for cue in _CHOICE_CUES if cue in plain.lower()
    ]
    found = next((letter for letter in told if letter and letter in "ABCD"), None)
    words = (word.upper() for word in plain.split())
    return Scored(
        {"score": float((found or next((w for w in words if w in ("A", "B", "C", "D")), None)) == references[-1])}
    )


def _chinese_f1(prediction: str, reference: str) -> Scored:
    predicted, expected = (
        "".join(text.lower().translate(_WITHOUT_PUNCTUATION).split()) for text in (prediction, reference)
    )
    return Scored({"score": shared_f1(list(predicted), list(expected))})


def _rouge_lsum(prediction: str, reference: str) -> Scored:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: over a second

    scorer = RougeScorer(["rougeLsum"], use_stemmer=False)
    return Scored({"score": scorer.score(reference, prediction)["rougeLsum"].fmeasure})


_COMPARED: dict[str, Callable[..., Any]] = {
    "passkey": _first_digits,
    "number_string": _first_digits,
    "kv_retrieval": _value,
    "longbook_sum_eng": _rouge_lsum,
    "longbook_qa_chn": _chinese_f1,
}
INFINITEBENCH = {
    **{task: Metric(compare) for task, compare in _COMPARED.items()},
    "longbook_qa_eng": OFFICIAL_F1,
    "longdialogue_qa_eng": JointMetric(_speaker),
    "longbook_choice_eng": JointMetric(_choice),
    "code_debug": JointMetric(_wrong_function),
    "code_run": Metric(_code_output, numeric=True),
    "math_find": Metric(_found_number, numeric=True),
    "math_calc": JointMetric(_intermediate_values, numeric=True),
    "lm_eval_longbook_choice": JointMetric(_last_letter),
}
