"""Method against method, the settings that changed, and what a gate can find at all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lcbench.core.stats import mcnemar
from lcbench.results.compare.power import mcnemar_power
from lcbench.results.records import MANIFEST
from tests.compared import RIGHT, cell, save
from tests.helpers import cli


def test_methods_of_one_run_and_of_two(tmp_path: Path) -> None:
    one = save(tmp_path / "one", RIGHT + cell([0.0] * 20, method="dca:chunk_size=48"))
    two = save(tmp_path / "two", cell([0.0] * 20, method="dca:chunk_size=48"))
    pair = "vanilla=dca:chunk_size=48"
    for arguments in ((one, "--pair", pair), (one, one, "--pair", pair), (one, two, "--pair", pair)):
        shown = cli("compare", *arguments, "--fail-on-regression")
        assert shown.code == 1 and "1 cell: 1 regressed" in shown.out, shown.out
    back = cli("compare", one, "--pair", "dca:chunk_size=48=vanilla")
    assert back.code == 0 and "1 improved" in back.out
    wrong = cli("compare", one, two, "--pair", "vanilla=yarn")
    assert wrong.code == 2 and "NEW has dca:chunk_size=48" in wrong.error
    alone = cli("compare", one)
    assert alone.code == 2 and "--pair" in alone.error


def test_what_changed_is_said_in_the_terminal(tmp_path: Path) -> None:
    base = save(tmp_path / "base", RIGHT, dtype="float32")
    new = save(tmp_path / "new", RIGHT, dtype="bfloat16", model="other")
    shown = cli("compare", base, new).out
    assert "dtype changed: float32 in BASE, bfloat16 in NEW" in shown
    assert "model changed: m in BASE, other in NEW" in shown and "device changed" not in shown


def test_identical_runs_are_called_identical(tmp_path: Path) -> None:
    base, new = save(tmp_path / "base", RIGHT), save(tmp_path / "new", RIGHT)
    assert "identical: every pair of every cell has the same score" in cli("compare", base, new).out
    other = save(tmp_path / "other", [*RIGHT[:-1], *cell([1.0] * 19 + [0.0])[-1:]])
    assert "identical" not in cli("compare", base, other).out


def test_a_gate_says_what_it_can_find_and_warns_where_that_is_nothing(tmp_path: Path) -> None:
    scores = [1.0] * 100
    cells = [one for length in range(256, 256 * 13, 256) for one in cell(scores, seq_len=length)]
    base = save(tmp_path / "base", cells)
    shown = cli("compare", base, base).out
    assert "power: 12 cells of 100 pairs: a drop of 10 points is found in about 68 to 94 of 100 cases." in shown
    assert "warning" not in shown
    few = save(tmp_path / "few", cell([1.0] * 5))
    shown = cli("compare", few, few).out
    assert "1 cell of 5 pairs" in shown and "about 0 of 100 cases" in shown and "use more --samples" in shown


@pytest.mark.parametrize(
    ("pairs", "churn", "alpha"), [(60, 0.0, 0.05), (100, 0.05, 0.05), (100, 0.05, 0.005), (400, 0.1, 0.01)]
)
def test_power_equals_simulation(pairs: int, churn: float, alpha: float) -> None:
    rng = random.Random(0)
    found, runs = 0, 2000
    for _ in range(runs):
        draws = [rng.random() for _ in range(pairs)]
        lost = sum(draw < 0.1 + churn for draw in draws)
        gained = sum(0.1 + churn <= draw < 0.1 + 2 * churn for draw in draws)
        found += lost > gained and mcnemar(gained, lost) <= alpha
    assert mcnemar_power(pairs, 0.1, churn, alpha) == pytest.approx(found / runs, abs=0.05)


def test_what_was_taken_over_is_identical_and_no_gate(tmp_path: Path) -> None:
    own = cell([1.0, 0.0] * 10)
    taken = cell([1.0, 0.0] * 10, method="dca")
    for record, origin in zip(taken, own, strict=True):
        record |= {"equals": "vanilla", "taken_from": origin["id"]}
    run = save(tmp_path / "run", own + taken + cell([1.0] * 20, method="yarn"))
    shown = cli("compare", run, "--pair", "vanilla=dca", "--markdown", tmp_path / "page.md").out
    assert "identical, = vanilla" in " ".join(shown.split()) and "cannot differ" in shown
    assert "power" not in shown and "warning" not in shown
    assert "identical, = vanilla" in (tmp_path / "page.md").read_text()
    both = cli("compare", run, "--pair", "vanilla=dca", "--pair", "vanilla=yarn").out
    assert "power: 1 cell of 20 pairs" in both
    later = save(tmp_path / "later", own + taken)  # between two runs a gate is one
    assert "power: 2 cells of 20 pairs" in cli("compare", save(tmp_path / "before", own + taken), later).out


def test_an_unfinished_run_passes_no_gate(tmp_path: Path) -> None:
    """Killed after a quarter of its samples, all of them right; one that was asked for a quarter is whole."""
    base, new = (
        save(tmp_path / name, RIGHT[:count], jobs=[["passkey", "vanilla", "256/uniform", 20]])
        for name, count in (("base", 20), ("new", 5))
    )
    for planned, code in ((20, 1), (5, 0)):
        manifest = json.loads((new / MANIFEST).read_text())
        manifest["sessions"][0]["samples"] = [planned]
        (new / MANIFEST).write_text(json.dumps(manifest))
        done = cli("compare", base, new, "--fail-on-regression")
        assert done.code == code and ("NEW is unfinished: 15 of its samples are missing" in done.out) == bool(code)
