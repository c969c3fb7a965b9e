"""GraphWalks: F1 of the set of nodes in an answer.

References: the data card of openai/graphwalks (2026-02-27), section 2.18.2 of Anthropic's system card of Claude Opus
4.6, and EleutherAI/lm-evaluation-harness@4e7e0d47 lm_eval/tasks/graphwalks/utils.py.

Four rules are in use, and every answer is scored by all of them; the name of the metric says which one is `score`:

- opus46_fixed (the metric of the tasks): the list in the last line, line breaks after it apart; two empty sets are
  equal, and F1 is 0 where nothing is shared.
- lm_eval_f1, lm_eval_flexible_f1: the same list, or that of the last line anywhere that has one; 0 wherever the right
  set is empty.
- readme_literal: the code of the card as it stands. It always loses the first node, reads nothing before a trailing
  line break, and gives every answer 1 that shares no node with the right set.

`exact` is 1 if the sets are equal. An answer without a list is not an empty set: it scores 0, also where that is right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from lcbench.metrics.base import JointMetric, Scored, headed_by

_LIST = re.compile(r"Final Answer:\s*\[(.*)\]")
_CARD_LIST = re.compile(r"Final Answer: ?\[.*\]")
RULES = ("opus46_fixed", "lm_eval_f1", "lm_eval_flexible_f1", "readme_literal")


def nodes_of(line: str) -> list[str] | None:
    """The nodes of the list in a line, without quotes; None if the line has no list."""
    found = _LIST.search(line)
    return None if found is None else [item.strip().strip("'\"") for item in found[1].split(",") if item.strip()]


def _shares(answered: Collection[str], expected: Collection[str]) -> tuple[float, float]:
    """Precision and recall; 0 for an empty set."""
    shared = len(set(answered) & set(expected))
    return shared / len(set(answered)) if answered else 0.0, shared / len(set(expected)) if expected else 0.0


def set_f1(answered: Collection[str], expected: Collection[str], nothing_shared: float = 0.0) -> float:
    """F1 of two sets, and `nothing_shared` where precision and recall are both 0."""
    precision, recall = _shares(answered, expected)
    return 2 * precision * recall / (precision + recall) if precision + recall else nothing_shared


def _as_on_the_card(prediction: str, expected: Sequence[str]) -> float:
    found = _CARD_LIST.search(prediction.split("\n")[-1])
    items = found[0].strip("[]").split(",") if found else []
    return set_f1([item.strip() for item in items if item.strip()], expected, nothing_shared=1.0)


def compare(prediction: str, references: Sequence[str]) -> Scored:
    """The nodes of an answer against those of the right set, by all four rules."""
    *earlier, last = prediction.rstrip("\n").split("\n")
    strict = nodes_of(last)
    flexible = next((nodes for line in (last, *reversed(earlier)) if (nodes := nodes_of(line)) is not None), [])
    fixed = 1.0 if strict == [] and not references else set_f1(strict or [], references)
    return Scored(
        {
            "opus46_fixed": fixed,
            "exact": float(strict is not None and set(strict) == set(references)),
            "lm_eval_f1": set_f1(strict or [], references),
            "lm_eval_flexible_f1": set_f1(flexible, references),
            "readme_literal": _as_on_the_card(prediction, references),
        }
    )


GRAPHWALKS = {rule: JointMetric(compare, summarize=headed_by(rule), may_be_empty=True) for rule in RULES}
