"""docs/results.md is made out of the committed records."""

from __future__ import annotations

from benchmarks import results_page
from benchmarks.results_page import perplexities, reach
from lcbench.results.manifest import RunIdentity
from lcbench.results.report.runs import Run
from lcbench.results.schema import Record
from tests.benchmarks.test_claims import SAMPLES, answers
from tests.helpers import REPOSITORY
from tests.results.report.test_curves import record

TRAINED = 256


def test_the_page_is_that_of_the_records() -> None:
    """If this fails: python -m benchmarks.results_page"""
    assert (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8") == results_page.page()


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
    records = answers("vanilla", 1, SAMPLES) + answers("vanilla", 2, 10) + answers("yarn", 2, SAMPLES)
    run = Run("m", RunIdentity(model="m", pretraining_length=TRAINED), records)
    assert reach(run) == {
        "passkey": {"vanilla": "1.00 to 0.25 [0.14, 0.40]", "yarn": "1.00 to 1.00 [0.91, 1.00]"}  # Wilson's, of 40
    }
