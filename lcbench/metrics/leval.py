"""L-Eval's closed-ended tasks by the rules of its own scorer, with a corrected score where those rules are wrong.

Reference: OpenLMLab/LEval@cd34b050 Evaluation/auto_eval.py and em.py (An et al. 2023,
https://arxiv.org/abs/2307.11088). `score_chunkllama_copy` is the score by the older copy in the DCA paper's
repository (HKUNLP/ChunkLlama@2add4d7c zero-shot/Evaluation): there a blank answer to a multiple-choice question
earns 0.25, and an answer without a letter counts as wrong instead of as `A`.

Known faults of the official rules, which `score` keeps:
- tpo, quality: the first capital A to D anywhere is the answer, so "Based on ... C" is B and "Answer: C" is A.
- coursera: the last of "A B D" is lost, because only letters before a blank, a full stop or a bracket count; an answer
  without any letter is A.
- sci_fi: a word that contains `true` is true, so `untrue` is. Without a closing bracket the last letter is cut off.
- gsm: signs and decimals are dropped, so 7.5 and -7 equal 7.
- codeU: the expected output need only be contained, so 15 matches 5 (not corrected).

`score_corrected` is given for all but codeU and topic_retrieval_longchat. It takes, for multiple choice
(lcbench.metrics.choices), the letters as a reader understands the answer, and none for a blank answer; for sci_fi the
first whole word `true` or `false` before `[fact:` and after it; for gsm the first number after the last "answer is",
else the last number.

Deviations from the official scorer, which stops with an IndexError there: a sci_fi answer without `[fact:` has no
second part, which counts as wrong; a topic_retrieval_longchat corpus of one or two rows is averaged over its one or two
turns. The mean over turns or halves is rounded to four decimals like every other score.
"""

from __future__ import annotations

import re

from lcbench.core.errors import UserError
from lcbench.metrics.arithmetic import same_number
from lcbench.metrics.base import DECIMALS, Metric, Scored, TurnMetric
from lcbench.metrics.choices import chosen, expected_letters, meant
from lcbench.metrics.overlap import OFFICIAL_F1, OFFICIAL_ROUGE, normalize_cased

NOTHING = "<error>"
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def em(prediction: str, reference: str) -> float:
    """L-Eval's exact match: letters 1 or 0.25 (a part of the right ones), numbers as numbers, other texts contained."""
    predicted, expected = normalize_cased(prediction), normalize_cased(reference)
    if set(expected) <= set("ABCD"):
        if predicted == expected:
            return 1.0
        return 0.25 if set(predicted) <= set(expected) else 0.0
    try:
        return float(float(prediction) == float(reference))
    except ValueError:
        return float(_compact(reference) in _compact(prediction))


def _compact(text: str) -> str:
    return text.lower().replace(" ", "")


def _multiple_choice(prediction: str, reference: str, several: bool) -> Scored:
    letters, expected = chosen(prediction, several), expected_letters(reference)
    copy = em(chosen(prediction, several, older=True), expected_letters(reference, older=True))
    right, understood = set(expected), meant(prediction, several)
    corrected = 1.0 if understood == right else 0.25 if understood and understood < right else 0.0
    return Scored(
        {"score": em(letters, expected), "score_chunkllama_copy": copy, "score_corrected": corrected},
        {"pred_letters": letters, "gt_letters": expected},
    )


def _one_letter(prediction: str, reference: str) -> Scored:
    return _multiple_choice(prediction, reference, several=False)


def _letters(prediction: str, reference: str) -> Scored:
    return _multiple_choice(prediction, reference, several=True)


def _judgement(prediction: str, reference: str) -> Scored:
    """Loyalty to the story and the fact outside it, of an answer `<word> [fact: <word>]`."""
    if "[fact:" not in reference.lower():
        raise UserError(f"reference {reference!r} lacks its second part, '[fact: ...]'.")
    predicted, expected = [_word(half) for half in _halves(prediction)], _halves(reference)
    loyalty, fact = (em(word, right) for word, right in zip(predicted, expected, strict=True))
    before, _, after = prediction.lower().partition("[fact:")
    corrected = ((_whole_word(before) == expected[0]) + (_whole_word(after) == expected[1])) / 2
    return Scored({"loyalty": loyalty, "fact": fact, "score_corrected": corrected}, {"pred": predicted, "gt": expected})


