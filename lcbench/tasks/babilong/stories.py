"""Generated stories in the style of the bAbI tasks 1 to 5 (Weston et al. 2015, https://arxiv.org/abs/1502.05698): each
is a simulated world, so that every question has exactly one answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from lcbench.metrics.babilong import PLACES

MOVERS = ("Mary", "John", "Daniel", "Sandra")
GIVERS = ("Fred", "Jeff", "Mary", "Bill")
THINGS = ("apple", "football", "milk")
WENT = ("went to", "travelled to", "journeyed to", "moved to", "went back to")
TOOK = ("picked up", "took", "got", "grabbed")
LEFT = ("dropped", "put down", "left", "discarded")
GAVE = ("gave", "passed", "handed")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclass(frozen=True)
class Story:
    """Facts in order, a question about them, and its one-word answer. `needed` are the indices of the supporting
    facts."""

    facts: tuple[str, ...]
    question: str
    answer: str
    needed: tuple[int, ...]


@dataclass(frozen=True)
class _Visit:
    """A thing's arrival at a place, by a move after or before someone took it, with the indices of these two facts."""

    place: str
    moved: int
    taken: int


@dataclass
class _World:
    """Who is where, who carries what, and where each thing has been, in order."""

    rng: random.Random
    facts: list[str] = field(default_factory=list)
    place: dict[str, str] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    carrier: dict[str, str] = field(default_factory=dict)
    trail: dict[str, list[_Visit]] = field(default_factory=dict)

    def say(self, fact: str) -> int:
        self.facts.append(fact)
        return len(self.facts) - 1

    def move(self, person: str) -> None:
        to = self.rng.choice([place for place in PLACES if place != self.place.get(person)])
        self.moved[person] = self.say(f"{person} {self.rng.choice(WENT)} the {to}.")
        self.place[person] = to
        for thing, carrier in self.carrier.items():
            if carrier == person:
                self.trail[thing].append(_Visit(to, self.moved[person], self.trail[thing][-1].taken))

    def handle(self, person: str) -> bool:
        """Let a person take or drop a thing; returns whether there was one."""
        mine = [thing for thing, carrier in self.carrier.items() if carrier == person]
        free = [
            thing
            for thing in THINGS
            if thing not in self.carrier
            and (thing not in self.trail or self.trail[thing][-1].place == self.place.get(person))
        ]
        if person not in self.place or not (mine or free):
            return False
        if mine and (not free or self.rng.random() < 0.5):
            thing = self.rng.choice(mine)
            self.say(f"{person} {self.rng.choice(LEFT)} the {thing}.")
            del self.carrier[thing]
            return True
        thing = self.rng.choice(free)
        taken = self.say(f"{person} {self.rng.choice(TOOK)} the {thing} there.")
        self.carrier[thing] = person
        self.trail.setdefault(thing, []).append(_Visit(self.place[person], self.moved[person], taken))
        return True


def qa1(rng: random.Random) -> Story:
    """One supporting fact: where is a person?"""
    world = _World(rng)
    for _ in range(rng.randint(2, 10)):
        world.move(rng.choice(MOVERS))
    person = rng.choice(sorted(world.place))
    return Story(tuple(world.facts), f"Where is {person}?", world.place[person], (world.moved[person],))


def _with_things(rng: random.Random) -> _World:
    world = _World(rng)
    for _ in range(rng.randint(8, 24)):
        person = rng.choice(MOVERS)
        if rng.random() < 0.5 or not world.handle(person):
            world.move(person)
    return world


def qa2(rng: random.Random) -> Story:
    """Two supporting facts: where is a thing?"""
    while not (world := _with_things(rng)).trail:
        pass
    thing = rng.choice(sorted(world.trail))
    last = world.trail[thing][-1]
    needed = tuple(sorted((last.moved, last.taken)))
    return Story(tuple(world.facts), f"Where is the {thing}?", last.place, needed)


def qa3(rng: random.Random) -> Story:
    """Three supporting facts: where was a thing before it was in a place?"""
    while True:
        world = _with_things(rng)
        places = {thing: _visited(trail) for thing, trail in world.trail.items()}
        asked = [thing for thing, visits in sorted(places.items()) if len(visits) > 1]
        if asked:
            break
    thing = rng.choice(asked)
    before, last = places[thing][-2:]
    needed = tuple(sorted({before.moved, before.taken, last.moved}))
    return Story(tuple(world.facts), f"Where was the {thing} before the {last.place}?", before.place, needed)


def _visited(trail: list[_Visit]) -> list[_Visit]:
    """The places of a thing in order, up to the last one that it was in only once: `before` is unique for that."""
    visits = [visit for number, visit in enumerate(trail) if not number or visit.place != trail[number - 1].place]
    while visits and sum(visit.place == visits[-1].place for visit in visits) > 1:
        visits.pop()
    return visits


def qa4(rng: random.Random) -> Story:
    """Two arguments: places by their directions."""
    one, middle, other = rng.sample(PLACES, 3)
    direction = rng.choice(sorted(OPPOSITE))
    facts = [f"The {one} is {direction} of the {middle}.", f"The {middle} is {direction} of the {other}."]
    order = rng.sample(range(2), 2)
    asked = rng.randrange(4)
    question, answer, needed = (
        (f"What is {direction} of the {middle}?", one, 0),
        (f"What is the {one} {direction} of?", middle, 0),
        (f"What is {OPPOSITE[direction]} of the {middle}?", other, 1),
        (f"What is the {middle} {direction} of?", other, 1),
    )[asked]
    return Story(tuple(facts[number] for number in order), question, answer, (order.index(needed),))


def qa5(rng: random.Random) -> Story:
    """Three arguments: who gave what to whom? The answer is the last event that the question's words fit."""
    world = _World(rng)
    gifts: list[tuple[int, str, str, str]] = []
    for _ in range(rng.randint(4, 16)):
        person = rng.choice(GIVERS)
        mine = [thing for thing, carrier in world.carrier.items() if carrier == person]
        if mine and rng.random() < 0.7:
            thing, to = rng.choice(mine), rng.choice([other for other in GIVERS if other != person])
            gifts.append((world.say(f"{person} {rng.choice(GAVE)} the {thing} to {to}."), person, thing, to))
            world.carrier[thing] = to
        elif rng.random() < 0.4 or not world.handle(person):
            world.move(person)
    if not gifts:
        return qa5(rng)
    number, giver, thing, to = gifts[-1]
    question, answer = rng.choice(
        [
            (f"What did {giver} give to {to}?", thing),
            (f"Who did {giver} give the {thing} to?", to),
            (f"Who gave the {thing} to {to}?", giver),
            (f"Who gave the {thing}?", giver),
            (f"Who received the {thing}?", to),
        ]
    )
    return Story(tuple(world.facts), question, answer, (number,))


STORIES: dict[str, Callable[[random.Random], Story]] = {"qa1": qa1, "qa2": qa2, "qa3": qa3, "qa4": qa4, "qa5": qa5}
