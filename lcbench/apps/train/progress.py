"""Progress of a training run: a bar on a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import TimeRemainingColumn

from lcbench.core import terminal
from lcbench.run.progress import live_bar

LINE_EVERY = 100  # steps, in a pipe


class TrainingProgress(Protocol):
    """Receives the progress of a training run."""

    def start(self, steps: int, done: int) -> None: ...
    def step(self, done: int, loss: float, tokens_per_second: float) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


class Silent:
    """Shows nothing: for use as a library, and for all processes but the first."""

    def start(self, steps: int, done: int) -> None: ...
    def step(self, done: int, loss: float, tokens_per_second: float) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


class TerminalTraining:
    """A live bar: steps done, loss, tokens per second, time left."""

    def __init__(self, console: Console) -> None:
        self._bar = live_bar(console, TimeRemainingColumn())

    def start(self, steps: int, done: int) -> None:
        self._task = self._bar.add_task("first step", total=steps, completed=done, rate="")
        self._bar.start()

    def step(self, done: int, loss: float, tokens_per_second: float) -> None:
        rate = f"{tokens_per_second:,.0f} tok/s"
        self._bar.update(self._task, completed=done, description=f"loss {loss:.3f}", rate=rate)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        self._bar.stop()


class PlainTraining:
    """A line every hundred steps, with the mean loss since the line before."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._losses: list[float] = []

    def start(self, steps: int, done: int) -> None:
        self._steps = steps
        self.note(f"{steps:,} steps" + (f", {done:,} of them done already" if done else ""))

    def step(self, done: int, loss: float, tokens_per_second: float) -> None:
        self._losses.append(loss)
        if done % LINE_EVERY == 0 or done == self._steps:
            mean, count = sum(self._losses) / len(self._losses), len(self._losses)
            self._losses.clear()
            self.note(f"step {done:,}  loss {mean:.3f} ({count} steps)  {tokens_per_second:,.0f} tok/s")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        pass


def console_progress() -> TrainingProgress:
    """The bar where stderr is a terminal, plain lines elsewhere."""
    console = terminal.console(stderr=True)
    return TerminalTraining(console) if console.is_terminal else PlainTraining(console)
