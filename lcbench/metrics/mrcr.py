"""MRCR: similarity of an answer to the message that it must repeat after a random string.

References: the data card of openai/mrcr, as in NVIDIA-NeMo/Skills@8b18f399 evaluation/evaluator/mrcr.py (lines
27-36); google-deepmind/eval_hub@67b7fd29 mrcr_v2/run_evaluation.py. Both take `ratio` of Python's difflib with its
heuristic for frequent characters, so that the order of the two texts matters.

- openai_grade: references are the right answer and the random string that it begins with (without one, every answer
is compared). An answer that does not begin with that string gets 0, one with a blank before it, too:
`score_corrected` leaves white space around an answer out. - gdm_v2_metric: the reference is the right answer, whose
first 12 characters are the string; what follows the last occurrence of it in an answer is compared. A shorter reference
gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from lcbench.metrics.base import JointMetric, Metric, Scored

HASH = 12  # characters of the random string of Google's MRCR


def _after_prefix(prediction: str, answer: str, prefix: str) -> float:
    if not prediction.startswith(prefix):
        return 0.0
    return SequenceMatcher(None, prediction.removeprefix(prefix), answer.removeprefix(prefix)).ratio()


def openai_grade(prediction: str, references: Sequence[str]) -> Scored:
    """`references` are the right answer, and the string that it begins with."""
    answer, prefix = references[0], references[1] if len(references) > 1 else ""
    return Scored(
        {
            "score": _after_prefix(prediction, answer, prefix),
            "score_corrected": _after_prefix(prediction.strip(), answer.strip(), prefix),
        }
    )


def gdm_v2_metric(prediction: str, reference: str) -> Scored:
    """The text after the last occurrence of the reference's first 12 characters against the rest of the reference."""
    answer, expected = prediction.strip(), reference.strip()
    start = answer.rfind(expected[:HASH])
    if start < 0 or len(expected) < HASH:
        return Scored({"score": 0.0})
    return Scored({"score": SequenceMatcher(None, expected[HASH:].strip(), answer[start + HASH :].strip()).ratio()})


MRCR = {"openai_grade": JointMetric(openai_grade), "gdm_v2_metric": Metric(gdm_v2_metric)}
