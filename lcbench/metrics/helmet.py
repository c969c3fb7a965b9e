"""HELMET: recall, retrieval-augmented generation, learning in context and re-ranking.

Reference: princeton-nlp/HELMET@4526dfbd utils.py and data.py (Yen et al. 2024, https://arxiv.org/abs/2410.02694). An
answer is scored as it is and again after its cue ("Answer:", "Corresponding value:"), and the better counts; learning
in context only after the cue ("label:"). The cue that a prompt ends with, as all do that are in no chat template, is
put before the answer first. Re-ranking is NDCG at 10 with the gains of trec_eval; its references are lines of a qrels
file, `ID LABEL`.

Faults of the official rule, which `score` keeps: an answer that is only an article ("The") is found in every text,
`answers` holds the answer `answer`, and so does the cue, as it holds "ER" and "we"; `score_corrected` finds whole words
in what the model wrote. IDs with commas between them are not a
ranking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from lcbench.metrics.base import JointMetric, Metric, Scored, best
from lcbench.metrics.overlap import normalize, normalize_something

CUTOFF = 10  # ranks of the NDCG


def parse_output(output: str, cue: str) -> str:
    """The line after the first `cue`, ignoring case; the first line of an output without one."""
    found = re.search(rf"{re.escape(cue)}(.*)(?:\n|$)", output, re.IGNORECASE) or re.search(r"^(.*)(?:\n|$)", output)
    line = found[1].strip() if found else ""
    return re.sub(f"^{re.escape(cue)}", "", line, flags=re.IGNORECASE).strip()


def parse_rankings(output: str) -> dict[str, int]:
    """The IDs of the longest `3 > 1 > 2` in an output, each with the number of places from its own to the last; the
    whole output as one ID if it has no number."""
    plain = re.sub(r"[\[\]:]", "", output).lower().replace("id", "")
    runs = [run[0] for run in re.finditer(r"\d+(?:\s*>\s*\d+)*", plain)]
    ranked = [one.strip() for one in max(runs, key=len).split(">")] if runs else [plain]
    places: dict[str, int] = {}
    for place, one in enumerate(ranked):
        places.setdefault(one, len(ranked) - place)
    return places


def substring_exact_match(prediction: str, reference: str) -> Scored:
    """Whether the answer is in the text, both normalised as in SQuAD."""
    words = f" {normalize_something(prediction)} "
    return Scored(
        {
            "score": float(normalize(reference) in normalize(prediction)),
            "score_corrected": float(f" {normalize_something(reference)} " in words),
        }
    )


def _exact_match(prediction: str, reference: str) -> Scored:
    return Scored(
        {
            "score": float(normalize(prediction) == normalize(reference)),
            "score_corrected": float(normalize_something(prediction) == normalize_something(reference)),
        }
    )


def _after(cue: str) -> Callable[[str, str], Scored]:
    """The better of the output, which goes on from the cue, and of its line after the cue."""

    def compare(prediction: str, reference: str) -> Scored:
        whole = cue + prediction
        official = best([substring_exact_match(text, reference) for text in (whole, parse_output(whole, cue))])
        corrected = substring_exact_match(prediction, reference).numbers["score_corrected"]
        return Scored({**official.numbers, "score_corrected": corrected})

    return compare


def _label(prediction: str, reference: str) -> Scored:
    return _exact_match(parse_output(prediction, "label:"), reference)


def ndcg(places: Mapping[str, int], gains: Mapping[str, int], cutoff: int = CUTOFF) -> float:
    """NDCG of the IDs in `places` (the higher, the earlier), by gains; 0 if nothing is relevant."""

    def discounted(relevances: Sequence[int]) -> float:
        return sum(max(gain, 0) / math.log2(rank + 1) for rank, gain in enumerate(relevances[:cutoff], start=1))

    ranked = sorted(places, key=places.__getitem__, reverse=True)
    ideal = discounted(sorted(gains.values(), reverse=True))
    return discounted([gains.get(one, 0) for one in ranked]) / ideal if ideal else 0.0


def _ranking(prediction: str, references: Sequence[str]) -> Scored:
    places = parse_rankings(prediction)
    gains = {
        id: int(label) for id, _, label in (line.rpartition(" ") for line in references) if label.lstrip("-").isdigit()
    }
    return Scored({"score": ndcg(places, gains)}, {"rankings": places})


HELMET = {
    "substring_exact_match": Metric(substring_exact_match),
    "icl_exact_match": Metric(_label),
    "parse_rankings": JointMetric(_ranking, may_be_empty=True),
    "json_kv": Metric(_after("corresponding value:")),
    "rag": Metric(_after("Answer:")),
    "icl": Metric(_label),
    "rerank": JointMetric(_ranking),
}
