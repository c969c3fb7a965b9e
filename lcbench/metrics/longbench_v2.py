"""LongBench v2: multiple choice among four, with and without a chain of thought.

Reference: THUDM/LongBench@2e00731f pred.py and result.py (Bai et al. 2024, https://arxiv.org/abs/2412.15204).
`compensated` is 0.25 for an answer without a letter, as their option of that name. Deviation: an empty answer counts
as one without a letter, where their script leaves the row out of the mean.

Fault of the official rule, which `score` keeps: the letter may begin a word ("The correct answer is Alice" is A), and
only that very sentence counts. `score_corrected` takes the letter as a reader understands it
(lcbench.metrics.choices).
"""

from __future__ import annotations

import re

from lcbench.metrics.base import Metric, Scored
from lcbench.metrics.choices import meant

_STATED = (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])")
CHANCE = 0.25


def letter(prediction: str) -> str | None:
    """The letter in the sentence that the prompt asks for; None without one."""
    plain = prediction.replace("*", "")
    found = next((match for pattern in _STATED if (match := re.search(pattern, plain))), None)
    return found[1] if found else None


def compare(prediction: str, reference: str) -> Scored:
    """Whether the letter is the right one."""
    chosen = letter(prediction)
    score = float(chosen == reference)
    return Scored(
        {
            "score": score,
            "compensated": CHANCE if chosen is None else score,
            "score_corrected": float(meant(prediction.replace("*", ""), several=False) == {reference}),
        },
        {"pred_letter": chosen},
    )


LONGBENCH_V2 = dict.fromkeys(("0shot", "cot", "no_context"), Metric(compare))
