"""KV cache layers for methods that evict keys after the prompt, different ones for each KV head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lcbench.attention.cache.observing import ObservingLayer
from lcbench.attention.cache.ways import ByWay, Way
from lcbench.core.errors import UserError

NOWHERE = -1  # the position of a filler row, where another prompt of the batch has kept more keys


class TurnedKeys(ByWay):
    """Rotated copies of the keys [B, K, m, D] of some rows that were not evicted; they differ between KV heads."""

    def keys(self, k_BKMD: Tensor, at_BKM: Tensor, way: Way, rotate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The keys, of the tokens `at`, rotated to their positions in `way`, which starts at the first token; `rotate`
        is called for new keys only."""
        k_pos = way.between(0, way.end)
        return self.rows(way, 0, k_BKMD.shape[2], lambda a, b: rotate(k_BKMD[:, :, a:b], k_pos[at_BKM[:, :, a:b]]))


class EvictingLayer(ObservingLayer):
    """All keys and values of a prompt; after it, those that `evict` keeps, and all later ones.

    `seen` is what the method has observed of each row of the batch during the prompt.
    """

    def __init__(self, size: int = 0) -> None:
        super().__init__(size)
        self.dropped = 0  # tokens that have no row in `keys`
        self.positions_BKN: Tensor | None = None  # of the prompt's keys that are kept, padding not counted

    def get_seq_length(self) -> int:
        """Number of tokens so far, dropped ones included."""
        return self._stored + self.dropped

    @property
    def _stored(self) -> int:
        """Number of stored keys per KV head."""
        return int(super().get_seq_length())

    @property
    def kept(self) -> float | None:
        """The mean number of prompt keys that a KV head of a row keeps; None before the end of the prompt."""
        if self.positions_BKN is None:
            return None
        return float((self.positions_BKN != NOWHERE).sum(-1).double().mean())

    def evict(self, kept_KN: Sequence[Tensor], pads: Sequence[int]) -> None:
        """Keep, for each row, only the keys at these positions [K, n], counted without its padding."""
        assert self.keys is not None and self.values is not None
        length, most = self.get_seq_length(), max(kept.shape[1] for kept in kept_KN)
        rows = [nn.functional.pad(kept, (most - kept.shape[1], 0), value=NOWHERE) for kept in kept_KN]
        self.positions_BKN = torch.stack(rows).cpu()
        shift = torch.tensor(pads)[:, None, None]
        at = (self.positions_BKN + shift).clamp(min=0).to(self.keys.device)[..., None]
        keys, values = (x.take_along_dim(at, dim=2) for x in (self.keys, self.values))
        self._take(keys, values, length)

    def _take(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Replace the stored keys and values by these, of `length` tokens, in new buffers."""
        self.keys, self.values, self.seen = keys, values, {}
        self.dropped = length - keys.shape[2]
        self._size = max(0, self._size - self.dropped)
        self.leave_buffers()

    def positions(self, rows: slice, pad: int) -> Tensor:
        """The position of every key [B, K, m] of the rows, which have `pad` padding tokens; NOWHERE for filler rows."""
        assert self.positions_BKN is not None
        prompt = self.positions_BKN[rows]
        later = torch.arange(prompt.shape[2], self._stored) + self.dropped - pad
        return torch.cat([prompt, later.expand(*prompt.shape[:2], -1)], dim=2)

    def turned_keys(self, rows: slice) -> TurnedKeys:
        """The cache of the rows' rotated keys; it is emptied and cropped with the layer."""
        assert self.positions_BKN is not None
        return self.beside(TurnedKeys, rows, pad=0)

    def crop(self, tokens_to_remove: int) -> None:
        """Raises: UserError for tokens of the prompt, once some of them were dropped."""
        if self.positions_BKN is not None:
            later = self._stored - self.positions_BKN.shape[2]
            if -tokens_to_remove > later:
                raise UserError(
                    f"this KV cache has dropped keys of its prompt and can be cropped by at most {later}, not by "
                    f"{-tokens_to_remove}; start a new one."
                )
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        super().reset()
        self.dropped, self.positions_BKN = 0, None

    def _select(self, rows: Tensor) -> None:
        super()._select(rows)
        if self.positions_BKN is not None:
            self.positions_BKN = self.positions_BKN[rows.cpu()]

    @classmethod
    def stack(cls, layers: Sequence[EvictingLayer], length: int, size: int) -> EvictingLayer:
        """The rows of several layers, each after its prompt, as one layer of `length` tokens."""
        whole, most = cls(size), max(layer._stored for layer in layers)
        gaps = [most - layer._stored for layer in layers]
        keys, values = (
            torch.cat([nn.functional.pad(getattr(layer, name), (0, 0, gap, 0)) for layer, gap in zip(layers, gaps)])
            for name in ("keys", "values")
        )
        positions = [layer.positions_BKN for layer in layers if layer.positions_BKN is not None]
        padded = [nn.functional.pad(x, (gap, 0), value=NOWHERE) for x, gap in zip(positions, gaps, strict=True)]
        whole.positions_BKN = torch.cat(padded)
        whole.lazy_initialization(keys, values)
        whole._take(keys, values, length)
        return whole
