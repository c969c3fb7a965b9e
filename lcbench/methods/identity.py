"""Does a method change anything at this length? Decided from what the engine reads of it, not by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lcbench.core.lazy import torch
from lcbench.methods.base import CONTENT, Lengths, Method, layer_scale
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


def equals_vanilla(method: Method, lengths: Lengths, layers: int, frequencies: Sequence[Tensor] | None) -> bool:
    """Whether a resolved method computes what the model without it computes, in a run of `lengths.run` tokens.

    True if every query sees every key up to its own, at the relative position i - j, with the model's own frequencies
    and scores; absolute positions do not matter to a rotation. Answers are then the same up to rounding. `frequencies`
    are the model's inverse frequencies [M] in each of its rotary modules that methods scale; None: unknown, so that a
    scaling counts as a change. Pieces that depend on the prompt's length are tried at powers of two and at the run's
    length. A method that looks at queries and keys counts as a change.
    Raises: UserError where the length of the run is unknown.
    """
    run = lengths.need_run(method.label, "whether it changes anything")
    return (
        not method.hooks & CONTENT
        and _own_frequencies(method, lengths, frequencies)
        and all(
            _own_scores(layer_scale(method, torch.arange(run), lengths, layer)) for layer in _distinct(method, layers)
        )
        and all(_plain(method.for_prompt(prompt), run, layers) for prompt in _prompts(method, run))
    )


def _distinct(method: Method, layers: int) -> range:
    """Layers that stand for all of them."""
    return range(layers if method.layerwise else 1)


def _own_frequencies(method: Method, lengths: Lengths, frequencies: Sequence[Tensor] | None) -> bool:
    if "frequencies" not in method.hooks:
        return True
    if frequencies is None:
        return False
    scaled = ((inv_freq, *method.frequencies(inv_freq, lengths)) for inv_freq in frequencies)
    return all(factor == 1 and torch.equal(own, found) for own, found, factor in scaled)


def _own_scores(scale: Tensor | None) -> bool:
    return scale is None or bool((scale == 1).all())


def _prompts(method: Method, run: int) -> Iterable[int]:
    """The lengths of prompts at which the pieces may differ, the longest first, which is the likeliest to differ."""
    if method.for_prompt(1) == method.for_prompt(run):
        return [run]
    return [run, *(2**power for power in reversed(range((run - 1).bit_length())))]


def _plain(method: Method, run: int, layers: int) -> bool:
    i = torch.arange(run)
    return all(_causal(method.pieces(i, i, layer), i) for layer in _distinct(method, layers))


def _causal(pieces: Sequence[Piece], i: Tensor) -> bool:
    """Whether these disjoint pieces show each of the queries 0, 1, 2, ... all keys up to its own, and as they are."""
    shown = [piece for piece in pieces if not piece.empty]
    seen = sum((piece.stop - piece.start).clamp(min=0) for piece in shown)
    return torch.equal(torch.as_tensor(seen), i + 1) and all(_as_they_are(shown, i))


def _as_they_are(pieces: Iterable[Piece], i: Tensor) -> Iterator[bool]:
    """Of each piece, whether q_pos[i] - k_pos[j] = i - j for all start[i] <= j < stop[i], in linear time: the shift of
    keys from their place must be that of the query, and must not change between the first and the last key it sees."""
    for piece in pieces:
        yield piece.memory is None
        shift = piece.k_pos - i
        changes = torch.cat([shift.new_zeros(1), (shift[1:] != shift[:-1]).long()]).cumsum(0)
        rows = piece.start < piece.stop
        first, last = piece.start[rows], piece.stop[rows] - 1
        yield torch.equal(changes[first], changes[last]) and torch.equal(shift[first], (piece.q_pos - i)[rows])
