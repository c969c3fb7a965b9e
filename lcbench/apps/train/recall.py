"""Documents made of random tokens: copying, and values retrieved by their keys.

Nothing but matching what stands before solves these, whatever the tokens: they teach the heads that the facts of
`documents` then use. Key and value recall with many queries follows Arora et al. (2023, MQAR, arXiv:2312.04927), with
what else may stand between a key, its value and the next key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from lcbench.apps.train.documents import Document, Draft, Library, Tokens
from lcbench.apps.train.facts import digits
from lcbench.tasks.text.books import (
    ACTIONS,
    ADJECTIVES,
    ANIMALS,
    CITIES,
    COLORS,
    FEELINGS,
    FOODS,
    ITEMS,
    NAMES,
    PLACES,
    PROFESSIONS,
    pick,
)

WORDS = ADJECTIVES + COLORS + ANIMALS + ITEMS + FOODS + ACTIONS + PLACES
RECALL_WORDS = (*WORDS, *PROFESSIONS, *FEELINGS)
RECALL_NAMES = NAMES + CITIES
STATEMENTS = (" {key}", " {key} is", " {key} is", " The code of {key} is", " The best thing to do in {key} is")


def repeated_segment(rng: random.Random, length: int, library: Library, pool: int | None = None) -> Document:
    """A segment of 4 to 27 random tokens, repeated to the end; `pool` draws them from so many different tokens only.

    Counts from the second token of the first repeat.
    """
    tokens = _pool(rng, library, pool)
    segment = [pick(rng, tokens) for _ in range(4 + int(rng.random() * (min(28, length // 2) - 4)))]
    repeats = length // len(segment) + 1
    return Draft().add([*segment, segment[0]]).add(segment[1:] + segment * repeats, 1.0).cut(length)


def copied_segment(rng: random.Random, length: int, library: Library) -> Document:
    """A random segment, half a document long at most, that comes back whole or from some place in its first half on,
    random tokens between in three documents of five. A return counts from its fourth token."""
    tokens = _pool(rng, library, 4 + int(rng.random() * 60) if rng.random() < 0.5 else None)
    size = 8 + int(rng.random() ** 2 * (length // 2 - 8))
    segment = [pick(rng, tokens) for _ in range(size)]
    draft = Draft().add(segment)
    while len(draft.ids) < length + 1:
        gap = int(rng.random() * max(1, length - 2 * size)) if rng.random() < 0.6 else 0
        draft.add([pick(rng, tokens) for _ in range(gap)])
        again = segment if rng.random() < 0.7 else segment[int(rng.random() * (size // 2)) :]
        draft.add(again[:3]).add(again[3:], 1.0)
    return draft.cut(length)


def recall(
    rng: random.Random, length: int, library: Library, longest_key: int, longest_gap: int, longest_value: int
) -> Document:
    """Keys and their values, again and again in random order; a value counts whenever its key stood there before.

    Within a document all keys have one length, 1 to `longest_key` tokens, all values another, and the same template of
    random tokens stands around them: up to `longest_gap` between key and value, up to 2 before the key (where there may
    be a gap of more than one), up to 1 after the value. Half of the documents have names as keys; values are digits
    (half), words, or anything; random tokens stand between the statements of half of the documents.
    """
    anything = library.ordinary
    gap = _random(rng, anything, int(rng.random() * (longest_gap + 1)))
    after = _random(rng, anything, int(rng.random() * 2))
    before = _random(rng, anything, int(rng.random() * 3)) if longest_gap > 1 else []
    key_size, value_size = 1 + int(rng.random() * longest_key), 1 + int(rng.random() * longest_value)
    size = len(before) + key_size + len(gap) + value_size + len(after)

    names: Sequence[int] = [library.encode(f" {name}")[0] for name in RECALL_NAMES]
    key_pool = names if rng.random() < 0.5 else anything
    keys: list[tuple[int, ...]] = []
    for _ in range(max(1, 1 + int(rng.random() * length / size / 2))):
        key = tuple(_random(rng, key_pool, key_size))
        if key not in keys:
            keys.append(key)
    values, is_number = _recall_values(rng, library, len(keys), value_size)
    if is_number and rng.random() < 0.7:
        gap = gap + library.encode(" ")

    noise_share = rng.random() * 0.6 if rng.random() < 0.5 else 0.0
    draft = Draft().add([library.start])
    seen: set[int] = set()
    while len(draft.ids) < length + 1:
        if rng.random() < noise_share:
            draft.add(_random(rng, anything, 1 + int(rng.random() * 8)))
            continue
        index = int(rng.random() * len(keys))
        draft.add([*before, *keys[index], *gap])
        draft.add(values[index], 1.0 if index in seen else 0.0).add(after)
        seen.add(index)
    return draft.cut(length)


def stated_values(rng: random.Random, length: int, library: Library) -> Document:
    """Names or cities with a number of 1 to 3 digits or a word each, in one of the sentences of STATEMENTS, again and
    again: only the key tells the value. A value counts whenever its key stood there before."""
    statement = pick(rng, STATEMENTS)
    count = 3 + int(rng.random() * length / 10)
    keys = rng.sample(NAMES if rng.random() < 0.6 else CITIES, min(count, 45))
    numbers = rng.random() < 0.5
    pairs = [
        (
            library.encode(statement.format(key=key)),
            library.encode(digits(rng, 1 + int(rng.random() * 3)) if numbers else f" {pick(rng, WORDS)}"),
        )
        for key in keys
    ]
    draft = Draft().add([library.start])
    seen: set[int] = set()
    while len(draft.ids) < length + 1:
        index = int(rng.random() * len(pairs))
        key_ids, value_ids = pairs[index]
        draft.add(key_ids).add(value_ids, 1.0 if index in seen else 0.0).add(library.encode("."))
        seen.add(index)
    return draft.cut(length)


def _recall_values(rng: random.Random, library: Library, count: int, size: int) -> tuple[list[Tokens], bool]:
    """So many values of `size` tokens, and whether they are numbers."""
    kind = rng.random()
    pool: Sequence[int] = library.ordinary
    if kind < 0.5:
        pool = [library.encode(str(digit))[0] for digit in range(10)]
    elif kind < 0.8:
        pool = [token for word in RECALL_WORDS for token in library.encode(f" {word}")]
    return [_random(rng, pool, size) for _ in range(count)], kind < 0.5


def _random(rng: random.Random, pool: Sequence[int], count: int) -> Tokens:
    return [pick(rng, pool) for _ in range(count)]


def _pool(rng: random.Random, library: Library, size: int | None) -> Sequence[int]:
    return library.ordinary if size is None else rng.sample(library.ordinary, size)
