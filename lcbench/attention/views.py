"""The pieces of a call's queries, computed once per forward pass for all layers that have the same."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from lcbench.attention.cache.ways import Look, Ways
from lcbench.attention.cache.window import GONE
from lcbench.attention.reach import slides
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method
from lcbench.methods.base import layer_scale
from lcbench.methods.pieces import Piece

logger = logging.getLogger("lcbench")


@dataclass(eq=False)
class View:
    """The pieces of a call's queries over the keys from `first_key` on, and the factor [T, 1] on their scores, or
    None."""

    pieces: list[Piece]
    factor_T1: Tensor | None
    first_key: int
    ways: Ways

    @cached_property
    def look(self) -> Look | None:
        """The `Look` of a single query; None for several queries, and where `Look.of` returns None."""
        return Look.of(self.pieces, self.first_key, self.ways) if len(self.pieces[0].q_pos) == 1 else None


class Views:
    """The views of a forward pass in a steered block; `name` is the model's, for errors, and `ways` those of its
    looks."""

    def __init__(self, name: str, method: Method, lengths: Lengths, ways: Ways) -> None:
        self._name, self._method, self._lengths, self._ways = name, method, lengths, ways
        self._outgrown = False
        self.of = lru_cache(maxsize=None)(self._make)

    def clear(self) -> None:
        """Forget the views of an earlier forward pass."""
        self.of.cache_clear()

    def _make(
        self,
        i0: int,
        i1: int,
        first_key: int,
        window: int | None,
        layer: int,
        prompt: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> View:
        """The view of the queries i0 <= i < i1; sliding-window layers stay as trained. `device` and `dtype` are those
        of the factor on the scores.

        Raises: UserError if the queries see a key before `first_key`, the first that is still in the cache, or if the
        run exceeds a sliding window that was treated as full attention.
        """
        i, j = torch.arange(i0, i1), torch.arange(first_key, i1)
        self._warn_once(i1)
        if not slides(window, self._lengths):
            if window is not None and i1 > window:
                raise UserError(
                    f"{self._name} has a sliding window of {window} tokens, which this run exceeds; set sliding_window "
                    "to null in its config."
                )
            method = self._method.for_prompt(prompt)
            pieces, factor = method.pieces(i, j, layer), layer_scale(method, i, self._lengths, layer)
        else:
            assert window is not None
            unit = self._method.position_unit
            pieces, factor = [Piece(i * unit, j * unit, start=(i - window + 1).clamp(min=0), stop=i + 1)], None
        if first_key and any(((piece.start < first_key) & (piece.start < piece.stop)).any() for piece in pieces):
            if self._method.forgets and not slides(window, self._lengths):
                raise UserError(GONE)
            raise UserError(
                f"an attention layer of {self._name} got only the last {len(j)} of {i1} keys: its cache drops keys "
                "that its attention needs; pass past_key_values=DynamicCache()."
            )
        if factor is not None:
            factor = factor[:, None].to(device, dtype)
        return View(pieces, factor, first_key, self._ways)

    def _warn_once(self, length: int) -> None:
        """Warn once per block that the run exceeds its given length; not an error, since speculative decoding drafts a
        few tokens beyond the end."""
        run = self._lengths.run
        if run is not None and length > run and not self._outgrown:
            self._outgrown = True
            logger.warning("this run has %d tokens, more than the given length of %d; correct length=...", length, run)
