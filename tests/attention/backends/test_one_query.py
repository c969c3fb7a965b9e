"""A single query a row, as in decode: by integers worked out once for all layers, over keys that stay rotated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.matmul import matmul_attention
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.backends.tiled import tiled_attention
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import Look, Ways
from lcbench.attention.rope import Rope, RopeTables
from lcbench.methods import Lengths, parse_method
from tests.attention.test_attention_functions import H, flash, random_qkv, rope_of
from tests.attention.test_exactness import METHODS

N = 90
LENGTHS = Lengths(32, N)
FEW = ["vanilla", "dca:chunk_size=24,max_position=29", "self_extend:group_size=3,neighbor_window=16"]


def calls(spec: str, qkv: tuple[Tensor, Tensor, Tensor], rope: Rope, **extra: Any) -> Iterator[Call]:
    """A call for each of the last tokens; keys that were rotated in one are kept for the next."""
    method = parse_method(spec).resolve(LENGTHS).for_prompt(60)
    tables, (q, k, v), kept = RopeTables(method, LENGTHS), qkv, RotatedKeyCache()
    for n in range(70, N):
        pieces = method.pieces(torch.arange(n - 1, n), torch.arange(n), 0)
        look = Look.of(pieces, 0, tables.ways)
        yield Call(
            q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n], pieces, rope, tables, 0, 0.3, rotated_keys=kept, look=look,
            **extra,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "dtype", "extra"),
    [
        *product(METHODS, [torch.float64], [{"softcap": 0.5}]),
        *product(FEW, [torch.float32, torch.bfloat16], [{}]),
        *product(FEW, [torch.float16], [{"softcap": 0.5}]),
    ],
)
def test_equals_the_reference(spec: str, dtype: torch.dtype, extra: dict[str, Any]) -> None:
    qkv = tuple(x.to(dtype) for x in random_qkv(N, kv_heads=2))
    tolerance = max(8 * torch.finfo(dtype).eps, 1e-5)  # angles are of float32, and of bfloat16 with its rotation
    for call in calls(spec, qkv, rope_of(), **extra):
        for found, expected in zip(matmul_attention(call), dense_attention(call), strict=True):
            torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rope", [rope_of(6), rope_of(6, "interleaved"), rope_of(pairing="interleaved"), Rope(None)])
def test_every_rotation(rope: Rope) -> None:
    for call in calls("self_extend:group_size=3,neighbor_window=16", random_qkv(N, kv_heads=4), rope):
        torch.testing.assert_close(matmul_attention(call)[0].double(), dense_attention(call)[0], atol=1e-5, rtol=0)


def test_gaps() -> None:
    """Keys that no piece shows are in no product."""
    method = parse_method("streaming:sinks=3,window=12").resolve(LENGTHS)
    look = Look.of(method.pieces(torch.arange(50, 51), torch.arange(51), 0), 0, Ways())
    assert look is not None and look.runs == ((0, 3), (39, 51))
    assert [entry[:2] for entry in look.shown] == [(0, 3), (39, 51)] and look.q_pos_P.tolist() == [14, 50]


@pytest.mark.parametrize(("spec", "count"), [*zip(FEW, [1, 1, 2], strict=True)])
def test_keys_have_one_way_for_all_pieces_that_rotate_them_alike(spec: str, count: int) -> None:
    looks = [call.look for call in calls(spec, random_qkv(N, kv_heads=2), rope_of())]
    assert len({way for look in looks if look is not None for *_, way in look.shown}) == count


def test_no_log_sum_exp_that_nobody_reads() -> None:
    for call in calls(FEW[1], random_qkv(N, kv_heads=2), rope_of(), alone=True):
        out, lse = matmul_attention(call)
        assert not lse.numel()
        torch.testing.assert_close(out.double(), dense_attention(call)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", [matmul_attention, tiled_attention, flash])
@pytest.mark.parametrize("spec", ["dca:chunk_size=24,max_position=29", "self_extend:group_size=3,neighbor_window=16"])
def test_a_named_backend_rotates_new_keys_only(spec: str, attention: Callable[[Call], Output]) -> None:
    rotated: list[int] = []
    rotate = RopeTables.rotate

    def spy(self: RopeTables, x: Tensor, positions: Tensor, rope: Rope) -> Tensor:
        rotated.append(len(positions) if x.shape[1] < H else 0)
        return rotate(self, x, positions, rope)

    with mock.patch.object(RopeTables, "rotate", spy):
        for n, call in enumerate(calls(spec, random_qkv(N, kv_heads=2), rope_of())):
            rotated.clear()
            found = attention(call)[0]
            assert n == 0 or sum(rotated) <= 2 or (spec.startswith("dca") and sum(rotated) <= 24 + 2)  # a new chunk
            torch.testing.assert_close(found.double(), dense_attention(call)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_not_rounded_before_the_softmax(dtype: torch.dtype) -> None:
    """Scores of some 40: half precision would leave an eighth of an e-fold in bfloat16."""
    q, k, v = (x.to(dtype) for x in random_qkv(N, kv_heads=2))
    method = parse_method("vanilla")
    for rows in (1, 5):
        i = torch.arange(N - rows, N)
        call = Call(
            q[:, :, -rows:] * 8,
            k,
            v,
            method.pieces(i, torch.arange(N), 0),
            Rope(None),
            RopeTables(method, LENGTHS),
            0,
            1.0,
        )
        found, expected = matmul_attention(call)[0], dense_attention(call)[0]
        assert (found.double() - expected).norm() / expected.norm() < 1.5 * torch.finfo(dtype).eps
