"""BABILong, qa1 to qa5: whether an answer names the right place, person or thing, and no other.

Reference: booydar/babilong@7a6efee2 babilong/metrics.py (Kuratov et al. 2024, https://arxiv.org/abs/2406.10149). Only
the first sentence of an answer counts; labels that the question names are not answers. References are the right answer
and the question.

Faults of the official rule, which `score` keeps: labels are found inside other words ("officer" is an office), and an
answer is not cut where the model asks itself a new question, since the text is in lower case by then.
`score_corrected` finds whole words and cuts there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from lcbench.metrics.base import JointMetric, Scored

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
GIVEN = ("bill", "fred", "jeff", "mary", "apple", "football", "milk")
LABELS = {**dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES), "qa5": GIVEN}
_LIST = 3  # characters, above which a target with commas is a list


def _named(labels: Collection[str], text: str, *, words: bool) -> set[str]:
    return {label for label in labels if (re.search(rf"\b{label}\b", text) if words else label in text)}


def _compare(labels: Collection[str]) -> Callable[[str, Sequence[str]], Scored]:
    def right(output: str, target: str, question: str, *, words: bool) -> float:
        found = _named(labels, output, words=words) - _named(labels, question, words=words)
        several = "," in target and len(target) > _LIST
        return float(found == (set(target.split(",")) if several else {target}))

    def compare(prediction: str, references: Sequence[str]) -> Scored:
        target, question = references[0].lower(), references[1].lower() if len(references) > 1 else ""
        output = prediction.lower()
        for end in (".", "<context>", "<example>"):
            output = output.partition(end)[0]
        return Scored(
            {
                "score": right(output, target, question, words=False),
                "score_corrected": right(output.partition("question")[0], target, question, words=True),
            }
        )

    return compare


BABILONG = {task: JointMetric(_compare(labels)) for task, labels in LABELS.items()}
