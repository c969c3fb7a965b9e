"""How much of a needle an answer has: its key words, or its values."""

from __future__ import annotations

import pytest

from tests.tasks.needle.tasks import answered, task_of

VALUE = "paint a red lantern near the old mill"


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        (f" {VALUE}", 1, 1),
        (f" {VALUE}. Mara went", 1, 1),
        (VALUE.upper(), 1, 1),
        (f" to {VALUE}", 1, 0),
        ("mill, old; lantern: red! paint", 1, 0),
        (" paint a red lantern near the new mill", 0.8, 0),
        (" paint", 0.2, 0),
        ("paints redder lanterns", 0, 0),
        (" a near the", 0, 0),
        ("", 0, 0),
        (" \n", 0, 0),
    ],
)
def test_key_words(prediction: str, recall: float, exact: float) -> None:
    assert answered(task_of("niah"), (VALUE,), prediction) == (pytest.approx(recall), exact)


@pytest.mark.parametrize(
    ("prediction", "recall", "exact"),
    [
        (" 1234567, 2345678, 3456789, and 4567890.", 1, 1),
        ("4567890 1234567", 0.5, 0),
        ("It says 3456789, I think", 0.25, 0),
        ("1234 567", 0, 0),
        ("", 0, 0),
    ],
)
def test_values(prediction: str, recall: float, exact: float) -> None:
    references = ("1234567", "2345678", "3456789", "4567890")
    assert answered(task_of("multi_value"), references, prediction) == (recall, exact)
