"""The number that an answer ends in, for GSM8K and the corrected score of L-Eval's gsm100.

Rule of the LongLLaMA paper's evaluation (Tworkowski et al. 2023, https://arxiv.org/abs/2307.03170, by way of MAmmoTH):
the last match of one regular expression; numbers are compared as numbers. `score_corrected` reads numbers as people
write them: a minus sign that is no hyphen, spaces between groups of three digits, digits of other scripts; a hyphen
behind a digit or letter (`10-12`) is no sign.
"""

from __future__ import annotations

import re
import unicodedata

from lcbench.metrics.base import Metric, Scored

NUMBER = re.compile(r"(?!,)(?!\.)-?[0-9.,]+")
_MINUS = str.maketrans("\u2212\u2012\u2013\u2010\u2011", "-----")
_GROUPED = r"\d{1,3}(?:[, ]\d{3})+(?!\d)"
_WRITTEN = re.compile(rf"(?<![\w.])-?(?:{_GROUPED}|\d+)(?:\.\d+)?|(?<!\w)-?\.\d+|\d+(?:\.\d+)?", re.ASCII)


def last_number(text: str) -> str | None:
    """The last number without commas and a closing full stop; None if there is none."""
    matches = NUMBER.findall(text)
    return matches[-1].replace(",", "").rstrip(".") if matches else None


def number_as_written(text: str) -> str | None:
    """The last number as a reader sees it, without signs between its groups of digits; None if there is none."""
    plain = unicodedata.normalize("NFKC", text).translate(_MINUS)  # full-width digits; thin and no-break spaces
    matches = _WRITTEN.findall(plain)
    return re.sub(r"[, ]", "", matches[-1]) if matches else None


def same_number(one: str | None, other: str | None) -> bool:
    """Whether both are numbers, and equal; `1.2.3` is none."""
    try:
        return one is not None and other is not None and float(one) == float(other)
    except ValueError:
        return False


def compare(prediction: str, reference: str) -> Scored:
    """`reference` is the number, or GSM8K's whole solution, which ends in it."""
    predicted, expected = last_number(prediction), last_number(reference)
    corrected = same_number(number_as_written(prediction), number_as_written(reference))
    return Scored(
        {"score": float(same_number(predicted, expected)), "score_corrected": float(corrected)},
        {"pred_number": predicted, "gt_number": expected},
    )


GSM8K = Metric(compare)
