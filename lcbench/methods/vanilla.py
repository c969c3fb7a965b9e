"""The unmodified model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lcbench.methods.base import Method


@dataclass(frozen=True)
class Vanilla(Method):
    """rel(i, j) = i - j for every j <= i: causal attention as the model was trained, run through lcbench's engine."""

    name: ClassVar[str] = "vanilla"
