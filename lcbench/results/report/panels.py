"""How methods are divided into panels of curves: more than a dozen in one cannot be distinguished."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TypeVar

T = TypeVar("T")

ALL = 12  # most methods in a single panel
MOST = 8  # most methods in one of several panels: the number of colours
BASE = "vanilla"  # shown in every panel for comparison
MOST_BASES = 2  # most of these per panel, for two runs side by side


def in_panels(methods: Sequence[T], name: Callable[[T], str]) -> list[list[T]]:
    """The methods of each panel, in order: all in one, or divided evenly into panels of at most MOST, with vanilla in
    each. In `name`, a run or model may follow after a space."""
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
    """The panels that show any of these methods besides vanilla; at least the first one."""
    return [one for one in panels if any(method in methods and not is_base(method) for method in one)] or panels[:1]


def is_base(name: str) -> bool:
    return name.partition(" ")[0] == BASE
