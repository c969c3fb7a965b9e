"""Scores of answers, equal to those of the official scorers, so that they compare with published tables.

    from lcbench.metrics import score_corpus, score_example

    score_example("leval/coursera", "A and C.", "ACD")      # {"score": 25.0, ..., "pred_letters": "AC", ...}
    score_corpus("scrolls/qmsum", predictions, references)  # {"score": 17.3021, "rouge1": 31.0254, ...}

| metrics | reference implementation | what differs |
| --- | --- | --- |
| scrolls/* | metrics of tau/scrolls, as in HKUNLP/ChunkLlama@2add4d7c | nothing |
| leval/* closed-ended | OpenLMLab/LEval@cd34b050 | answers and corpora at which it stops are scored |
| leval/* F1 and ROUGE | the same; its f1.py and rouge.py are taken to be those of SCROLLS | not compared |
| longbench/* | THUDM/LongBench@072a5a73 | four decimals, not two |
| longbench_v2/* | THUDM/LongBench@2e00731f | empty answers count |
| ruler/* | NVIDIA/RULER@1c45e5c6 | four decimals, not two |
| graphwalks/* | the data's card, a system card, lm-evaluation-harness@4e7e0d47 | nothing |
| mrcr/* | the data's card, google-deepmind/eval_hub@67b7fd29 | nothing |
| babilong/* | booydar/babilong@7a6efee2 | nothing |
| infinitebench/* | OpenBMB/InfiniteBench@88b3daa6 | answers at which it stops score 0 |
| helmet/* | princeton-nlp/HELMET@4526dfbd | nothing |
| longproc/* | princeton-pli/LongProc@78e873ae | nothing |
| nolima/contains | adobe-research/NoLiMa@7532e4ee | nothing |
| gsm8k | rule of the LongLLaMA paper (last number) | no published code |
| trec, webqs | accuracy and any alias, on the first line | no published code |
| f1, exact_match, rouge | those of SCROLLS, for your own tasks | answers that are only an article; any script |

`score` is always the official one. Where an official rule is plainly wrong, `score_corrected` is given as well; the
modules of the suites document the difference.

Reasoning is not part of an answer, and no official scorer handles it: all metrics score the text behind it, as behind
`</think>` (`lcbench.core.thinking`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcbench.core.errors import UserError, brief, unknown
from lcbench.core.thinking import without_thought
from lcbench.metrics.arithmetic import GSM8K
from lcbench.metrics.babilong import BABILONG
from lcbench.metrics.base import Metric, Scored, as_it_is
from lcbench.metrics.graphwalks import GRAPHWALKS
from lcbench.metrics.helmet import HELMET
from lcbench.metrics.in_context import TREC, WEBQS
from lcbench.metrics.infinitebench import INFINITEBENCH
from lcbench.metrics.leval import LEVAL
from lcbench.metrics.longbench import LONGBENCH
from lcbench.metrics.longbench_v2 import LONGBENCH_V2
from lcbench.metrics.longproc import LONGPROC, NOLIMA
from lcbench.metrics.mrcr import MRCR
from lcbench.metrics.overlap import EXACT_MATCH, F1, ROUGE, SCROLLS, geometric_mean, official_rouge
from lcbench.metrics.ruler import RULER

__all__ = [
    "as_published",
    "corpus_score",
    "counts_pairs",
    "may_be_empty",
    "names",
    "reads_latin_only",
    "score_corpus",
    "score_example",
]

Reference = str | int | float
References = Reference | Sequence[Reference]  # one right answer or several
_SUITES: dict[str, Mapping[str, Metric]] = {
    "scrolls": SCROLLS,
    "leval": LEVAL,
    "longbench": LONGBENCH,
    "longbench_v2": LONGBENCH_V2,
    "ruler": RULER,
    "graphwalks": GRAPHWALKS,
    "mrcr": MRCR,
    "babilong": BABILONG,
    "infinitebench": INFINITEBENCH,
    "helmet": HELMET,
    "longproc": LONGPROC,
    "nolima": NOLIMA,
}
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


def counts_pairs(name: str) -> bool:
    """Whether ROUGE-2, the share of pairs of words, is a factor of a metric's score. Raises: UserError for an unknown
    name."""
    return _metric(name).summarize is geometric_mean


def may_be_empty(name: str) -> bool:
    """Whether an answer without a reference can be scored: the right set of nodes may be empty. Raises: UserError for
    an unknown name."""
    return _metric(name).may_be_empty


def as_published(name: str, references: Sequence[str]) -> list[Reference]:
    """References as the data set of a metric stores them: numbers for metrics that compare numbers, else the texts
    themselves. Raises: UserError for an unknown name."""
    return [_number(text) for text in references] if _metric(name).numeric else list(references)


def score_example(
    name: str, prediction: str, references: References, *, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """The score of one answer, equal to that of the official scorer on a corpus of this one row.

    `references` is the right answer or several, each as in the data set (L-Eval: the raw text, not an extracted
    letter; numbers for code and mathematics of InfiniteBench). `classes` are the names of all classes, required by
    longbench/trec and longbench/lsht.

    Returns: `score` and its parts, from 0 to 100 with four decimals, then values extracted from the texts
    (`pred_letters`, `gt_number`, ...).
    Raises: UserError for an unknown name, no reference, a prediction or reference of another type, or missing
    classes.
    """
    metric = _metric(name)
    row = _row(name, metric, prediction, references, classes)
    return _score_first({**metric.average([row]), **row.details})


def example_numbers(
    name: str, prediction: str, references: References, *, classes: Sequence[str] | None = None
) -> dict[str, float]:
    """The numbers of `score_example`, without what it extracts from the texts."""
    scored = score_example(name, prediction, references, classes=classes)
    return {part: float(value) for part, value in scored.items() if isinstance(value, int | float)}


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
    if not expected and not metric.may_be_empty:
        raise UserError(f"{name}: an answer without a reference cannot be scored.")
    kinds = (str, int, float) if metric.numeric else (str,)
    for text in (prediction, *expected):
        if not isinstance(text, str if text is prediction else kinds) or isinstance(text, bool):
            raise UserError(f"{name}: {brief(text)} is not text; predictions and references are strings.")
    prediction = without_thought(prediction)
    if not metric.needs_classes:
        return metric.row(prediction, expected)
    if not classes:
        raise UserError(f"{name} needs the names of all classes; pass classes=[...] (all_classes of the data).")
    return metric.row(prediction, expected, classes=classes)


def _number(text: str) -> Reference:
    """A whole or decimal number that a text spells out; else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _score_first(parts: dict[str, Any]) -> dict[str, Any]:
    return {"score": parts["score"], **parts}
