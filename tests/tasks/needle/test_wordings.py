"""What a protocol says: RULER's words, and words that cannot be."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.core.specs import convert_options
from lcbench.tasks.needle.wording import Wording
from tests.tasks.needle.tasks import RULER, task_of


def test_wordings_of_ruler() -> None:
    magic = "One of the special magic numbers for {key} is: {value}."
    assert [(w.keys, w.values, w.queries) for w in (task_of(name).wording for name in RULER)] == [
        (4, 1, 1),
        (1, 4, 1),
        (4, 1, 4),
    ]
    for name in RULER:
        assert task_of(name).wording.needle == magic and task_of(name).wording.max_new_tokens == 128
    assert (
        task_of("multi_query")
        .wording.ask(["a", "b", "c"])
        .startswith(
            "What are all the special magic numbers for a, b, and c mentioned in the provided text? The special magic"
        )
    )
    assert task_of("multi_key").wording.ask(["a"]).endswith("number for a mentioned in the provided text is")


VALID: dict[str, Any] = {
    "source": "s",
    "instruction": "i",
    "needle": "{key} is {value}.",
    "question": "{keys}?",
    "key": "name",
    "value": "code",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needle": "{key}."}, "must contain {key} and {value} once each"),
        ({"question": "What?"}, "must contain {keys}"),
        ({"key": "nme"}, "did you mean 'name'"),
        ({"queries": 2}, "no more queries than keys"),
        ({"keys": 0}, "at least 1"),
        ({"keys": 86}, "there are not 86 different keys"),
        ({"score": "words"}, "score must be key_words or values"),
        ({"keyz": 3}, "did you mean 'key"),
    ],
)
def test_wordings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Wording(**convert_options("protocol mine", Wording, VALID | change))
