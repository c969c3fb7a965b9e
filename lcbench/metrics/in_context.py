"""Answers after many demonstrations: TREC question classes and WebQuestions (LongLLaMA paper, section 4).

No published code scores these two (CStanKonrad/long_llama@bfcb8d1d has neither prompt nor scorer), so the rules are
lcbench's own: the first line of the answer counts, since a model often continues with another demonstration. TREC
compares it with the label, ignoring case and white space; WebQuestions with each alias by SQuAD's exact match.
"""

from __future__ import annotations

from lcbench.metrics.base import Metric, Scored, headed_by
from lcbench.metrics.overlap import exact_match


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.strip().split("\n")[0]


def label(prediction: str, reference: str) -> Scored:
    """Accuracy: whether the first line is the label."""
    return Scored({"score": float(_squeezed(first_line(prediction)) == _squeezed(reference))})


def alias(prediction: str, reference: str) -> Scored:
    """Whether the first line is this alias of the answer."""
    return exact_match(first_line(prediction), reference)


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


TREC = Metric(label)
WEBQS = Metric(alias, summarize=headed_by("exact_match"))
