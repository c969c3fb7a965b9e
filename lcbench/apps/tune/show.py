"""What a search found, on a terminal: the scores of its rounds, the confirmation, and a line to paste."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.apps.tune.search import SURE, Found
from lcbench.core import terminal
from lcbench.results.report.layout import interval, number

SHOWN = 5  # candidates, besides the method as typed
WIDE = 10_000  # columns of a pipe: nothing is folded there


def show(console: Console, found: Found, title: str) -> None:
    """The candidates that came furthest, then the best against the method as typed on held-out samples."""
    if not console.is_terminal:
        console = terminal.console(file=console.file, width=WIDE)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("candidate")
    for place, each in enumerate(found.rounds, start=1):
        table.add_column(f"round {place}\n{each.samples} samples", justify="right")
    held_out = max((row.samples for row in found.held_out.values()), default=0)
    table.add_column(f"held out\n{held_out} samples", justify="right")
    for name in _furthest(found):
        scores = [each.scores.get(name, "") for each in found.rounds]
        shown = [
            "failed" if score is None else score if isinstance(score, str) else number(score, found.metric)
            for score in scores
        ]
        row = found.held_out.get(name)
        confirmed = "" if row is None or row.mean is None else f"{number(row.mean, found.metric)} {interval(row)}"
        table.add_row(*map(Text, [name, *shown, confirmed]))
    console.print(table)
    console.print(Text(_verdict(found)))
    console.print(Text(f"--method {found.best}"))


def _furthest(found: Found) -> list[str]:
    """The candidates of the last rounds, the best first, and the method as typed."""
    order: dict[str, None] = {found.best: None}
    for each in reversed(found.rounds):
        scored = [(name, score) for name, score in each.scores.items() if score is not None]
        sign = 1 if found.lower_is_better else -1
        order |= dict.fromkeys(name for name, _ in sorted(scored, key=lambda item: sign * item[1]))
    return list(dict.fromkeys([*list(order)[:SHOWN], found.typed]))


def _verdict(found: Found) -> str:
    if found.best == found.typed:
        return f"{found.typed} as typed is as good as any of {len(found.rounds[0].scores)} candidates."
    effect = found.effect
    if effect is None:
        return f"{found.typed} as typed failed, so that there is nothing to compare with."
    change = f"{effect.difference:+.2f}" if abs(effect.difference) < 1000 else f"{effect.difference:+.3g}"
    sure = effect.p <= SURE and (effect.difference < 0) == found.lower_is_better
    said = "better than as typed" if sure else "not better for sure than as typed"
    return f"on held-out samples {said}: {change} (p = {effect.p:.2g}, the same samples)"
