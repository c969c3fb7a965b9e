from __future__ import annotations

import io

import pytest
from rich.console import Console

from lcbench.apps.train import progress
from lcbench.apps.train.progress import PlainTraining, TerminalTraining, TrainingProgress


def shown(kind: type, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What 250 steps, 40 of them done before, leave on the screen."""
    monkeypatch.setattr(progress, "LINE_EVERY", 100)
    text = io.StringIO()
    told: TrainingProgress = kind(Console(file=text, force_terminal=terminal, width=100, color_system=None))
    told.start(250, 40)
    for step in range(41, 251):
        told.step(step, 2.0 if step <= 100 else 1.0, 14_000.0)
    told.note("a [note]")
    told.finish()
    return text.getvalue()


def test_plain_lines_give_the_mean_loss_since_the_line_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(PlainTraining, False, monkeypatch).splitlines() == [
        "250 steps, 40 of them done already",
        "step 100  loss 2.000 (60 steps)  14,000 tok/s",
        "step 200  loss 1.000 (100 steps)  14,000 tok/s",
        "step 250  loss 1.000 (50 steps)  14,000 tok/s",
        "a [note]",
    ]


def test_the_bar_shows_loss_steps_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(TerminalTraining, True, monkeypatch)
    assert "loss 1.000" in text
    assert "250/250" in text
    assert "14,000 tok/s" in text
    assert "a [note]" in text
