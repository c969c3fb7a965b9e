"""What was seen, in a few lines on a terminal; the page has the rest."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.apps.explain.result import Explanation, Head, Look, told
from lcbench.core import terminal

NAMED = 3  # heads in a cell
WIDE = 10_000  # columns of a pipe: nothing is folded there


def show(console: Console, explanation: Explanation) -> None:
    """A row a method: the answer, the rank of the right token, the retrieval heads, and where the needle stands."""
    if not console.is_terminal:
        console = terminal.console(file=console.file, width=WIDE)
    title = f"{explanation.title}: {explanation.reference!r} wanted"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
    for look in explanation.looks:
        table.add_row(*map(Text, cells(explanation, look)))
    console.print(table)
    trained = f"; trained at {explanation.trained:,} tokens" if explanation.trained else ""
    console.print(Text(f"needle at tokens {explanation.needle.start:,} to {explanation.needle.stop - 1:,}{trained}"))


COLUMNS = (
    "method",
    "answer",
    "right token",
    "looks at the needle",
    "of it, the answer",
    "retrieval heads",
    "needle stands at",
)


def cells(explanation: Explanation, look: Look) -> list[str]:
    """The row of a method, by COLUMNS."""
    (head,) = look.best(1)
    return [
        f"{look.method} (= {look.equals})" if look.equals else look.method,
        repr(look.answer.strip()),
        rank(look),
        f"{look.needle(head):.1%} of {head}",
        f"{look.on_answer[look.layers.index(head.layer), head.head]:.1%}",
        named(look.retrieving),
        "; ".join(told(look.standing)) + beyond(explanation, look),
    ]


def rank(look: Look) -> str:
    """The rank of the right token and its probability, as the model says them."""
    if not look.lens:
        return "unknown"
    last = look.lens[-1]
    return f"rank {last.rank:,} (p {last.probability:.2g})"


def named(heads: Sequence[Head]) -> str:
    """The first of some heads, as layer:head."""
    if not heads:
        return "none"
    more = f" and {len(heads) - NAMED} more" if heads[NAMED:] else ""
    return ", ".join(f"{one.layer}:{one.head}" for one in heads[:NAMED]) + more


def beyond(explanation: Explanation, look: Look) -> str:
    """A remark where the needle is farther away than anything was in training."""
    return ", beyond training" if explanation.beyond(look) else ""
