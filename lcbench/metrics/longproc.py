"""LongProc's path traversal, and the answers of NoLiMa.

References: princeton-pli/LongProc@78e873ae longproc/longproc_data.py (Ye et al. 2025,
https://arxiv.org/abs/2501.05414): the text between <Route> and </Route> must equal the route. `partial_accuracy` is
theirs, which counts the first wrong line as right; `partial_corrected` does not. adobe-research/NoLiMa@7532e4ee
(Modarressi et al. 2025, https://arxiv.org/abs/2502.05167), metric `contains`: an answer holds one of the references,
in their case.
"""

from __future__ import annotations

from lcbench.metrics.base import Metric, Scored

_TAGS = ("<Route>", "</Route>")
_PARTS = ("score", "partial_accuracy", "partial_corrected", "extraction_rate")


def route(prediction: str, reference: str) -> Scored:
    """The route of an answer, line by line, against the right one."""
    start, end = prediction.find(_TAGS[0]), prediction.find(_TAGS[1])
    if start < 0 or end < 0:
        return Scored(dict.fromkeys(_PARTS, 0.0))
    said, right = prediction[start + len(_TAGS[0]) : end].strip(), reference.strip()
    if said == right:
        return Scored(dict.fromkeys(_PARTS, 1.0))
    pairs = list(zip(right.split("\n"), said.split("\n")))
    good = next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
    lines = len(right.split("\n"))
    return Scored(
        {
            "score": 0.0,
            "partial_accuracy": min(good + 1, len(pairs)) / lines,
            "partial_corrected": good / lines,
            "extraction_rate": 1.0,
        }
    )


def contains(prediction: str, reference: str) -> Scored:
    return Scored({"score": float(reference in prediction)})


LONGPROC = {"path_traversal": Metric(route)}
NOLIMA = {"contains": Metric(contains)}
