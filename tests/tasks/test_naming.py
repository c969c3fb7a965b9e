"""A task's name says what is asked, no more and no less: samples are drawn and kept under it."""

from __future__ import annotations

import numpy as np
import pytest

from lcbench.core.errors import UserError
from lcbench.tasks import Cell, load_task


def test_an_option_at_its_value_changes_nothing() -> None:
    assert load_task("passkey:protocol=chunkllama").name == "passkey"
    assert load_task("passkey:protocol=longlm").name == "passkey:protocol=longlm"


@pytest.mark.parametrize("option", ["name=zzz", "samples=3", "description=x", "citation=x"])
def test_what_is_no_question_is_no_option(option: str) -> None:
    with pytest.raises(UserError, match=f"{option.partition('=')[0]} is not an option after a task's name"):
        load_task(f"passkey:{option}")


def test_depths_that_nearly_agree_are_two_cells() -> None:
    assert Cell(256, 0.12341).key != Cell(256, 0.12342).key


@pytest.mark.parametrize(("seed", "position", "key"), [(0, 2732, 43568), (1, 13349, 33004), (2, 7336, 35344)])
def test_chunkllama_draws_its_keys_below_50000(seed: int, position: int, key: int) -> None:
    """The draws of the published script at 4,096 tokens; numpy leaves the upper end out, the wording counts it in."""
    draw = np.random.RandomState(seed)
    assert (draw.randint(0, (3.75 * 4096) // 1024 * 1024), draw.randint(1, 50000)) == (position, key)
    assert (load_task("passkey").wording.lowest, load_task("passkey").wording.highest) == (1, 49999)  # type: ignore[attr-defined]
