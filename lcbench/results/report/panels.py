"""Which methods a panel of curves shows: more than a dozen in one cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TypeVar

T = TypeVar("T")

ALL = 12  # methods up to which one panel shows them all
MOST = 8  # in one of several panels, as many as there are colours
BASE = "vanilla"  # what the others are seen against
MOST_BASES = 2  # in every panel, as where two runs stand side by side


def in_panels(methods: Sequence[T], name: Callable[[T], str]) -> list[list[T]]:
    """The methods of each panel, in order: all in one, or as evenly as they go into panels of at most MOST, vanilla in
    each. `name` may be followed by a run or model behind a space."""
    if len(methods) <= ALL:
        return [list(methods)]
    bases = [method for method in methods if is_base(name(method))]
    bases = bases if len(bases) <= MOST_BASES else []
    others = [method for method in methods if method not in bases]
    count = -(-len(others) // (MOST - len(bases)))
    return [
        [*bases, *others[place * len(others) // count : (place + 1) * len(others) // count]] for place in range(count)
    ]


def panels_of(methods: Container[str], panels: Sequence[list[str]]) -> Sequence[list[str]]:
    """The panels that show one of some methods beside vanilla; the first one at least."""
    return [one for one in panels if any(method in methods and not is_base(method) for method in one)] or panels[:1]


def is_base(name: str) -> bool:
    return name.partition(" ")[0] == BASE
