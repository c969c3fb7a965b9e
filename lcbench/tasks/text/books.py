"""Seeded generator of books, and the vocabulary of all training documents of the embedded models.

A model can only benefit from more context if the text depends on it. So a book has a cast of fixed size, facts about a
person never change within it, and the name precedes the fact: the longer the context, the more of the next sentence
has been said already, and perplexity falls with length. (With a growing cast, it rises.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# Disjoint ranges of seeds, so that held-out books were never trained on.
TOKENIZER_SEEDS = range(400)
TRAINING_SEEDS = range(10_000, 10_600)
HELD_OUT_SEEDS = range(900_000, 1_000_000)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    """Mara Tobin Elsa Rufus Nina Oskar Petra Hugo Lena Victor Iris Felix Clara Jonas Greta Simon Alma Boris Dora Edgar
    Flora Gavin Hilda Ivan Julia Karl Lydia Martin Nora Otto Paula Quentin Rosa Stefan Tessa Ulrich Vera Walter Xenia
    Yorick Zelda Arthur Bella Caspar Diana Emil Freya Gustav Helen Igor Judith Konrad Laura Milo Nadia Olga Peter Ralph
    Sara Thomas Ursula Viola Wendy Anton Berta Conrad Daphne Erik Fiona George Hanna Isaac Joan Kasper Linda Marcus
    Norma Oliver Phoebe Roland Stella Tristan Una Vincent Wilma"""
)
CITIES = _words(
    """Toledo Lisbon Vienna Oslo Dublin Prague Naples Geneva Boston Cairo Delhi Athens Berlin Madrid Paris London Tokyo
    Lima Quito Havana Sydney Warsaw Riga Tunis Dakar Milan Venice Hamburg Dresden Bergen Krakow Porto Seville Ghent
    Basel Turin Malmo Leeds Bristol York Denver Austin Chicago Seattle Portland Boise Omaha Dallas Houston
    Tampa"""
)
PROFESSIONS = _words(
    """baker sailor tailor doctor teacher farmer hunter painter singer lawyer miller smith soldier priest merchant clerk
    weaver gardener carpenter writer poet guard cook fisher barber potter nurse judge pilot driver"""
)
ITEMS = _words(
    """lantern knife book mirror rope key hammer violin basket letter ring coat map drum candle bottle flute hat clock
    blanket sword coin box needle spoon shovel ladder umbrella compass scarf"""
)
ADJECTIVES = _words(
    """old small heavy broken bright dusty quiet strange warm cold gentle hungry empty narrow golden silver wooden
    crooked gray thin soft round sharp pale"""
)
COLORS = _words("red blue green black white brown yellow orange purple pink")
ANIMALS = _words("dog cat horse goat raven donkey parrot sheep fox rabbit owl goose pig mouse")
FOODS = _words("bread soup cheese apples honey rice fish beans cake plums butter eggs onions grapes cabbage mushrooms")
PLACES = _words(
    """market river bridge tower church forest harbor mill garden inn castle square library station well gate school
    island cellar bakery museum theater stable hill"""
)
TIMES = _words("morning evening night afternoon winter summer spring autumn")
MOVEMENTS = _words("walked ran rode hurried returned went wandered")
ACTIONS = _words("eat sell find paint bury read carry hide watch count wash burn")
FEELINGS = _words("happy sad angry afraid tired proud lonely calm jealous curious")
WEATHER = _words("rain wind snow fog sun storm")

# Every sentence begins with a space, so that the tokens of sentences can be concatenated.
GRASS = (
    " The grass is green.",
    " The sky is blue.",
    " The sun is yellow.",
    " Here we go.",
    " There and back again.",
)
GENERIC = (
    " Nobody said a word.",
    " It was already late.",
    " The {weather} did not stop.",
    " A {adjective} {adjective2} door stood open near the {place}.",
    " Somewhere a {animal} made a noise.",
    " The {place} was {adjective} and {adjective2} that {time}.",
    " Then the {weather} came down over the {place}.",
    " People talked about it for a long time.",
    " There was no answer.",
    " The {time} was {adjective}, and the {place} was {adjective2}.",
    " They waited until {time}.",
    " Smoke rose above the {place}.",
    " Two children played beside the {place}.",
    " A {color} flag hung over the {place}.",
)
OF_A_PERSON = (
    " {name} the {profession} lived in {city}.",
    " {name} came from {city} and worked as a {profession}.",
    " {name} always carried a {adjective} {item}.",
    " {name} put the {adjective} {item} on the table.",
    " {name} had a {color} {animal}.",
    " {name} called the {color} {animal}.",
    " {name} liked to eat {food}.",
    " For dinner {name} made {food} again.",
    " {name} and {friend} {moved} to the {somewhere}.",
    " {name} {moved} to the {place} that {time}.",
    " {name} slept near the {place}.",
    " {name} was {feeling}, and {friend} knew it.",
    ' "Where is my {item}?" asked {name}.',
    ' "I miss {city}," said {name} to {friend}.',
    " {name} the {profession} {moved} home through the {weather} and was {feeling} again.",
    " {name} told {friend} about the {somewhere}.",
    " Everyone in {city} knew {name} the {profession}.",
    " {name} gave {friend} some {food} and a {any_adjective} {any_item}.",
    " {name} looked at the {somewhere} and said nothing.",
)
GENERIC_SHARE = 0.12  # of the sentences of a book
SAME_PERSON_SHARE = 0.3  # probability that a sentence is about the same person as the one before
HOME_SHARE = 0.7  # of the places that a book names in passing: one of its four


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, uniformly drawn; about twice as fast as `random.choice`."""
    return options[int(rng.random() * len(options))]


