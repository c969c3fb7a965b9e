"""Scores of answers, equal to those of the official scorers, so that they compare with published tables.

    from lcbench.metrics import score_corpus, score_example

    score_example("leval/coursera", "A and C.", "ACD")      # {"score": 25.0, ..., "pred_letters": "AC", ...}
    score_corpus("scrolls/qmsum", predictions, references)  # {"score": 17.3021, "rouge1": 31.0254, ...}

| metrics | reference implementation | what differs | | --- | --- | --- | | scrolls/* | metrics of tau/scrolls, as in
HKUNLP/ChunkLlama@2add4d7c | nothing | | leval/* closed-ended | OpenLMLab/LEval@cd34b050 | answers and corpora at which
the official scorer stops are scored | | leval/* F1 and ROUGE | the same; its f1.py and rouge.py are taken to be those
of SCROLLS | not compared | | longbench/* | THUDM/LongBench@072a5a73 | four decimals, not two | | ruler/* |
NVIDIA/RULER@1c45e5c6 | four decimals, not two | | gsm8k | rule of the LongLLaMA paper (last number) | no published code
| | trec, webqs | accuracy and any alias, on the first line | no published code | | f1, exact_match, rouge | those of
SCROLLS, for your own tasks | answers that are only an article; words of any script |

`score` is always the official one. Where an official rule is plainly wrong, `score_corrected` is given as well; the
modules `leval`, `longbench`, `overlap` and `arithmetic` document the difference.

Reasoning is not part of an answer, and no official scorer handles it: all metrics score the text after `</think>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcbench.core.errors import UserError, unknown
from lcbench.metrics.arithmetic import GSM8K
from lcbench.metrics.base import Metric, Scored, as_it_is, without_reasoning
from lcbench.metrics.in_context import TREC, WEBQS
from lcbench.metrics.leval import LEVAL
from lcbench.metrics.longbench import LONGBENCH
from lcbench.metrics.overlap import EXACT_MATCH, F1, ROUGE, SCROLLS, official_rouge
from lcbench.metrics.ruler import RULER

__all__ = ["corpus_score", "names", "reads_latin_only", "score_corpus", "score_example"]

References = str | list[str] | tuple[str, ...]  # one right answer or several
_SUITES = {"scrolls": SCROLLS, "leval": LEVAL, "longbench": LONGBENCH, "ruler": RULER}
_METRICS: dict[str, Metric] = {
    **{f"{suite}/{task}": metric for suite, tasks in _SUITES.items() for task, metric in tasks.items()},
    "gsm8k": GSM8K,
    "trec": TREC,
    "webqs": WEBQS,
    "exact_match": EXACT_MATCH,
    "f1": F1,
    "rouge": ROUGE,
}


def names() -> list[str]:
    """The names of all metrics, sorted."""
    return sorted(_METRICS)


def reads_latin_only(name: str) -> bool:
    """Whether a metric finds words in a-z and 0-9 only, as ROUGE of SCROLLS and L-Eval does. Raises: UserError for an
    unknown name."""
    return _metric(name).compare is official_rouge


def score_example(
    name: str, prediction: str, references: References, *, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """The score of one answer, equal to that of the official scorer on a corpus of this one row.

    `references` is the right answer or several, each as in the data set (L-Eval: the raw text, not an extracted
    letter). `classes` are the names of all classes, required by longbench/trec and longbench/lsht.

    Returns: `score` and its parts, from 0 to 100 with four decimals, then values extracted from the texts
    (`pred_letters`, `gt_number`, ...).
    Raises: UserError for an unknown name, no reference, a prediction or reference that is not a string, or missing
    classes.
    """
    metric = _metric(name)
    row = _row(name, metric, prediction, references, classes)
    return _score_first({**metric.average([row]), **row.details})


def score_corpus(
    task: str,
    predictions: Sequence[str],
    references: Sequence[References],
    *,
    classes: Sequence[str] | None = None,
) -> dict[str, float]:
    """The score of a data set or a part of it, with rows in the order of the data and duplicate ids merged.

    The score of a corpus is not always the mean of its rows' scores: SCROLLS takes the geometric mean of three
    averages, L-Eval's topic retrieval the mean over the first, second and third question of each document.

    Returns: `score` and its parts, from 0 to 100 with four decimals.
    Raises: UserError as `score_example`, and for no rows or unequal numbers of predictions and references.
    """
    metric = _metric(task)
    if len(predictions) != len(references) or not len(predictions):
        raise UserError(
            f"{task}: {len(predictions)} predictions and {len(references)} references; there must be one for the other."
        )
    pairs = zip(predictions, references, strict=True)
    rows = [_row(task, metric, prediction, expected, classes) for prediction, expected in pairs]
    return _score_first(metric.total(rows))


def corpus_score(task: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """The `score` of a corpus from the results of `score_example` for its rows, in the order of the data, without
    scoring texts again. Raises: UserError for an unknown name."""
    metric = _metric(task)
    made = metric.summarize is not as_it_is  # the corpus score is computed from the other parts
    numbers = [
        {
            name: value / 100
            for name, value in row.items()
            if isinstance(value, int | float) and not (made and name == "score")
        }
        for row in rows
    ]
    return metric.total([Scored(parts) for parts in numbers])["score"]


def _metric(name: str) -> Metric:
    if name not in _METRICS:
        raise unknown("metric", name, names())
    return _METRICS[name]


def _row(name: str, metric: Metric, prediction: str, references: References, classes: Sequence[str] | None) -> Scored:
    expected = references if isinstance(references, list | tuple) else [references]
    if not expected:
        raise UserError(f"{name}: an answer without a reference cannot be scored.")
    for text in (prediction, *expected):
        if not isinstance(text, str):
            raise UserError(f"{name}: {text!r} is no text; predictions and references are strings.")
    prediction = without_reasoning(prediction)
    if not metric.needs_classes:
        return metric.row(prediction, expected)
    if not classes:
        raise UserError(f"{name} needs the names of all classes; pass classes=[...] (all_classes of the data).")
    return metric.row(prediction, expected, classes=classes)


def _score_first(parts: dict[str, Any]) -> dict[str, Any]:
    return {"score": parts["score"], **parts}
