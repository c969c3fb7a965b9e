"""BABILong, generated: worlds replayed by an independent reader, exact lengths, facts in their order."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from lcbench.tasks.babilong.stories import OPPOSITE, STORIES, Story
from tests.helpers import cli, records_of
from tests.tokenizers import STYLES, build

WENT = re.compile(r"(\w+) (?:went to|travelled to|journeyed to|moved to|went back to) the (\w+)\.")
TOOK = re.compile(r"(\w+) (?:picked up|took|got|grabbed) the (\w+) there\.")
LEFT = re.compile(r"(\w+) (?:dropped|put down|left|discarded) the (\w+)\.")
GAVE = re.compile(r"(\w+) (?:gave|passed|handed) the (\w+) to (\w+)\.")


def answer_of(story: Story, facts: tuple[str, ...]) -> str:
    """The answer that a reader of these facts gives: the last one that fits."""
    place: dict[str, str] = {}
    carried: dict[str, str] = {}
    been: dict[str, list[str]] = {}
    gifts: list[tuple[str, str, str]] = []
    relations: set[tuple[str, str, str]] = set()
    for fact in facts:
        if found := WENT.fullmatch(fact):
            place[found[1]] = found[2]
            for thing, person in carried.items():
                if person == found[1]:
                    been[thing].append(found[2])
        elif found := TOOK.fullmatch(fact):
            assert found[2] not in carried
            carried[found[2]] = found[1]
            been.setdefault(found[2], []).append(place[found[1]])
        elif found := LEFT.fullmatch(fact):
            assert carried.pop(found[2]) == found[1]
        elif found := GAVE.fullmatch(fact):
            assert carried[found[2]] == found[1] != found[3]
            carried[found[2]] = found[3]
            gifts.append((found[1], found[2], found[3]))
        else:
            found = re.fullmatch(r"The (\w+) is (\w+) of the (\w+)\.", fact)
            assert found
            relations |= {(found[1], found[2], found[3]), (found[3], OPPOSITE[found[2]], found[1])}
    ask = story.question
    if found := re.fullmatch(r"Where is the (\w+)\?", ask):
        return been[found[1]][-1]
    if found := re.fullmatch(r"Where is (\w+)\?", ask):
        return place[found[1]]
    if found := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", ask):
        visits = [one for number, one in enumerate(been[found[1]]) if not number or one != been[found[1]][number - 1]]
        (at,) = [number for number, one in enumerate(visits[: len(visits)]) if one == found[2]][:1]
        return visits[at - 1]
    if found := re.fullmatch(r"What is (\w+) of the (\w+)\?", ask):
        (answer,) = [one for one, direction, other in relations if (direction, other) == (found[1], found[2])]
        return answer
    if found := re.fullmatch(r"What is the (\w+) (\w+) of\?", ask):
        (answer,) = [other for one, direction, other in relations if (one, direction) == (found[1], found[2])]
        return answer
    forms = (
        (r"What did (?P<a>\w+) give to (?P<c>\w+)\?", 1),
        (r"Who did (?P<a>\w+) give the (?P<b>\w+) to\?", 2),
        (r"Who gave the (?P<b>\w+) to (?P<c>\w+)\?", 0),
        (r"Who gave the (?P<b>\w+)\?", 0),
        (r"Who received the (?P<b>\w+)\?", 2),
    )
    for form, part in forms:
        if found := re.fullmatch(form, ask):
            wanted = found.groupdict()
            fits = [gift for gift in gifts if all(gift["abc".index(key)] == value for key, value in wanted.items())]
            return fits[-1][part]
    raise AssertionError(ask)


@pytest.mark.parametrize("name", STORIES)
def test_a_reader_of_the_facts_finds_the_answer(name: str) -> None:
    answers = set()
    for seed in range(150):
        story = STORIES[name](random.Random(seed))
        assert answer_of(story, story.facts) == story.answer, (seed, story)
        assert len(story.needed) <= {"qa1": 1, "qa2": 2, "qa3": 3, "qa4": 1, "qa5": 1}[name]
        assert all(0 <= number < len(story.facts) for number in story.needed)
        answers.add(story.answer)
    assert len(answers) >= 6


@pytest.mark.parametrize("name", ["qa2", "qa3"])
def test_the_answer_needs_its_supporting_facts(name: str) -> None:
    """Without everything else the answer is still the same."""
    for seed in range(60):
        story = STORIES[name](random.Random(seed))
        needed = [story.facts[number] for number in story.needed]
        thing = re.search(r"the (\w+)", story.question)
        assert thing and any(fact.endswith(f" the {thing[1]} there.") for fact in needed)
        assert any(fact.endswith(f" the {story.answer}.") for fact in needed)


@pytest.mark.parametrize("style", STYLES)
def test_the_length_is_exact_and_the_facts_are_in_order(style: str) -> None:
    tokenizer = build(style)
    example = load_task("babilong/qa2").example(Cell(4000), 1, tokenizer, 0)
    assert len(example.prompt) + example.max_new_tokens == 4000 and example.max_new_tokens == 20
    text = str(tokenizer.decode(example.prompt, skip_special_tokens=True))
    context = text[text.index("<context>\n") : text.index("\n</context>")]
    story = STORIES["qa2"](load_task("babilong/qa2").rng(Cell(0), 1, 0))
    places = [context.find(fact) for fact in story.facts]
    assert text.endswith(f"</context>\n\nQuestion: {story.question}") and example.references[0] == story.answer
    at = 0
    for fact in story.facts:  # in this order, each behind the one before
        at = context.index(fact, at) + len(fact)
    assert -1 not in places and example.details["facts"] == len(story.facts)


def test_the_story_is_the_same_at_every_length_and_the_prompt_as_published() -> None:
    tokenizer, task = ModelSource().tokenizer(), load_task("babilong/qa1")
    short, long = (task.example(Cell(seq_len), 3, tokenizer, 0) for seq_len in (1000, 2000))
    assert short.references == long.references and len(long.prompt) == 1980
    text = str(tokenizer.decode(long.prompt, skip_special_tokens=True))
    assert "The most recent location of \u2019person\u2019 is \u2019location\u2019." in text
    assert task.score(long, f"The most recent location is {long.references[0]}.")["score"] == 100.0
    assert long.needle_at is not None
    needle = str(tokenizer.decode(long.prompt[long.needle_at :][: long.needle_tokens])).strip()
    assert needle.startswith(tuple("MJDS")) and needle.endswith(f"{long.references[0]}.")
    with pytest.raises(UserError, match=r"does not fit into 300 tokens.*use --seq-len (\d+)") as refusal:
        task.example(Cell(300), 3, tokenizer, 0)
    shortest = int(re.search(r"--seq-len (\d+)", str(refusal.value))[1])  # type: ignore[index]
    assert len(task.example(Cell(shortest), 3, tokenizer, 0).prompt) == shortest - 20


def test_a_book_of_ones_own_is_the_haystack(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"It rained on day {n}." for n in range(400)))
    example = load_task(f"babilong/qa4:haystack={book}").example(Cell(1500), 0, ModelSource().tokenizer(), 0)
    assert "rained on day" in ModelSource().tokenizer().decode(example.context)
    with pytest.raises(UserError, match=r"has .* tokens in whole sentences"):
        load_task(f"babilong/qa4:haystack={book}").example(Cell(15_000), 0, ModelSource().tokenizer(), 0)


def test_it_runs_with_a_score_by_the_published_rule(tmp_path: Path) -> None:
    done = cli("run", "babilong/qa1", "--seq-len", "640", "--samples", "2", "--output", tmp_path / "run")
    assert done.code == 0, done.err
    for record in records_of(tmp_path / "run").values():
        assert record["scorer"] == "babilong/qa1" and set(record["scores"]) == {"score", "score_corrected"}
        assert record["references"][1].startswith("Where is")
