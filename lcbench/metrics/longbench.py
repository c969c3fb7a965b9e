"""The 21 tasks of LongBench, version 1; three Chinese ones need `jieba` (lcbench/metrics/chinese.py).

Reference: THUDM/LongBench@072a5a73 LongBench/eval.py and metrics.py (Bai et al. 2023, https://arxiv.org/abs/2308.14508).
Deviation: scores keep four decimals where LongBench prints two.

Official rules that a reader would not expect:
- ROUGE-L comes from the package `rouge`, which differs from Google's `rouge_score`: texts are split at full stops,
  distinct words are counted, case and punctuation are kept. Where it fails (a text of only full stops; sentences of
  some 950 words together, which exceed Python's recursion limit) the score is 0.
- Code is compared by `fuzzywuzzy.fuzz.ratio`, which is difflib's ratio in whole percents with LongBench's
  requirements; with `python-Levenshtein` installed it would be another number (THUDM/LongBench issue 96). No library
  of edit distances gives difflib's number.
- F1 of an answer or reference that is only articles or punctuation ("The The", "A") is 0; `score_corrected` keeps
  them.
- Classes whose name is part of the right class's name are removed from the matches, but the loop skips the one after
  each removal; `score_corrected` checks all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from lcbench.core.errors import UserError
from lcbench.metrics.base import Metric, Scored
from lcbench.metrics.chinese import chinese_f1, segment
from lcbench.metrics.overlap import official_f1


def _qa_f1(prediction: str, reference: str) -> Scored:
    numbers = official_f1(prediction, reference).numbers
    return Scored({"score": numbers["f1"], "score_corrected": numbers["score_corrected"]})


def _rouge_l(prediction: str, reference: str) -> Scored:
    from rouge import Rouge

    try:
        scores = Rouge(metrics=["rouge-l"]).get_scores(prediction, reference)
    except (ValueError, RecursionError):
        return Scored({"score": 0.0})
    return Scored({"score": scores[0]["rouge-l"]["f"]})


def _chinese_rouge_l(prediction: str, reference: str) -> Scored:
    return _rouge_l(" ".join(segment(prediction)), " ".join(segment(reference)))


def _code_similarity(prediction: str, reference: str) -> Scored:
    """Similarity of the first line that is neither a comment nor part of a code fence."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return Scored({"score": _percent(line, reference) / 100})


def _percent(one: str, other: str) -> int:
    if one == other:
        return 100
    if not one or not other:
        return 0
    return round(100 * SequenceMatcher(None, one, other).ratio())


def _count(prediction: str, reference: str) -> Scored:
    """The fraction of the numbers in the answer that equal the right one."""
    numbers = re.findall(r"\d+", prediction)
    return Scored({"score": numbers.count(reference) / len(numbers) if numbers else 0.0})


def _paragraph(word: str) -> Callable[[str, str], Scored]:
    def compare(prediction: str, reference: str) -> Scored:
        number = re.search(rf"{word}(\d+)", reference)
        if not number:
            raise UserError(f"reference {reference!r} names no paragraph; it must be {word}N.")
        return _count(prediction, number[1])

    return compare


def _class(prediction: str, reference: str, classes: Sequence[str]) -> Scored:
    """1 / (number of classes named in the answer) if the right one is among them; a class whose name is part of the
    right name does not count."""
    found = [name for name in classes if name in prediction]
    corrected = [name for name in found if name == reference or name not in reference]
    position = 0
    while position < len(found):  # advances even after a removal, as the official loop does
        if found[position] in reference and found[position] != reference:
            del found[position]
        position += 1
    return Scored({"score": _share(reference, found), "score_corrected": _share(reference, corrected)})


def _share(reference: str, found: list[str]) -> float:
    return 1 / len(found) if reference in found else 0.0


def _of_first_line(compare: Callable[..., Scored]) -> Callable[..., Scored]:
    """The metric on the first line, for tasks with demonstrations, which a model often continues with another one."""
    return lambda prediction, *rest, **options: compare(prediction.lstrip("\n").split("\n")[0], *rest, **options)


QA = Metric(_qa_f1)
SUMMARY = Metric(_rouge_l)
CODE = Metric(_code_similarity)
CLASSES = Metric(_of_first_line(_class), needs_classes=True)

LONGBENCH = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"), QA),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news"), SUMMARY),
    **dict.fromkeys(("lcc", "repobench-p"), CODE),
    **dict.fromkeys(("trec", "lsht"), CLASSES),
    "triviaqa": Metric(_of_first_line(_qa_f1)),
    "samsum": Metric(_of_first_line(_rouge_l)),
    "passage_count": Metric(_count),
    "passage_retrieval_en": Metric(_paragraph("Paragraph ")),
    "multifieldqa_zh": Metric(chinese_f1),
    **dict.fromkeys(("dureader", "vcsum"), Metric(_chinese_rouge_l)),
    "passage_retrieval_zh": Metric(_paragraph("段落")),
}
