"""What counts of an answer as text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lcbench.run.measures.answer import cut


@pytest.mark.parametrize(
    ("stops", "answer"),
    [
        ([], "one\ntwo. three"),
        (["?"], "one\ntwo. three"),
        (["."], "one\ntwo"),
        ([".", "\n", "?"], "one"),
        (["\n", "."], "one"),
        (["one"], ""),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(stops: Sequence[str], answer: str) -> None:
    assert cut("one\ntwo. three", stops) == answer
