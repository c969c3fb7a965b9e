"""The argument and the result of every backend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import Look, Way
from lcbench.attention.rope import Rope, RopeTables
from lcbench.methods.pieces import Piece

Output = tuple[Tensor, Tensor]  # [B, H, T, Dv] and log-sum-exp [B, H, T]; 0 and -inf for a query without keys


@dataclass(frozen=True, eq=False)
class Call:
    """Softmax attention of un-rotated queries q [B, H, T, D] over the keys k [B, K, S, D] and values v [B, K, S, Dv]
    that the pieces show them.

    H is a multiple of K: grouped queries. `first_key` is the position of k[:, :, 0], `scale` the factor on the scores.
    `softcap` c bounds them to c tanh(s / c) (Gemma 2). `rotated_keys` caches rotated keys across calls. `look`: the key
    ranges of a single query, if they were precomputed for all layers. `alone`: no other keys take part in the softmax,
    so the log-sum-exp is not needed.
    """

    q_BHTD: Tensor
    k_BKSD: Tensor
    v_BKSD: Tensor
    pieces: list[Piece]
    rope: Rope
    tables: RopeTables
    first_key: int
    scale: float
    softcap: float | None = None
    rotated_keys: RotatedKeyCache | None = None
    look: Look | None = None
    alone: bool = False

    @property
    def needs_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(x.requires_grad for x in (self.q_BHTD, self.k_BKSD, self.v_BKSD))

    @property
    def same_width(self) -> bool:
        """Whether keys and values have the same number of channels."""
        return self.q_BHTD.shape[-1] == self.v_BKSD.shape[-1]

    def borders(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """start, stop [T] of the keys of a piece that each query sees, relative to the first key of the call."""
        return piece.start - self.first_key, piece.stop - self.first_key

    def key_range(self, piece: Piece, rows: slice = slice(None)) -> tuple[int, int]:
        """start, stop of the keys of a piece that any of the queries `rows` sees, relative to the first key of the
        call; empty if stop <= start."""
        return int(piece.start[rows][0]) - self.first_key, int(piece.stop[rows][-1]) - self.first_key

    def shown(self) -> list[tuple[int, int, Piece]]:
        """The pieces that show some query a key, with their `key_range`, in the order of their first keys, so that
        pieces with equal positions of keys share rotated keys."""
        ranges = [(*self.key_range(piece), piece) for piece in self.pieces]
        return sorted((entry for entry in ranges if entry[0] < entry[1]), key=lambda entry: entry[0])

    def rotated_queries(self, piece: Piece) -> Tensor:
        """All queries [B, H, T, D] rotated to their positions in a piece."""
        return self.tables.rotate(self.q_BHTD, piece.q_pos, self.rope)

    def rotated_to(self, piece: Piece, start: int, stop: int) -> Tensor:
        """The keys start <= j < stop [B, K, stop - start, D] rotated to their positions in a piece; keys of earlier
        calls come from the cache of rotated keys, if there is one."""
        if self.rotated_keys is None or self.rope.rotary is None:
            return self.tables.rotate(self.k_BKSD[:, :, start:stop], piece.k_pos[start:stop], self.rope)
        return self.rotated_by(self.tables.ways.find(piece.k_pos, start, stop), start, stop)

    def rotated_by(self, way: Way, start: int, stop: int) -> Tensor:
        """The keys start <= j < stop [B, K, stop - start, D] rotated to their positions in a way."""
        if self.rope.rotary is None:
            return self.k_BKSD[:, :, start:stop]
        rotate = partial(self.tables.rotate, rope=self.rope)
        if self.rotated_keys is None:
            return rotate(self.k_BKSD[:, :, start:stop], way.between(start, stop))
        return self.rotated_keys.keys(self.k_BKSD, way, start, stop, rotate)
