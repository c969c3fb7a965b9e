"""The number that an answer ends in, for GSM8K and the corrected score of L-Eval's gsm100.

Rule of the LongLLaMA paper's evaluation (Tworkowski et al. 2023, https://arxiv.org/abs/2307.03170, by way of MAmmoTH):
the last match of one regular expression, compared as a number. `score_corrected` reads numbers as people write them:
Unicode minus signs, spaces between groups of three digits, digits of other scripts; a hyphen after a digit or letter
(`10-12`) is not a sign.
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
    """The last number, without commas and a trailing full stop; None if the text has no number."""
    matches = NUMBER.findall(text)
    return matches[-1].replace(",", "").rstrip(".") if matches else None


def number_as_written(text: str) -> str | None:
    """The last number as a reader sees it, without separators between digit groups; None if the text has no number."""
    numbers = numbers_as_written(text)
    return numbers[-1] if numbers else None


def numbers_as_written(text: str) -> list[str]:
    """All numbers as a reader sees them, without separators between digit groups."""
    plain = unicodedata.normalize("NFKC", text).translate(_MINUS)  # full-width digits; thin and no-break spaces
    return [re.sub(r"[, ]", "", number) for number in _WRITTEN.findall(plain)]


def same_number(one: str | None, other: str | None) -> bool:
    """Whether both are numbers and equal; `1.2.3` is not a number."""
    try:
        return one is not None and other is not None and float(one) == float(other)
    except ValueError:
        return False


def compare(prediction: str, reference: str) -> Scored:
    """Compare the last numbers; `reference` is a number, or a whole solution of GSM8K, which ends with it."""
    predicted, expected = last_number(prediction), last_number(reference)
    corrected = same_number(number_as_written(prediction), number_as_written(reference))
    return Scored(
        {"score": float(same_number(predicted, expected)), "score_corrected": float(corrected)},
        {"pred_number": predicted, "gt_number": expected},
    )


GSM8K = Metric(compare)
