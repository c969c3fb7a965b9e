"""The passages of a document that have most words in common with a question and its answer.

They say where to look, not where the model looked: a ranking by words (BM25), the same for every model and method.
Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009; the idf is that of Lucene, which
is never negative.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from lcbench.apps.ask.pages import Pages
from lcbench.tasks.text.running_text import CLOSERS, STOPS, WIDE_CLOSERS, WIDE_STOPS

K1, B = 1.2, 0.75  # BM25: saturation of repeated words, penalty of long passages
LONGEST = 60  # words of a passage; a table has no sentence ends
# A sentence end, with the quotes and brackets after it, or a blank line; in Chinese and Japanese no space follows.
PASSAGE_END = re.compile(
    rf"(?<=[{STOPS}])[{CLOSERS}]*\s+|(?<=[{WIDE_STOPS}])(?![{WIDE_STOPS}])[{WIDE_CLOSERS}]*\s*|\n\s*\n"
)
# A run of letters and digits, or one character of a script without spaces between words.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Passage:
    """A sentence of a document, white space normalised, and its page and line, both from 1; lines count by page."""

    text: str
    page: int
    line: int


class PassageIndex:
    """The passages of one document, to be searched again and again."""

    def __init__(self, pages: Pages) -> None:
        self._passages = [passage for number, text in enumerate(pages.texts, 1) for passage in _passages(number, text)]
        self._counts = [Counter(words(passage.text)) for passage in self._passages]
        self._mean = sum(map(Counter.total, self._counts)) / max(1, len(self._counts))
        self._with_word = Counter(word for counts in self._counts for word in counts)

    def best(self, query: str, count: int) -> list[Passage]:
        """At most so many passages that share words with the query, the best first, among equals the first; what a
        page says twice is named once."""
        wanted = sorted(set(words(query)))
        scores = [self._score(counts, wanted) for counts in self._counts]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        ranked = [self._passages[index] for index in order if scores[index] > 0]
        first = {(passage.page, passage.text): passage for passage in reversed(ranked)}
        return [passage for passage in ranked if first[passage.page, passage.text] is passage][:count]

    def _score(self, counts: Counter[str], wanted: list[str]) -> float:
        length = 1 - B + B * counts.total() / self._mean if self._mean else 1.0
        return sum(
            self._idf(word) * counts[word] * (K1 + 1) / (counts[word] + K1 * length)
            for word in wanted
            if word in counts
        )

    def _idf(self, word: str) -> float:
        having = self._with_word[word]
        return math.log(1 + (len(self._passages) - having + 0.5) / (having + 0.5))


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; in Chinese and Japanese, characters."""
    return WORD.findall(text.lower())


def _passages(page: int, text: str) -> list[Passage]:
    found, start = [], 0
    for end in [*(match.end() for match in PASSAGE_END.finditer(text)), len(text)]:
        tokens = list(re.finditer(r"\S+", text[start:end]))
        for first in range(0, len(tokens), LONGEST):
            chunk = tokens[first : first + LONGEST]
            line = 1 + text.count("\n", 0, start + chunk[0].start())
            found.append(Passage(" ".join(word[0] for word in chunk), page, line))
        start = end
    return found
