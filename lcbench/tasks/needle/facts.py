"""Keys and values of needles, drawn word by word so that their number of tokens is bounded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lcbench.tasks.text.books import ACTIONS, ADJECTIVES, CITIES, COLORS, ITEMS, NAMES, PLACES, pick
from lcbench.tasks.text.running_text import SENTENCE, encode_all
from lcbench.tasks.text.words import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS = tuple("0123456789")
HEX = (*DIGITS, *"abcdef")
DASH = ("-",)


@dataclass(frozen=True)
class Kind:
    """A kind of key or value: one word from each list, joined by `joint`."""

    slots: tuple[tuple[str, ...], ...]
    joint: str = " "

    def draw(self, rng: random.Random) -> str:
        return self.joint.join(pick(rng, slot) for slot in self.slots)


KINDS = {
    # Those of lcbench.apps.train.facts, which the embedded models were trained on.
    "city": Kind((CITIES,)),
    "name": Kind((NAMES,)),
    "activity": Kind((ACTIONS, ("a",), COLORS, ITEMS, ("near",), ("the",), ADJECTIVES, PLACES)),
    "code": Kind((DIGITS,) * 4, joint=""),
    # RULER's: an adjective and a noun, seven digits that do not begin with 0, and random UUIDs (RFC 9562, version 4).
    "words": Kind((words_of("adjective"), words_of("noun")), joint="-"),
    "number": Kind((DIGITS[1:], *(DIGITS,) * 6), joint=""),
    "uuid": Kind(
        (
            *(HEX,) * 8,
            DASH,
            *(HEX,) * 4,
            DASH,
            ("4",),
            *(HEX,) * 3,
            DASH,
            tuple("89ab"),
            *(HEX,) * 3,
            DASH,
            *(HEX,) * 12,
        ),
        joint="",
    ),
}


def draw_distinct(rng: random.Random, kind: str, count: int) -> list[str]:
    """`count` distinct keys or values of a kind, in random order."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[KINDS[kind].draw(rng)] = None
    return list(drawn)


def how_many(kind: str) -> int:
    """The number of distinct keys or values of a kind."""
    count = 1
    for slot in KINDS[kind].slots:
        count *= len(slot)
    return count


@lru_cache(maxsize=64)
def most_tokens(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    """An upper bound on the tokens of one key or value, with the space before it."""
    slots, joint = KINDS[kind].slots, KINDS[kind].joint
    joints = len(slots) - 1 if joint.strip() else 0
    longest = {
        slot: max(map(len, encode_all(tokenizer, [f" {word}" for word in slot], SENTENCE))) for slot in set(slots)
    }
    return joints + sum(longest[slot] for slot in slots)
