"""Verdicts on claims are those of the tests, and the atlas claims nothing that it does not ask."""

from __future__ import annotations

import pytest

from benchmarks.atlas_claims import CLAIMS
from benchmarks.claims import Better, Claim, Falls, Holds, Keeps, table, verdicts
from lcbench.results.manifest import RunIdentity
from lcbench.results.report.runs import Run
from lcbench.results.schema import Record
from lcbench.run.requests import read_requests
from tests.results.report import samples
from tests.results.report.test_curves import record

TRAINED, SAMPLES = 256, 40


def run_of(records: list[Record]) -> Run:
    return Run("m", RunIdentity(model="m", pretraining_length=TRAINED), records)


def answers(method: str, times: int, right: int) -> list[Record]:
    length = TRAINED * times
    return [
        Record.from_json(samples.record(method, length, number, float(number < right))) for number in range(SAMPLES)
    ]


@pytest.mark.parametrize(
    ("claim", "far", "extended", "said"),
    [
        (Falls("", "vanilla", 2), 0, None, "shows: 1.00 at 1x, 0.00 of 40 at 2x"),
        (Falls("", "vanilla", 2), 38, None, "not decided: 1.00 at 1x, 0.95 of 40 at 2x"),
        (Falls("", "vanilla", 2), 40, None, "does not show: 1.00 at 1x, 1.00 of 40 at 2x"),
        (Holds("", "vanilla", 2), 40, None, "shows: 1.00 at 1x, 1.00 of 40 at 2x"),
        (Holds("", "vanilla", 2), 20, None, "does not show: 1.00 at 1x, 0.50 of 40 at 2x"),
        (Better("", "vanilla", "yarn", 2), 0, 40, "shows: 0.00 to 1.00 of 40, p 1.8e-12"),
        (Better("", "vanilla", "yarn", 2), 0, 3, "not decided: 0.00 to 0.07 of 40, p 0.25"),
        (Better("", "vanilla", "yarn", 2), 40, 40, "does not show: 1.00 to 1.00 of 40, p 1"),
        (Better("", "vanilla", "yarn", 2), 40, 3, "does not show: 1.00 to 0.07 of 40, p 1.5e-11"),
        (Keeps("", "vanilla", "yarn", 2), 40, 40, "shows: 1.00 to 1.00 of 40"),
        (Keeps("", "vanilla", "yarn", 2), 40, 37, "not decided: 1.00 to 0.93 of 40"),
        (Keeps("", "vanilla", "yarn", 2), 40, 3, "does not show: 1.00 to 0.07 of 40"),
        (Keeps("", "vanilla", "yarn", 2), 40, None, "not measured"),
        (Holds("", "vanilla", 4), 40, None, "not measured"),
    ],
)
def test_verdicts(claim: Claim, far: int, extended: int | None, said: str) -> None:
    records = answers("vanilla", 1, SAMPLES) + answers("vanilla", 2, far)
    records += [] if extended is None else answers("yarn", 2, extended)
    assert verdicts(run_of(records), [claim]) == [said]


def test_perplexity_is_better_when_it_is_lower() -> None:
    """In nats, by text: one method falls from 2 to 1.5, and the other rises to 3."""
    nats = {("a", 1): 2.0, ("a", 2): 1.5, ("b", 1): 2.0, ("b", 2): 3.0}
    some = [
        record(method, TRAINED * times, level * (1 + times * book / 100), book, document=str(book))
        for (method, times), level in nats.items()
        for book in range(12)
    ]
    claims = [Holds("", "a", 2, task="pg19"), Falls("", "a", 2, task="pg19"), Falls("", "b", 2, task="pg19")]
    claims += [Better("", "b", "a", 2, task="pg19"), Keeps("", "a", "b", 2, task="pg19")]
    found = verdicts(run_of([Record.from_json(one) for one in some]), claims)
    assert [said.partition(":")[0] for said in found] == ["shows", "does not show", "shows", "shows", "does not show"]


def test_sources_have_a_column() -> None:
    claims = [Falls("one", "a", 2, "[paper](there)"), Falls("other", "a", 4)]
    lines = table(claims, {"m": ["shows: x", "not measured"]})
    assert lines == [
        "| claim | at | source | m |",
        "| --- | ---: | --- | --- |",
        "| one | 2x | [paper](there) | shows: x |",
        "| other | 4x |  | not measured |",
    ]


def test_the_atlas_asks_what_it_claims() -> None:
    requests, _ = read_requests("atlas")
    asked = {
        (request.task, method, seq_len)
        for request in requests
        for method in request.methods or ()
        for seq_len in request.seq_lens or ()
    }
    for claim in CLAIMS:
        methods = [claim.base, claim.new] if isinstance(claim, Better) else [claim.method]
        assert claim.source and {(claim.task, name, claim.times * TRAINED) for name in methods} <= asked