def _halves(text: str) -> list[str]:
    before, *after = text.lower().split("[fact:")
    return [before.strip(), after[0][:-1].strip() if after else ""]


def _word(text: str) -> str:
    for word in text.split():
        if "true" in word or "false" in word:
            return "true" if "true" in word else "false"
    return NOTHING


def _whole_word(text: str) -> str:
    found = re.search(r"\b(true|false)\b", text)
    return found[1] if found else NOTHING


def _mean_of_halves(parts: dict[str, float]) -> dict[str, float]:
    score = (round(parts["loyalty"], DECIMALS) + round(parts["fact"], DECIMALS)) / 2
    return {"score": score, "score_chunkllama_copy": score, **parts}


def _arithmetic(prediction: str, reference: str) -> Scored:
    predicted, expected = _digits(prediction), _digits(reference)
    score = em(predicted, expected)
    corrected = same_number(_final_number(prediction), _final_number(reference))
    return Scored(
        {"score": score, "score_chunkllama_copy": score, "score_corrected": float(corrected)},
        {"pred_number": predicted, "gt_number": expected},
    )


def _digits(text: str) -> str:
    """The digits before the point in the word after "The answer is", else in the last word of the first paragraph
    that has a digit."""
    stated = re.search(r"The answer is (\S+)", text)
    words = reversed(text.split("\n\n")[0].split(" "))
    word = stated[1] if stated else next((word for word in words if any(map(str.isdigit, word))), "")
    return "".join(filter(str.isdigit, word.partition(".")[0]))


def _final_number(text: str) -> str | None:
    *before, after = re.split("(?i)answer is", text)
    numbers = (before and _NUMBER.findall(after)[:1]) or _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def _topic(prediction: str, reference: str) -> Scored:
    score = em(prediction, reference)
    return Scored({"score": score, "score_chunkllama_copy": score})


def _code_output(prediction: str, reference: str) -> Scored:
    """Whether the expected output is in the words after "the final output", else in the last ones."""
    text = _plain_code(prediction)
    for phrase in ("will be", "of the code", "is", "would be", "the value of", "the result of", "printed"):
        text = text.replace(phrase, "")
    count = len(reference.split()) + 3
    if "the final output" in text:
        words = re.split(r"\s+", text.split("the final output")[-1])[:count]
    else:
        words = re.split(r"\s+", text)[-count:]
    score = em(" ".join(words), _plain_code(reference))
    return Scored({"score": score, "score_chunkllama_copy": score})


def _plain_code(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    for mark in (",", "'", "\\", ".0"):
        text = text.replace(mark, "")
    for apart, joined in (("] [", "]["), ("[ [", "[["), ("] ]", "]]")):
        text = text.replace(apart, joined)
    return text


LEVAL = {
    **dict.fromkeys(("tpo", "quality"), Metric(_one_letter)),
    "coursera": Metric(_letters),
    "sci_fi": Metric(_judgement, summarize=_mean_of_halves),
    **dict.fromkeys(("gsm", "gsm100"), Metric(_arithmetic)),
    "topic_retrieval_longchat": TurnMetric(_topic, turns=3),
    "codeU": Metric(_code_output),
    **dict.fromkeys(
        ("financial_qa", "legal_contract_qa", "multidoc_qa", "narrative_qa", "natural_question", "scientific_qa"),
        OFFICIAL_F1,
    ),
    **dict.fromkeys(
        (
            "gov_report_summ",
            "meeting_summ",
            "news_summ",
            "paper_assistant",
            "patent_summ",
            "review_summ",
            "tv_show_summ",
        ),
        OFFICIAL_ROUGE,
    ),
}
