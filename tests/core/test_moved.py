"""Old addresses of modules lead to the modules at their new ones."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from lcbench.core.moved import MOVED
from tests.helpers import REPOSITORY

INSIDE = {
    "training.fot": "apps.train.fot",
    "report.html.frame": "results.report.html.frame",
    "ask.pages": "apps.ask.pages",
}


pytestmark = pytest.mark.filterwarnings("ignore:lcbench:DeprecationWarning")  # of the packages on the way


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.removeprefix("lcbench.").split(".")[0] in MOVED]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(("old", "new"), {**MOVED, **INSIDE}.items())
def test_an_old_address_is_the_same_module(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"lcbench\.{old} is now lcbench\.{new}\."):
        module = importlib.import_module(f"lcbench.{old}")
    assert module is importlib.import_module(f"lcbench.{new}")
    assert module.__name__ == f"lcbench.{new}" == module.__spec__.name


def test_other_names_are_left_alone() -> None:
    assert importlib.util.find_spec("lcbench.nothing") is None
    with pytest.raises(ModuleNotFoundError, match=r"lcbench\.trainings"):
        importlib.import_module("lcbench.trainings")


@pytest.mark.parametrize("old", MOVED)
def test_no_module_is_at_an_old_address(old: str) -> None:
    """The finder would hide it."""
    path = REPOSITORY / "lcbench" / old.replace(".", "/")
    assert not path.is_dir() and not path.with_suffix(".py").exists()