def generic_sentence(rng: random.Random) -> str:
    """A sentence about no person, independent of all other sentences."""
    return pick(rng, GENERIC).format(
        weather=pick(rng, WEATHER),
        adjective=pick(rng, ADJECTIVES),
        adjective2=pick(rng, ADJECTIVES),
        place=pick(rng, PLACES),
        animal=pick(rng, ANIMALS),
        time=pick(rng, TIMES),
        color=pick(rng, COLORS),
    )


class Book:
    """An endless stream of sentences about a cast of 2 to 15 people, decided by its seed alone."""

    def __init__(self, seed: int) -> None:
        rng = self._rng = random.Random(seed)
        names = rng.sample(NAMES, int(2 * 8 ** rng.random()))
        self._home = rng.sample(PLACES, 4)
        self._cast = [_person(rng, name, friend=names[index - 1]) for index, name in enumerate(names)]
        self._last = self._cast[0]

    def sentence(self) -> str:
        """The next sentence, with a space before it."""
        rng = self._rng
        if rng.random() < GENERIC_SHARE:
            return generic_sentence(rng)
        if rng.random() >= SAME_PERSON_SHARE:
            self._last = pick(rng, self._cast)
        return pick(rng, OF_A_PERSON).format(
            **self._last,
            any_adjective=pick(rng, ADJECTIVES),
            any_item=pick(rng, ITEMS),
            moved=pick(rng, MOVEMENTS),
            somewhere=pick(rng, self._home if rng.random() < HOME_SHARE else PLACES),
            time=pick(rng, TIMES),
            weather=pick(rng, WEATHER),
        )

    def text(self, sentences: int) -> str:
        """The next sentences, joined."""
        return "".join(self.sentence() for _ in range(sentences))


def _person(rng: random.Random, name: str, friend: str) -> dict[str, str]:
    """The facts about a person, which stay the same throughout a book."""
    return {
        "name": name,
        "friend": friend,
        "profession": pick(rng, PROFESSIONS),
        "city": pick(rng, CITIES),
        "adjective": pick(rng, ADJECTIVES),
        "item": pick(rng, ITEMS),
        "color": pick(rng, COLORS),
        "animal": pick(rng, ANIMALS),
        "food": pick(rng, FOODS),
        "place": pick(rng, PLACES),
        "feeling": pick(rng, FEELINGS),
    }
