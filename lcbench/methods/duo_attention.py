"""DuoAttention: some heads attend to every key, the others to the first keys and a window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.files import read_whole
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DuoAttention(Method):
    """rel(i, j) = i - j for the keys j <= i that a KV head sees: all in `full_heads`, those with j < sinks or
    i - j < window in the others.

    `full_heads`: LAYER:HEAD of each KV head, as in [0:1,2:0]; default those of `file` with at least `threshold`, 0.5. A
    file has a line a layer and in it a number a KV head, as the authors publish them; `lcbench calibrate` writes one.
    `sinks`: default 64. `window`: default 256. These are the authors'; at most 1/16 and 1/4 of the pretraining length.
    Xiao et al., https://arxiv.org/abs/2410.10819, code https://github.com/mit-han-lab/duo-attention (fe93c31). There a
    prompt in one call is computed with every head full, and a token of the answer sees one key more than the window;
    here, as in the mask of its training, the window holds from the first token, however prefill is cut. Every head
    keeps its keys: time is saved, memory is not.
    """

    name: ClassVar[str] = "duo_attention"
    full_heads: tuple[str, ...] | None = None
    file: str = ""
    threshold: float = 0.5
    sinks: int | None = None
    window: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if self.file else ()

    def for_model(self, config: Any) -> DuoAttention:
        layers = config.num_hidden_layers
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        method = self._with_full_heads()
        gates = _read(self.file) if self.file and self.full_heads is None else None
        if gates is not None and (len(gates) != layers or any(len(row) != heads for row in gates)):
            raise UserError(f"duo_attention: {self.file} is not about {layers} layers of {heads} KV heads.")
        for layer, head in map(_pair, method.full_heads or ()):
            if not (0 <= layer < layers and 0 <= head < heads):
                raise UserError(
                    f"duo_attention: there is no KV head {layer}:{head}; the model has {layers} layers of {heads}."
                )
        return method

    def resolve(self, lengths: Lengths) -> DuoAttention:
        method = self._with_full_heads()
        sinks = min(64, lengths.pretraining // 16) if self.sinks is None else self.sinks
        window = max(1, min(256, lengths.pretraining // 4)) if self.window is None else self.window
        at_least(self.name, "sinks", sinks, 0)
        at_least(self.name, "window", window, 1)
        return replace(method, sinks=sinks, window=window)

    def _with_full_heads(self) -> DuoAttention:
        if self.full_heads is not None:
            for name in self.full_heads:
                _pair(name)
            return self
        if not self.file:
            raise UserError(
                "duo_attention: say which KV heads are full, full_heads=[LAYER:HEAD,...], or file=PATH of what "
                "lcbench calibrate has found."
            )
        gates = enumerate(_read(self.file))
        full = [f"{layer}:{head}" for layer, row in gates for head, gate in enumerate(row) if gate >= self.threshold]
        return replace(self, full_heads=tuple(full))

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.full_heads is not None and self.sinks is not None and self.window is not None
        full = tuple(head for of, head in map(_pair, self.full_heads) if of == layer)
        nothing, edge = torch.zeros_like(i), (i - self.window + 1).clamp(min=0)
        ranges = [(edge, i + 1), (nothing, edge.clamp(max=self.sinks))]
        streaming = [Piece(i, j, start, stop, heads=full or None, other_heads=bool(full)) for start, stop in ranges]
        return [Piece(i, j, nothing, i + 1, heads=full), *streaming] if full else streaming

    @property
    def layerwise(self) -> bool:
        return True

    @property
    def headwise(self) -> bool:
        return True


def _pair(name: str) -> tuple[int, int]:
    layer, _, head = name.partition(":")
    if not (layer.isdecimal() and head.isdecimal()):
        raise UserError(f"duo_attention: full_heads must be LAYER:HEAD, as in [0:1,2:0], not {name!r}.")
    return int(layer), int(head)


def _read(file: str) -> list[list[float]]:
    """The number of each layer's KV heads. Raises: UserError."""
    try:
        lines = read_whole(Path(file).expanduser()).decode().splitlines()
        return [[float(number) for number in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"duo_attention: {file} is not a table with a number for each KV head: {error}.") from None
