"""The English words that RULER's keys and word lists are made of: those of the package `wonderwords`.

RULER takes them from there too. Left out here are the hundred words that are not plain lower-case letters (`t-shirt`,
`ad hoc`), which cannot be counted or told apart from a pair of words.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def words_of(kind: str) -> tuple[str, ...]:
    """The words of a kind (`noun`, `adjective` or `verb`), each once, in alphabetical order."""
    text = files("wonderwords.assets").joinpath(f"{kind}list.txt").read_text(encoding="utf-8")
    return tuple(sorted({word for word in text.split("\n") if re.fullmatch("[a-z]+", word)}))


@cache
def all_words() -> tuple[str, ...]:
    """Nouns, adjectives and verbs, each once, in alphabetical order."""
    return tuple(sorted({*words_of("noun"), *words_of("adjective"), *words_of("verb")}))
