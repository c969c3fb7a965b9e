"""RULER's eight needles: its wording to the letter, and one answer only."""

from __future__ import annotations

import random
import re
import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.core.errors import UserError
from lcbench.core.specs import convert_options
from lcbench.tasks import Cell, load_task
from lcbench.tasks.needle.facts import KINDS
from lcbench.tasks.needle.wording import Wording
from tests.tasks.ruler.test_ruler import NOISE, draw, shortest
from tests.tokenizers import STYLES, build

# keys, values of one, asked, the kind of the value, what the haystack is
FORMS = {
    "niah_single_1": (1, 1, 1, "number", "noise"),
    "niah_single_2": (1, 1, 1, "number", "text"),
    "niah_single_3": (1, 1, 1, "uuid", "text"),
    "niah_multikey_1": (4, 1, 1, "number", "text"),
    "niah_multikey_2": (1, 1, 1, "number", "needles"),
    "niah_multikey_3": (1, 1, 1, "uuid", "needles"),
    "niah_multivalue": (1, 4, 1, "number", "text"),
    "niah_multiquery": (4, 1, 4, "number", "text"),
}
GIVEN = {
    "source": "s",
    "instruction": "i",
    "needle": "{key} is {value}.",
    "question": "{keys}?",
    "key": "city",
    "value": "number",
}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@given(
    style=st.sampled_from(STYLES),
    name=st.sampled_from(list(FORMS)),
    extra=st.integers(0, 2000),
    sample=st.integers(0, 9),
)
def test_needles(style: str, name: str, extra: int, sample: int) -> None:
    keys, values, asked, kind, haystack = FORMS[name]
    example, text = draw(f"ruler/{name}", shortest(style, f"ruler/{name}") + extra, sample, style)
    value = {"number": r"[1-9]\d{6}", "uuid": UUID}[kind]
    key = UUID if name == "niah_multikey_3" else "[a-z]+-[a-z]+"
    first, *body, question = text.split("\n")
    context = "\n".join(body)
    found = re.findall(rf"One of the special magic {kind}s for ({key}) is: ({value})\.", context)

    several = values * asked > 1
    plural = f"{kind}s" if several else kind
    are, what, opening = ("are", "What are all", "Some") if several else ("is", "What is", "A")
    assert first == (
        f"{opening} special magic {plural} {are} hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {plural} afterwards."
    )
    parts = re.fullmatch(
        rf"{what} the special magic {plural} for (.+) mentioned in the provided text\? "
        rf"The special magic {plural} for (.+) mentioned in the provided text {are}",
        question,
    )
    assert parts and parts[1] == parts[2]
    named = re.split(r", and |, ", parts[1])
    assert len(named) == asked
    assert sorted(v for k, v in found if k in named) == sorted(example.references)
    assert len(example.references) == asked * values and example.max_new_tokens == 128

    if haystack == "needles":
        whole = f"One of the special magic {kind}s for {key} is: {value}."
        cut = [line for line in body if not re.fullmatch(whole.replace(".", r"\."), line)]
        assert len(cut) <= 1 and all(line[-1:] in ("", ".") and "One of" not in line for line in cut)
        assert len({k for k, _ in found}) == len(found) >= 1
    else:
        assert len({k for k, _ in found}) == keys and len(found) == keys * values
    if haystack == "noise":
        others = [line for line in body if not line.startswith("One of")]
        assert all(line == NOISE for line in others[:-1]) and NOISE.endswith(others[-1])
    if haystack == "text":
        assert len(body) == 1


def test_no_line_of_the_haystack_has_the_key_that_is_asked_for() -> None:
    wording = Wording(**convert_options("mine", Wording, GIVEN | {"line": "{key} is {value}.", "glue": "\n"}))
    tokenizer = build("lcbench-tiny")
    text = wording.text(tokenizer, "books", "any", ["Toledo", "Lisbon"])
    cities = re.findall(r"^(\w+) is", tokenizer.decode(text.cut(4000)[0]), re.MULTILINE)
    assert len(set(cities)) > 40 and not {"Toledo", "Lisbon"} & set(cities)


def test_lines_begin_alike_at_every_length() -> None:
    long, short, other = (
        draw("ruler/niah_multikey_2", seq_len, sample, "lcbench-tiny")[1].split("\n")
        for seq_len, sample in ((4096, 3), (2048, 3), (4096, 4))
    )
    own = [line for line in short[1:-2] if line not in long]  # the needle, and a line that is cut
    assert 1 <= len(own) <= 2 and not set(other[1:-2]) & set(long[1:-2])


def test_depths_reach_from_the_first_line_to_the_last() -> None:
    task, tokenizer = load_task("ruler/niah_multikey_2"), build("lcbench-tiny")
    for depth, place in ((0.0, 1), (1.0, -2)):
        example = task.example(Cell(2048, depth), 1, tokenizer, 0)
        lines = tokenizer.decode(example.prompt, skip_special_tokens=True).split("\n")
        assert example.references[0] in lines[place] and example.depth == depth
        assert example.needle_at is not None
        needle = tokenizer.decode(example.prompt[example.needle_at :][: example.needle_tokens])
        assert needle.startswith("One of the special magic numbers for") and needle.endswith(
            f"{example.references[0]}.\n"
        )
    middle = [task.example(Cell(2048, step / 10), 1, tokenizer, 0).depth for step in range(11)]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(middle))


def test_uuids_are_random_and_valid() -> None:
    drawn = [KINDS["uuid"].draw(random.Random(seed)) for seed in range(200)]
    assert all(str(uuid.UUID(text)) == text and uuid.UUID(text).version == 4 for text in drawn)
    assert len(set(drawn)) == 200 and all(len({text[at] for text in drawn}) == 16 for at in (0, 35))


def test_what_lines_need() -> None:
    with pytest.raises(UserError, match="needs a line break as its `glue`"):
        Wording(**convert_options("mine", Wording, GIVEN | {"line": "x"}))
    with pytest.raises(UserError, match="has its own filler; leave --haystack out"):
        load_task("ruler/niah_single_1:haystack=essays.txt")
