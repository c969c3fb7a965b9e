"""What was seen: numbers only, from which the terminal, the page and the figure show the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcbench.apps.explain.question import GROUPS

NEEDLE = GROUPS.index("needle")
STRIPS = 3  # heads whose attention over the context is shown, besides the mean of all
COPIED = 0.1  # of a head's attention: from here on it is a retrieval head
FLOOR = 1e-4  # of attention: what is shown as nothing


class Head(NamedTuple):
    """A query head of a layer."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"layer {self.layer}, head {self.head}"


@dataclass(frozen=True)
class Standing:
    """How far before the last query some KV heads, of all layers together, see the needle: its nearest and its farthest
    token; None where they do not see it. `turned` is the same under a RoPE scaling in positions of the unscaled model,
    by the channels that make less than a turn within the trained length: from the one that is scaled most to the one
    that is scaled least. Faster channels have met every angle in training."""

    heads: int
    near: float | None
    far: float | None
    turned: tuple[float, float] | None = None

    @property
    def farthest_turn(self) -> float | None:
        """The largest distance that any channel turns by."""
        return self.turned[1] if self.turned else self.far


@dataclass(frozen=True)
class Lens:
    """The right token as the logits of a layer's output rank it (1: first), its probability there, and the token that
    is ranked first; by the model's own final norm and head."""

    rank: int
    probability: float
    first: str


@dataclass(frozen=True, eq=False)
class Look:
    """What one method makes of the question. All shares are of the attention of the last token of the prompt.

    `layers` are the numbers of the layers that attend, L of them with H heads. shares [L, H, 4] by GROUPS; `on_answer`
    [L, H] of the needle's tokens with which a right answer goes on; `strip` [L, H, bins] over the context, from its
    first token to its last. `lens` has a line for each layer of the model, none where `no_lens` says why.
    """

    method: str
    resolved: str
    equals: str | None
    answer: str
    score: float
    layers: tuple[int, ...]
    shares: NDArray[np.float64]
    on_answer: NDArray[np.float64]
    strip: NDArray[np.float64]
    standing: tuple[Standing, ...]
    lens: tuple[Lens, ...] = ()
    no_lens: str = ""

    def needle(self, head: Head) -> float:
        """The share of a head's attention that the needle has."""
        return float(self.shares[self.layers.index(head.layer), head.head, NEEDLE])

    @property
    def retrieving(self) -> list[Head]:
        """The heads that give COPIED or more of their attention to tokens of the needle with which a right answer goes
        on, those that look at the needle most first.

        Wu et al. (https://arxiv.org/abs/2404.15574) count how often a head's most attended token is the one that the
        model copies from the needle; here it is one question and its first token, so that a share says more.
        """
        every = self.best(self.on_answer.size)
        return [one for one in every if self.on_answer[self.layers.index(one.layer), one.head] >= COPIED]

    def best(self, count: int) -> list[Head]:
        """The heads that look at the needle most, the best first."""
        flat = self.shares[:, :, NEEDLE].ravel()
        order = np.argsort(-flat, kind="stable")[:count]
        return [Head(self.layers[place // self.shares.shape[1]], int(place % self.shares.shape[1])) for place in order]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One sample under several methods. `needle` are the places of its tokens among the n of the prompt; `begun` is the
    part of the answer that the model was given."""

    title: str
    model: str
    trained: int | None
    tokens: int
    needle: range
    needle_text: str
    reference: str
    right: str
    begun: str
    last_window: int
    metric: str
    facts: Sequence[tuple[str, str]]
    looks: Sequence[Look]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def shown_heads(self) -> list[Head]:
        """The heads that look at the needle most under any of the methods, the best first: the same for all."""
        best: dict[Head, float] = {}
        for look in self.looks:
            for head in look.best(STRIPS):
                best[head] = max(best.get(head, 0.0), look.needle(head))
        return sorted(best, key=lambda head: (-best[head], head))[:STRIPS]

    def strips(self, look: Look) -> list[tuple[str, NDArray[np.float64]]]:
        """The attention [bins] of the shown heads over the context, and its mean over all heads."""
        heads = [
            (str(head), look.strip[look.layers.index(head.layer), head.head])
            for head in self.shown_heads
            if head.layer in look.layers
        ]
        return [*heads, ("mean of all heads", look.strip.mean(axis=(0, 1)))]

    def beyond(self, look: Look) -> bool:
        """Whether the needle stands farther away than any token did in training."""
        farthest = [one.farthest_turn for one in look.standing if one.farthest_turn is not None]
        return self.trained is not None and bool(farthest) and max(farthest) >= self.trained


def shade(share: float) -> float:
    """From 0 for a share of attention of at most FLOOR to 1 for all of it, by its logarithm."""
    return min(1.0, 1 - math.log(max(share, FLOOR)) / math.log(FLOOR))


def told(standing: Sequence[Standing]) -> list[str]:
    """Where the needle stands, in words: a line for each group of heads that see it alike."""
    every = sum(one.heads for one in standing)
    lines = []
    for one in standing:
        where = "not seen" if one.near is None or one.far is None else _span(one.near, one.far)
        if one.turned is not None and one.near is not None:
            where += f", turned as {_span(*one.turned)}"
        lines.append(where if one.heads == every else f"{where} ({one.heads} of {every} KV heads)")
    return lines


def _span(near: float, far: float) -> str:
    return f"{near:,.4g}" if near == far else f"{_number(near)} to {_number(far)}"


def _number(distance: float) -> str:
    return f"{distance:,.0f}" if distance == round(distance) else f"{distance:,.1f}"
