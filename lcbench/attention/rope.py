"""Rotary position embedding at any position, by the model's own rotary module.

Letters of the shape suffixes in this package: B batch, H query heads, K key/value heads, T queries, S keys,
D channels of a head, M rotated pairs of channels, P positions.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lcbench.attention.cache.ways import Ways
from lcbench.core.errors import UserError
from lcbench.methods.base import Lengths, Method

Pairing = Literal["half", "interleaved"]
TableLayout = Literal["halves", "repeated", "compact"]
ROWS_AT_ONCE = 2**16  # positions per step of rotation and of table building: bounds temporary tensors
LARGEST_TABLE = 2**20  # positions; rows beyond are computed on demand and not cached
FEW = 64  # positions; rotations to so few are cached: in decode all layers use the same ones
TURNS = 256  # cached rotations to a few positions


@dataclass(frozen=True, eq=False)
class Rope:
    """How one attention layer rotates queries and keys.

    `rotary` is the module that returns (cos, sin), called with `kwargs`; None for a layer without positions (NoPE).
    `pairing`: which two channels are rotated together, m and m + M ("half"), or 2m and 2m + 1 ("interleaved").
    `layout`: the last dimension of the module's tables, the M values twice ("halves"), each repeated, or once.
    """

    rotary: nn.Module | None
    kwargs: dict[str, Any] = field(default_factory=dict)
    pairing: Pairing = "half"
    layout: TableLayout = "halves"

    @property
    def prefix(self) -> str:
        """The prefix of the module's buffer names, where it has one set of buffers per layer type."""
        layer_type = self.kwargs.get("layer_type")
        return f"{layer_type}_" if layer_type else ""

    @property
    def kind(self) -> str:
        """The `rope_type` of transformers: default, linear, dynamic, yarn, longrope, llama3, ..."""
        kind = getattr(self.rotary, "rope_type", "default")
        return str(kind[self.kwargs["layer_type"]] if isinstance(kind, dict) else kind)

    @property
    def depends_on_length(self) -> bool:
        """Whether the module's frequencies change with the largest position in its input."""
        return "dynamic" in self.kind or self.kind == "longrope"

    def plain_frequencies(self) -> Tensor:
        """Inverse frequencies [M], in float64, without the scaling in the model's config."""
        assert self.rotary is not None
        inv_freq: Tensor = getattr(self.rotary, f"{self.prefix}inv_freq").double()
        if self.kind == "default":
            return inv_freq
        config: Any = self.rotary.config
        parameters = config.rope_parameters
        theta = parameters.get(self.kwargs.get("layer_type"), parameters)["rope_theta"]
        m = torch.arange(len(inv_freq), dtype=torch.float64)
        return float(theta) ** (-m / len(m))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: Pairing) -> Tensor:
    """Rotate the first 2M channels of x [..., P, D] by cos, sin [P, M]; the rest is copied. Same dtype as x."""
    m = cos.shape[-1]
    a, b = _sides(x, m, pairing)
    turned = a * cos - b * sin, b * cos + a * sin
    both = torch.cat(turned, dim=-1) if pairing == "half" else torch.stack(turned, dim=-1).flatten(-2)
    return torch.cat([both.to(x.dtype), x[..., 2 * m :]], dim=-1) if x.shape[-1] > 2 * m else both.to(x.dtype)


def rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, pairing: Pairing) -> None:
    """`rotate` into `out`, in four passes over memory instead of seven and without temporaries; no gradients."""
    m = cos.shape[-1]
    (a, b), (out_a, out_b) = _sides(x, m, pairing), _sides(out, m, pairing)
    if x.dtype == cos.dtype:
        torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=out_b).addcmul_(a, sin)
    else:  # in the tables' dtype, rounded once at the end
        out_a.copy_(a * cos - b * sin)
        out_b.copy_(b * cos + a * sin)
    if x.shape[-1] > 2 * m:
        out[..., 2 * m :] = x[..., 2 * m :]


