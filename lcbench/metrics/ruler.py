"""RULER: which of the expected strings an answer contains.

Reference: NVIDIA/RULER@1c45e5c6 scripts/eval/evaluate.py and scripts/eval/synthetic/constants.py (Hsieh et al. 2024,
https://arxiv.org/abs/2404.06654). Deviation: scores keep four decimals where RULER prints two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lcbench.metrics.base import Metric, Scored, mean


def strings_found(prediction: str, references: Sequence[str]) -> list[bool]:
    """Which of the strings the answer contains, ignoring case; control characters in it count as line breaks."""
    answer = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip().lower()
    return [reference.lower() in answer for reference in references]


def contains(prediction: str, reference: str) -> Scored:
    """1 if the answer contains this string, else 0."""
    return Scored({"score": float(strings_found(prediction, [reference])[0])})


ALL = Metric(contains, over_references=mean)  # string_match_all
ANY = Metric(contains)  # string_match_part

_NEEDLES = ("single_1", "single_2", "single_3", "multikey_1", "multikey_2", "multikey_3", "multivalue", "multiquery")
RULER = {
    **{f"niah_{needle}": ALL for needle in _NEEDLES},
    **dict.fromkeys(("vt", "cwe", "fwe"), ALL),
    **dict.fromkeys(("qa_1", "qa_2"), ANY),
}
