"""Ones and zeros that cost nothing to rotate by, and are plain ones and zeros otherwise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lcbench.attention.no_rotation import no_rotation


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def tables(dtype: torch.dtype = torch.float32, positions: int = 20) -> tuple[Tensor, Tensor]:
    return no_rotation(*torch.full((2, 1, positions, 8), 0.5, dtype=dtype))


def test_products_and_sums_are_not_computed() -> None:
    q, k = torch.randn(2, 3, 20, 8), torch.randn(2, 1, 20, 8)
    with _Names() as seen:
        turned = apply_rotary_pos_emb(q, k, *tables())
    assert not seen.names & {"mul", "add"}
    assert [type(x) for x in turned] == [Tensor, Tensor]
    assert torch.equal(turned[0], q) and torch.equal(turned[1], k)


def test_other_operations_see_ones_and_zeros() -> None:
    cos, sin = tables()
    x = torch.randn(20, 8)
    wider = x.double() * cos
    assert wider.dtype == torch.float64 and torch.equal(wider, x.double()[None])
    assert torch.equal(x - x.flip(-1) * sin, x[None]) and torch.equal(sin * x + 1, torch.ones(1, 20, 8))
    assert torch.equal(torch.cat([cos, sin]).sum((1, 2)), torch.tensor([160.0, 0.0]))
    assert torch.equal((x * sin).sum(), torch.tensor(0.0)) and torch.equal(sin - x[None], -x[None])
    assert (x[:1] * cos).shape == (1, 20, 8)


def test_gradients_pass() -> None:
    q = torch.randn(1, 1, 20, 8, requires_grad=True)
    apply_rotary_pos_emb(q, q, *tables())[0].sum().backward()
    assert torch.equal(q.grad, torch.ones_like(q))
