"""The English words of RULER's keys and word lists, from the package `wonderwords` as in RULER itself.

The hundred words that are not plain lower-case letters (`t-shirt`, `ad hoc`) are left out: they cannot be distinguished
from pairs of words.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def words_of(kind: str) -> tuple[str, ...]:
    """The distinct words of a kind (`noun`, `adjective` or `verb`), in alphabetical order."""
    text = files("wonderwords.assets").joinpath(f"{kind}list.txt").read_text(encoding="utf-8")
    return tuple(sorted({word for word in text.split("\n") if re.fullmatch("[a-z]+", word)}))


@cache
def all_words() -> tuple[str, ...]:
    """The distinct nouns, adjectives and verbs, in alphabetical order."""
    return tuple(sorted({*words_of("noun"), *words_of("adjective"), *words_of("verb")}))