def _sides(x: Tensor, m: int, pairing: Pairing) -> tuple[Tensor, Tensor]:
    """The first and the second channel of each rotated pair, [..., M] each."""
    if pairing == "half":
        return x[..., :m], x[..., m : 2 * m]
    return x[..., : 2 * m : 2], x[..., 1 : 2 * m : 2]


@dataclass(frozen=True, eq=False)
class Turn:
    """`rotate` to P positions in few operations, for small tensors: x * cos + swapped x * sin, where the channels
    beyond the 2M rotated ones have cos 1 and sin 0."""

    cos_PD: Tensor
    sin_PD: Tensor
    pairs: int
    pairing: Pairing

    @classmethod
    def of(cls, cos_PM: Tensor, sin_PM: Tensor, dim: int, pairing: Pairing) -> Turn:
        """For heads of `dim` channels, from the rows of a table. Raises: RuntimeError if the table has more pairs."""
        count, m = cos_PM.shape

        def of_pairs(first_PM: Tensor, second_PM: Tensor) -> Tensor:
            if pairing == "half":
                return torch.cat([first_PM, second_PM], -1)
            return torch.stack([first_PM, second_PM], -1).flatten(1)

        cos, sin = of_pairs(cos_PM, cos_PM), of_pairs(-sin_PM, sin_PM)
        if dim != 2 * m:
            rest = cos.new_ones(count, dim - 2 * m)
            cos, sin = torch.cat([cos, rest], -1), torch.cat([sin, torch.zeros_like(rest)], -1)
        return cls(cos, sin, m, pairing)

    def each(self) -> Turn:
        """The rotation to each position separately: x [B, H, T, D] -> [P, B, H, T, D]."""
        cos, sin = (rows.view(rows.shape[0], 1, 1, 1, -1) for rows in (self.cos_PD, self.sin_PD))
        return replace(self, cos_PD=cos, sin_PD=sin)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., P, D] rotated; same dtype."""
        turned = torch.addcmul(x * self.cos_PD, self._swapped(x), self.sin_PD)
        return turned if turned.dtype == x.dtype else turned.to(x.dtype)

    def _swapped(self, x: Tensor) -> Tensor:
        """x with the two channels of each rotated pair exchanged."""
        rotated = 2 * self.pairs
        if rotated < x.shape[-1]:
            return torch.cat([self._swapped(x[..., :rotated]), x[..., rotated:]], -1)
        if self.pairing == "half":
            return x.roll(self.pairs, -1)
        return x.reshape(*x.shape[:-1], self.pairs, 2).flip(-1).flatten(-2)


class RopeTables:
    """Tables of cos and sin by position for one steered model, with the method's frequencies and position unit.

    They are computed by a copy of the model's rotary module, which keeps its own attention scaling, precision and rope
    type; the module itself is never changed. If its frequencies depend on the length (dynamic NTK, longrope), there is
    one table for the length of the run, so that all pieces, prefill and decode agree. `ways` are the positions to which
    rotated copies of keys are kept.
    """

    def __init__(self, method: Method, lengths: Lengths) -> None:
        self.method, self.lengths = method, lengths
        self.ways = Ways()
        self._modules: dict[tuple[nn.Module, str], nn.Module] = {}
        self._tables: dict[tuple[nn.Module, str, str, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._turns: dict[tuple[Any, ...], tuple[Tensor, Turn]] = {}

    def check(self, rope: Rope) -> None:
        """Raises: UserError if the method has no frequencies for this layer."""
        if rope.rotary is not None:
            frequencies(self.method, rope, self.lengths)

    def rotate(self, x_BHPD: Tensor, positions_P: Tensor, rope: Rope) -> Tensor:
        """x [B, H, P, D] rotated to the positions [P] (int64, CPU), as in the layer described by `rope`."""
        if rope.rotary is None or not positions_P.shape[0]:
            return x_BHPD
        if positions_P.shape[0] <= FEW:
            return self._turn(rope, positions_P, x_BHPD)(x_BHPD)
        if torch.is_grad_enabled() and x_BHPD.requires_grad:
            return rotate(x_BHPD, *self._rows(rope, positions_P, x_BHPD), rope.pairing)
        out = torch.empty_like(x_BHPD, memory_format=torch.contiguous_format)
        self.rotate_into(out, x_BHPD, positions_P, rope)
        return out

    def rotate_into(self, out_BHPD: Tensor, x_BHPD: Tensor, positions_P: Tensor, rope: Rope) -> None:
        """`rotate` into an existing buffer, without gradients."""
        if rope.rotary is None or not positions_P.shape[0]:
            out_BHPD.copy_(x_BHPD)
        elif positions_P.shape[0] > ROWS_AT_ONCE:
            for first in range(0, positions_P.shape[0], ROWS_AT_ONCE):
                block = slice(first, first + ROWS_AT_ONCE)
                self.rotate_into(out_BHPD[:, :, block], x_BHPD[:, :, block], positions_P[block], rope)
        else:
            rotate_into(out_BHPD, x_BHPD, *self._rows(rope, positions_P, x_BHPD), rope.pairing)

    def rotate_to_each(self, x_BHTD: Tensor, positions_P: Tensor, rope: Rope) -> Tensor:
        """x rotated to each of a few positions separately [P, B, H, T, D]."""
        if rope.rotary is None:
            return x_BHTD.expand(positions_P.shape[0], *x_BHTD.shape)
        return self._turn(rope, positions_P, x_BHTD, each=True)(x_BHTD)

    def _turn(self, rope: Rope, positions_P: Tensor, like: Tensor, *, each: bool = False) -> Turn:
        """The rotation to a few positions, cached for the next layers, which pass the same tensor of positions."""
        key = (id(positions_P), rope.rotary, rope.prefix, rope.pairing, rope.layout, like.dtype, like.device, each)
        if key not in self._turns:
            if len(self._turns) >= TURNS:
                self._turns.clear()
            turn = Turn.of(*self._rows(rope, positions_P, like), like.shape[-1], rope.pairing)
            # The tensor is kept as well, so that no other tensor can get its id, the cache key.
            self._turns[key] = positions_P, turn.each() if each else turn
        return self._turns[key][1]

    def _rows(self, rope: Rope, positions_P: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [P, M] at positions."""
        assert rope.rotary is not None
        need, positions = int(positions_P.max()) + 1, positions_P.to(like.device, non_blocking=True)
        if need > LARGEST_TABLE:
            return self._made(rope, positions, self._length(rope, need), like)
        key = (rope.rotary, rope.prefix, rope.layout, like.dtype, like.device)
        if key not in self._tables or len(self._tables[key][0]) < need:
            self._tables.pop(key, None)  # free it before the larger one is allocated
            self._tables[key] = self._build(rope, self._length(rope, need), like)
        cos, sin = self._tables[key]
        return cos[positions], sin[positions]

    def _length(self, rope: Rope, need: int) -> int:
        """The number of positions of a table that needs at least `need`: the next power of two, so that it is rarely
        rebuilt, but not beyond the length of the run; exactly the run's length if frequencies depend on it."""
        unit = self.method.position_unit
        if self._follows_length(rope):
            return max(need, unit * self._run_length(rope, math.ceil(need / unit)))
        ahead = 1 << max(8, (need - 1).bit_length())
        run = None if self.lengths.run is None else unit * self.lengths.run
        return ahead if run is None or run < need else min(ahead, run)

    def _run_length(self, rope: Rope, need: int) -> int:
        run = self.lengths.run
        if run is None or need > run:
            raise UserError(
                f"the model's own RoPE scaling ({rope.kind}) depends on the length of the run, "
                + ("" if run is None else f"which was given as {run} tokens but is at least {need}; ")
                + "pass length=... (prompt and generation)."
            )
        return run

    def _follows_length(self, rope: Rope) -> bool:
        return rope.depends_on_length and not (self.method.replaces_scaling and scales(self.method, rope))

    def _build(self, rope: Rope, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(length, device=like.device)
        cos, sin = self._made(rope, positions[:ROWS_AT_ONCE], length, like)
        table = cos.new_empty(2, length, cos.shape[1])
        table[0, :ROWS_AT_ONCE], table[1, :ROWS_AT_ONCE] = cos, sin
        for first in range(ROWS_AT_ONCE, length, ROWS_AT_ONCE):
            block = slice(first, first + ROWS_AT_ONCE)
            table[0, block], table[1, block] = self._made(rope, positions[block], length, like)
        return table[0], table[1]

    @torch.no_grad()
    def _made(self, rope: Rope, positions_P: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [P, M] as the rotary module computes them for an input that reaches the position `length`."""
        module, unit = self._module(rope).to(like.device), self.method.position_unit
        # The class's forward bypasses the instance's hooks, such as the one that hides the rotation from the model.
        forward = partial(type(module).forward, module, like)
        if self._follows_length(rope):  # reset the longest input so far
            forward(torch.zeros_like(positions_P[None, :1]), **rope.kwargs)
        tokens = positions_P if unit == 1 else positions_P // unit + (positions_P % unit).float() / unit
        # The last position is appended, since the module takes the length from the largest position.
        positions = torch.cat([tokens, tokens.new_tensor([math.ceil(length / unit) - 1])])
        tables = forward(positions[None], **rope.kwargs)
        m = tables[0].shape[-1] if rope.layout == "compact" else tables[0].shape[-1] // 2
        pick = slice(None, None, 2) if rope.layout == "repeated" else slice(0, m)
        cos, sin = (table[0, :-1, pick].contiguous() for table in tables)
        return cos, sin

    def _module(self, rope: Rope) -> nn.Module:
        """A copy of the rotary module with the method's frequencies."""
        assert rope.rotary is not None
        key = (rope.rotary, rope.prefix)
        if key not in self._modules:
            # A shallow copy with its own buffers: hooks may reference anything and cannot be copied deeply.
            module = copy.copy(rope.rotary)
            module._buffers = {name: None if b is None else b.clone() for name, b in rope.rotary._buffers.items()}
            if scales(self.method, rope):
                name = f"{rope.prefix}inv_freq"
                scaled, factor = frequencies(self.method, rope, self.lengths)
                module._buffers[name] = scaled.to(getattr(module, name).dtype)
                setattr(module, f"{rope.prefix}attention_scaling", factor)
                if self.method.replaces_scaling:  # otherwise its forward would recompute them
                    copied: Any = module
                    plain = {**copied.rope_type, rope.kwargs["layer_type"]: "default"} if rope.prefix else "default"
                    copied.rope_type = plain
            self._modules[key] = module
        return self._modules[key]


def frequencies(method: Method, rope: Rope, lengths: Lengths) -> tuple[Tensor, float]:
    """Inverse frequencies [M] of a layer with RoPE, and the factor on its cos and sin, under a method."""
    inv_freq = getattr(rope.rotary, f"{rope.prefix}inv_freq").float()
    factor = float(getattr(rope.rotary, f"{rope.prefix}attention_scaling", 1.0))
    if not scales(method, rope):
        return inv_freq, factor
    if method.replaces_scaling:
        inv_freq, factor = rope.plain_frequencies().to(inv_freq), 1.0
    scaled, more = method.frequencies(inv_freq, lengths)
    return scaled, factor * more


def scales(method: Method, rope: Rope) -> bool:
    """Whether the method changes this layer's frequencies.

    A model with one rotation for its sliding-window layers and another for its full ones (Gemma 3) is scaled in the
    full ones; a model that shares one rotation is scaled everywhere, as its config's `rope_parameters` would.
    """
    return (
        "frequencies" in method.hooks
        and rope.rotary is not None
        and rope.kwargs.get("layer_type") != "sliding_attention"
    )
