"""Generated conversations: requests for a text of some form about a topic, all with different replies."""

from __future__ import annotations

import random
from collections.abc import Iterator

from lcbench.tasks.text.books import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    COLORS,
    FOODS,
    NAMES,
    PLACES,
    PROFESSIONS,
    TIMES,
    WEATHER,
    pick,
)

FORMS = ("poem", "riddle", "letter", "song", "news article", "short story", "speech", "blog post", "essay", "prayer")
TOPICS = (
    "lanterns",
    "bridges",
    "ravens",
    "ladders",
    "mirrors",
    "rivers",
    "harbors",
    "violins",
    "candles",
    "gardens",
    "sailors",
    "stables",
    "coins",
    "umbrellas",
    "towers",
    "rabbits",
    "maps",
    "onions",
    "drums",
    "islands",
    "castles",
    "letters",
    "owls",
    "bakers",
    "clocks",
    "forests",
    "baskets",
    "museums",
    "parrots",
    "cellars",
    "kings",
    "spoons",
)
LINES = (
    "The {topic} of {city} are {adjective} and {adjective2}.",
    "{name} the {profession} dreamed of {topic} that {time}.",
    "Near the {place} the {weather} hides {color} {topic}.",
    "Nobody in {city} counts {topic} like {name}.",
    "One {adjective} {animal} sleeps beside the {adjective2} {topic}.",
    "What are {topic}, asked {name}, but {adjective} {color} things?",
    "There was plenty of {food} for everyone, and {topic} for {name}.",
    "Those {topic} wait where the {place} meets the {weather}.",
    "In the {time} all {topic} turn {color}.",
    "{name} left {city} with two {adjective} {topic}.",
)
LINES_OF_A_REPLY = (2, 6)
ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
HASH = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
HASH_LENGTH = 10
Subject = tuple[str, str]  # form and topic
Exchange = tuple[str, str]  # what the user asks for, and the reply


def request(subject: Subject) -> str:
    """The user's message."""
    form, topic = subject
    return f"write {'an' if form[0] in 'aeiou' else 'a'} {form} about {topic}"


def reply(rng: random.Random, topic: str) -> str:
    """A text about a topic, one sentence per line."""
    lines = rng.sample(LINES, rng.randint(*LINES_OF_A_REPLY))
    return "\n".join(
        line.format(
            topic=topic,
            name=pick(rng, NAMES),
            city=pick(rng, CITIES),
            profession=pick(rng, PROFESSIONS),
            adjective=pick(rng, ADJECTIVES),
            adjective2=pick(rng, ADJECTIVES),
            color=pick(rng, COLORS),
            animal=pick(rng, ANIMALS),
            food=pick(rng, FOODS),
            place=pick(rng, PLACES),
            time=pick(rng, TIMES),
            weather=pick(rng, WEATHER),
        )
        for line in lines
    )


def random_string(rng: random.Random) -> str:
    return "".join(rng.choices(HASH, k=HASH_LENGTH))


def question(prefix: str, ordinal: int, subject: Subject) -> str:
    """The last message of the user; `ordinal` is counted from 0."""
    form, topic = subject
    return (
        f"Prepend {prefix} to the {ORDINALS[ordinal]} (1 indexed) {form} about {topic}. "
        "Do not include any other text in your response."
    )


def distractors(rng: random.Random, needle: Subject) -> Iterator[Exchange]:
    """Exchanges about everything but the needle's subject, without end: every other one shares its form or topic."""
    form, topic = needle
    while True:
        kind = rng.randrange(4)
        other = (
            form if kind == 0 else rng.choice([one for one in FORMS if one != form]),
            topic if kind == 1 else rng.choice([one for one in TOPICS if one != topic]),
        )
        yield request(other), reply(rng, other[1])


def examples(rng: random.Random) -> str:
    """Two short conversations with an answered question, with which published conversations begin."""
    shown = "Here are some examples of conversations succeeded by a follow-up question answered correctly:\n\n"
    for _ in range(2):
        subject = rng.choice(FORMS), rng.choice(TOPICS)
        replies = [reply(rng, subject[1]) for _ in range(2)]
        asked, prefix = rng.randrange(2), random_string(rng)
        turns = "".join(f"User: {request(subject)}\nAssistant: {text}\n" for text in replies)
        turns += f"User: {question(prefix, asked, subject)}\nAssistant: {prefix}{replies[asked]}\n"
        shown += f"======EXAMPLE======\n{turns}======END EXAMPLE======\n\n"
    return shown
