from __future__ import annotations

import random
import re

import pytest

from lcbench.apps.train.facts import Fact, FactKind, activity, draw_fact, draw_facts

TEXTS = {
    "pass_key": (r" The pass key is \d{5}\. Remember it\.", r" What is the pass key\? The pass key is \d{5}"),
    "code": (r" The code of (\w+) is \d{4}\.", r" What is the code of (\w+)\? The code of \1 is \d{4}"),
    "code_with_profession": (
        r" The code of (\w+ the \w+) is \d{4}\.",
        r" What is the code of (\w+ the \w+)\? The code of \1 is \d{4}",
    ),
    "best_thing": (
        r" The best thing to do in \w+ is \w+ a \w+ \w+ near the \w+ \w+\.",
        r" What is the best thing to do in (\w+)\? The best thing to do in \1 is \w+ a \w+ \w+ near the \w+ \w+",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_statement_and_question_are_the_exact_sentences(kind: FactKind) -> None:
    statement, question = TEXTS[kind]
    for seed in range(20):
        fact = draw_fact(random.Random(seed), kind)
        assert re.fullmatch(statement, fact.statement)
        assert re.fullmatch(question, fact.question + fact.answer)
        assert fact.answer in fact.statement
        assert fact.key in fact.statement


def test_the_sentences_of_the_readme() -> None:
    fact = Fact("Mara", " The code of Mara is", " 4821", ".", " What is the code of Mara? The code of Mara is")
    assert fact.statement == " The code of Mara is 4821."


def test_keys_differ_and_a_second_pass_key_becomes_a_code() -> None:
    facts = draw_facts(random.Random(1), ["pass_key", "code", "pass_key", *["code"] * 60, *["best_thing"] * 45])
    assert len({fact.key for fact in facts}) == len(facts) == 108
    assert sum("pass key" in fact.statement for fact in facts) == 1
    assert " the " in facts[2].key


def test_more_facts_than_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="different keys"):
        draw_facts(random.Random(0), ["best_thing"] * 51)


def test_activities_seldom_repeat() -> None:
    rng = random.Random(0)
    assert len({activity(rng) for _ in range(200)}) > 195
