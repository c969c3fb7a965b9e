"""The facts that documents state and ask for: a statement, a question, and an answer that only the statement tells."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lcbench.tasks.text.books import ACTIONS, ADJECTIVES, CITIES, COLORS, ITEMS, NAMES, PLACES, PROFESSIONS, pick

FactKind = Literal["pass_key", "code", "code_with_profession", "best_thing"]


@dataclass(frozen=True)
class Fact:
    """A statement, `lead + answer + tail`, and its question, `question + answer`; each part begins with a space.

    `key` distinguishes it from other facts of a document: the name of a person or a city.
    """

    key: str
    lead: str
    answer: str
    tail: str
    question: str

    @property
    def statement(self) -> str:
        return self.lead + self.answer + self.tail


def digits(rng: random.Random, count: int) -> str:
    """A number of so many digits, leading zeros allowed, with a space before it."""
    return " " + "".join(str(int(rng.random() * 10)) for _ in range(count))


def activity(rng: random.Random) -> str:
    """Something to do, seven words: `paint a red lantern near the old mill`."""
    return (
        f"{pick(rng, ACTIONS)} a {pick(rng, COLORS)} {pick(rng, ITEMS)} "
        f"near the {pick(rng, ADJECTIVES)} {pick(rng, PLACES)}"
    )


def draw_fact(rng: random.Random, kind: FactKind) -> Fact:
    """A fact of this kind, key and answer at random."""
    if kind == "pass_key":
        question = " What is the pass key? The pass key is"
        return Fact("pass key", " The pass key is", digits(rng, 5), ". Remember it.", question)
    if kind == "best_thing":
        city = pick(rng, CITIES)
        thing = f" best thing to do in {city}"
        return Fact(city, f" The{thing} is", " " + activity(rng), ".", f" What is the{thing}? The{thing} is")
    name = pick(rng, NAMES)
    if kind == "code_with_profession":
        name += f" the {pick(rng, PROFESSIONS)}"
    code = f" code of {name}"
    return Fact(name, f" The{code} is", digits(rng, 4), ".", f" What is the{code}? The{code} is")


def draw_facts(rng: random.Random, kinds: list[FactKind]) -> list[Fact]:
    """A fact of every requested kind, no two with the same key: there is one pass key, and a second one that is
    requested becomes the code of a person with profession.

    Raises: ValueError for more cities or names than there are (50 and 85).
    """
    if kinds.count("best_thing") > len(CITIES) or kinds.count("code") > len(NAMES):
        raise ValueError(f"no document can hold so many facts with different keys: {kinds}")
    facts: dict[str, Fact] = {}
    for kind in kinds:
        wanted: FactKind = "code_with_profession" if kind == "pass_key" and "pass key" in facts else kind
        fact = draw_fact(rng, wanted)
        while fact.key in facts:
            fact = draw_fact(rng, wanted)
        facts[fact.key] = fact
    return list(facts.values())
