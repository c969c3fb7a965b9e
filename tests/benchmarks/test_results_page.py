"""docs/results.md is made out of the committed records, and its verdicts are those of the tests."""

from __future__ import annotations

import pytest

from benchmarks import results_page
from benchmarks.results_page import Better, Falls, perplexities, reach, verdicts
from lcbench.results.manifest import RunIdentity
from lcbench.results.report.runs import Run
from lcbench.results.schema import Record
from tests.helpers import REPOSITORY
from tests.results.report import samples
from tests.results.report.test_curves import record

TRAINED, SAMPLES = 256, 12
CLAIMS = (Falls("", "vanilla", 2), Better("", "vanilla", "yarn", 2))


def test_the_page_is_that_of_the_records() -> None:
    """If this fails: python -m benchmarks.results_page"""
    assert (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8") == results_page.page()


def answers(method: str, times: int, right: int) -> list[Record]:
    length = TRAINED * times
    return [
        Record.from_json(samples.record(method, length, number, float(number < right))) for number in range(SAMPLES)
    ]


@pytest.mark.parametrize(
    ("far", "extended", "falls", "better"),
    [
        (0, 12, "held: 1.00 at 1x, 0.00 of 12 at 2x", "held: 0.00 to 1.00 of 12, p 0.00049"),
        (10, 3, "not shown: 1.00 at 1x, 0.83 of 12 at 2x", "the opposite: 0.83 to 0.25 of 12, p 0.016"),
        (0, 3, "held: 1.00 at 1x, 0.00 of 12 at 2x", "not shown: 0.00 to 0.25 of 12, p 0.25"),
        (0, None, "held: 1.00 at 1x, 0.00 of 12 at 2x", "not measured"),
    ],
)
def test_verdicts(far: int, extended: int | None, falls: str, better: str) -> None:
    records = answers("vanilla", 1, SAMPLES) + answers("vanilla", 2, far)
    records += [] if extended is None else answers("yarn", 2, extended)
    identity = RunIdentity(model="m", pretraining_length=TRAINED)
    assert verdicts(Run("m", identity, records), CLAIMS) == [falls, better]


def test_perplexity_of_the_same_books() -> None:
    nats = {1: (1.0, 2.0, 9.0), 2: (2.0, 1.5)}  # of each book; the third is too short for two windows
    some = [
        record("vanilla", TRAINED * times, each, book, document=str(book))
        for times, books in nats.items()
        for book, each in enumerate(books)
    ]
    run = Run("m", RunIdentity(model="m", pretraining_length=TRAINED), [Record.from_json(one) for one in some])
    assert perplexities(run) == {"vanilla": "4.48 to 5.75, higher in 1 of 2"}  # e^1.5, e^1.75


def test_every_task_at_the_trained_length_and_at_twice_that() -> None:
    records = answers("vanilla", 1, SAMPLES) + answers("vanilla", 2, 3) + answers("yarn", 2, SAMPLES)
    run = Run("m", RunIdentity(model="m", pretraining_length=TRAINED), records)
    assert reach(run) == {
        "passkey": {"vanilla": "1.00 to 0.25 [0.09, 0.53]", "yarn": "1.00 to 1.00 [0.76, 1.00]"}  # Wilson's, of 12
    }
