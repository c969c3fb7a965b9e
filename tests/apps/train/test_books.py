from __future__ import annotations

import random
import re
from collections import defaultdict

import pytest

from lcbench.tasks.text import books
from lcbench.tasks.text.books import HELD_OUT_SEEDS, TOKENIZER_SEEDS, TRAINING_SEEDS, Book

# What a book says of a person, each as a pattern with the person first.
FACTS = {
    "city": r" ([A-Z]\w+) the \w+ lived in (\w+)\.",
    "profession": r" ([A-Z]\w+) the (\w+) (?:lived|walked|ran|rode|hurried|returned|went|wandered)",
    "thing": r" ([A-Z]\w+) always carried a (\w+ \w+)\.",
    "animal": r" ([A-Z]\w+) had a (\w+ \w+)\.",
    "food": r" ([A-Z]\w+) liked to eat (\w+)\.",
    "bed": r" ([A-Z]\w+) slept near the (\w+)\.",
    "feeling": r" ([A-Z]\w+) was (\w+), and",
    "friend": r" ([A-Z]\w+) was \w+, and (\w+) knew",
}


def test_a_seed_decides_a_book() -> None:
    assert Book(7).text(50) == Book(7).text(50) != Book(8).text(50)
    book = Book(7)
    assert book.text(20) + book.text(30) == Book(7).text(50)


@pytest.mark.parametrize("seed", range(10_000, 10_010))
def test_what_is_said_of_a_person_never_changes(seed: int) -> None:
    text = Book(seed).text(1500)
    said = 0
    for pattern in FACTS.values():
        of_person = defaultdict(set)
        for name, fact in re.findall(pattern, text):
            of_person[name].add(fact)
        assert all(len(facts) == 1 for facts in of_person.values())
        said += len(of_person)
    assert said > len(FACTS)


def test_the_cast_is_fixed_and_of_2_to_15_people() -> None:
    sizes = []
    for seed in range(60):
        book = Book(seed)
        early, late = (set(re.findall(r"\w+", book.text(sentences))) & set(books.NAMES) for sentences in (600, 100))
        assert late <= early
        sizes.append(len(early))
    assert min(sizes) == 2
    assert 12 <= max(sizes) <= 15


def test_every_sentence_begins_with_a_space_and_ends() -> None:
    book = Book(3)
    for sentence in [book.sentence() for _ in range(500)] + list(books.GRASS):
        assert re.fullmatch(r" [A-Z\"].*[.?!a-z]", sentence)
        assert "{" not in sentence


def test_seeds_of_training_tokenizer_and_held_out_books_are_apart() -> None:
    ranges = (TOKENIZER_SEEDS, TRAINING_SEEDS, HELD_OUT_SEEDS)
    assert sum(map(len, ranges)) == len(set().union(*ranges))


def test_word_lists_hold_each_word_once() -> None:
    for words in (books.NAMES, books.CITIES, books.PROFESSIONS, books.ITEMS, books.ADJECTIVES, books.PLACES):
        assert len(words) == len(set(words))
    assert not set(books.NAMES) & set(books.CITIES)


def test_pick_takes_each_as_often() -> None:
    rng = random.Random(0)
    counts = [sum(books.pick(rng, "abc") == letter for _ in range(3000)) for letter in "abc"]
    assert all(900 < count < 1100 for count in counts)
