"""Overlap of texts: normalisation, exact match, token F1 and ROUGE, as the SCROLLS scorers compute them.

Reference: the metrics of the `tau/scrolls` repository of the Hugging Face hub, as copied in HKUNLP/ChunkLlama@2add4d7c
few-shot/scrolls_metrics (f1.py and exact_match.py are SQuAD's of 2016; rouge.py calls Google's `rouge_score`).

Two of its rules are plainly wrong for some texts. It removes the answer "A" as an article, so that an empty answer
equals it: `score_corrected` keeps an article if nothing else is left. And ROUGE reads only a-z and 0-9, so that Russian
or Chinese text has no words: see `has_words`. The metrics for your own tasks (`exact_match`, `f1`, `rouge`) follow the
corrected rules, and know other scripts' punctuation and both ways to write an accent.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from lcbench.metrics.base import Metric, Scored, headed_by

ROUGE_PARTS = ("rouge1", "rouge2", "rougeL")
# A run of letters and digits with their diacritics, or one character of a script without spaces between words.
_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation (`well-known` becomes one word), articles and extra white space."""
    return normalize_cased(text.lower())


def normalize_cased(text: str) -> str:
    """As `normalize`, but case is kept, so that the article `a` is removed and the option `A` is not."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.translate(_WITHOUT_PUNCTUATION)).split())


def normalize_something(text: str) -> str:
    """As `normalize`, but never empty for a text of only articles or punctuation, which are kept then."""
    return normalize(text) or " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split()) or text.strip()


def normalize_own(text: str) -> str:
    """As `normalize_something`, of a text in composed characters (NFC), where an accent is no character of its own,
    without other scripts' punctuation and what cannot be seen, such as the zero-width marks of copied text."""
    composed = unicodedata.normalize("NFC", text)
    plain = "".join(one for one in composed if one.isascii() or unicodedata.category(one)[0] not in "CP")
    return normalize_something(plain if plain.strip() else composed)


def exact_match(prediction: str, reference: str) -> Scored:
    """Whether the normalised texts are equal."""
    return Scored({"exact_match": _equal(prediction, reference, normalize_own)})


def token_f1(prediction: str, reference: str) -> Scored:
    """F1 of the words as multisets; 0 if no word is shared, also for two empty texts."""
    return Scored({"f1": _words_f1(prediction, reference, normalize_own)})


def official_exact_match(prediction: str, reference: str) -> Scored:
    """SCROLLS' exact match: two texts that are empty after normalisation are equal."""
    corrected = _equal(prediction, reference, normalize_something)
    return Scored({"exact_match": _equal(prediction, reference, normalize), "score_corrected": corrected})


def official_f1(prediction: str, reference: str) -> Scored:
    """SCROLLS' token F1."""
    corrected = _words_f1(prediction, reference, normalize_something)
    return Scored({"f1": _words_f1(prediction, reference, normalize), "score_corrected": corrected})


def _equal(prediction: str, reference: str, normal: Callable[[str], str]) -> float:
    return float(normal(prediction) == normal(reference))


def _words_f1(prediction: str, reference: str, normal: Callable[[str], str]) -> float:
    return shared_f1(normal(prediction).split(), normal(reference).split())


def shared_f1(predicted: list[str], expected: list[str]) -> float:
    """F1 of two multisets of words: the harmonic mean of precision and recall."""
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def official_rouge(prediction: str, reference: str) -> Scored:
    """F-measures of ROUGE-1, -2 and -L without stemming; words are runs of a-z and 0-9.

    The official scorers split sentences first, which affects only ROUGE-Lsum, which is not part of the score.
    """
    return _rouge(prediction, reference, any_script=False)


def rouge(prediction: str, reference: str) -> Scored:
    """The same for any script: words are runs of letters and digits; in Chinese and Japanese, each character is a
    word."""
    return _rouge(prediction, reference, any_script=True)


def has_words(text: str) -> bool:
    """Whether the official ROUGE finds any word in a text (a-z, 0-9)."""
    return re.search(r"[a-z0-9]", text.lower()) is not None


def is_one_word(text: str) -> bool:
    """Whether a text has one word in any script, so that it has no pairs for ROUGE-2."""
    return len(_WORD.findall(text.lower())) == 1


class _Words:
    """A tokenizer with the interface of `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _rouge(prediction: str, reference: str, *, any_script: bool) -> Scored:
    scores = _rouge_scorer(any_script).score(reference, prediction)
    return Scored({part: scores[part].fmeasure for part in ROUGE_PARTS})


@cache
def _rouge_scorer(any_script: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: over a second

    return RougeScorer(list(ROUGE_PARTS), use_stemmer=False, tokenizer=_Words() if any_script else None)


def geometric_mean(parts: dict[str, float]) -> dict[str, float]:
    """The score of a ROUGE task: the geometric mean of the averages over the corpus, not the average of geometric
    means."""
    product = 1.0
    for part in ROUGE_PARTS:
        product *= parts[part]
    value = product ** (1 / 3)
    return {"score": value, **parts, "geometric_mean": value}


EXACT_MATCH = Metric(exact_match, summarize=headed_by("exact_match"))
F1 = Metric(token_f1, summarize=headed_by("f1"))
ROUGE = Metric(rouge, summarize=geometric_mean)
OFFICIAL_EXACT_MATCH = Metric(official_exact_match, summarize=headed_by("exact_match"))
OFFICIAL_F1 = Metric(official_f1, summarize=headed_by("f1"))
OFFICIAL_ROUGE = Metric(official_rouge, summarize=geometric_mean)

# SCROLLS (Shaham et al. 2022, https://arxiv.org/abs/2201.03533)
SCROLLS = {
    **dict.fromkeys(("qasper", "narrative_qa"), OFFICIAL_F1),
    **dict.fromkeys(("quality", "quality_hard", "contract_nli"), OFFICIAL_EXACT_MATCH),
    **dict.fromkeys(("qmsum", "gov_report", "summ_screen_fd"), OFFICIAL_ROUGE),
}
