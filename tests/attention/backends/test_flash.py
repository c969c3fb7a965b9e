"""What the `flash` backend asks of PyTorch's varlen_attn, and what it makes of the answers, on a stand-in of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from lcbench.attention.backends import flash
from lcbench.attention.backends.bands import stretches
from lcbench.attention.backends.call import Call
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.rope import Rope, RopeTables
from lcbench.methods import Lengths, parse_method
from tests.attention import varlen
from tests.attention.strategies import borders
from tests.attention.test_attention_functions import PRETRAINING, SCALE, B, random_qkv, rope_of


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of every call of the stand-in."""
    made: list[tuple[Any, ...]] = []

    @functools.wraps(varlen.varlen_attn)
    def spy(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        made.append(arguments)
        out, lse = varlen.varlen_attn(*arguments, **options)
        assert lse.isfinite().all()  # a query that sees nothing is never asked for
        return out, lse

    monkeypatch.setattr(flash, "varlen_attn", spy)
    return made


@given(borders())
def test_calls_are_disjoint_and_cover_what_is_seen(borders: tuple[Tensor, Tensor]) -> None:
    start, stop = borders
    shown = torch.zeros(len(start), int(stop[-1]) + 1, dtype=torch.long)
    for band in flash.bands(stretches(start, stop)):
        row, first = band.row_start, band.key_start
        for rows, keys in zip(band.rows, band.keys, strict=True):
            ends = torch.arange(rows)[:, None] + keys - rows
            j = torch.arange(keys)
            seen = ((band.left < 0) | (j >= ends - band.left)) & ((band.right < 0) | (j <= ends + band.right))
            assert seen.any(-1).all()
            shown[row : row + rows, first : first + keys] += seen.long()
            row, first = row + rows, first + keys
        assert (row, first) == (band.row_stop, band.key_stop)
    j = torch.arange(shown.shape[1])
    assert torch.equal(shown, ((j >= start[:, None]) & (j < stop[:, None])).long())


@pytest.mark.parametrize(
    ("spec", "queries", "number"),
    [
        ("vanilla", 1000, 1),
        ("self_extend:group_size=4,neighbor_window=100", 1000, 2),
        ("rerope:window=100", 300, 2),
        ("dca:chunk_size=100,max_position=150", 1000, 1 + 1 + 8),  # own chunk, the one before it, and all before that
        ("dca:chunk_size=100,max_position=150", 1, 3),
        ("streaming:sinks=4,window=100", 200, 2),
    ],
)
def test_few_calls(spec: str, queries: int, number: int, calls: list[tuple[Any, ...]]) -> None:
    method = parse_method(spec).resolve(Lengths(PRETRAINING, 1000))
    q, k, v = (torch.randn(1, 1, 1000, 8) for _ in range(3))
    pieces = method.pieces(torch.arange(1000 - queries, 1000), torch.arange(1000), 0)
    tables = RopeTables(method, Lengths(PRETRAINING, 1000))
    flash.flash_attention(Call(q[:, :, -queries:], k, v, pieces, rope_of(8), tables, 0, SCALE))
    assert len(calls) == number


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "spec", ["vanilla", "self_extend:group_size=3,neighbor_window=16", "dca:chunk_size=24,max_position=29"]
)
def test_half_precision_is_merged_in_float32(spec: str, dtype: torch.dtype, calls: list[tuple[Any, ...]]) -> None:
    """The error is that of rounding queries, keys and answers, whatever the number of calls."""
    method = parse_method(spec).resolve(Lengths(PRETRAINING, 200))
    q, k, v = (x.to(dtype) for x in random_qkv(200, kv_heads=2))
    call = Call(
        q,
        k,
        v,
        method.pieces(torch.arange(200), torch.arange(200), 0),
        rope_of(),
        RopeTables(method, Lengths(32, 200)),
        0,
        SCALE,
    )
    out, lse = flash.flash_attention(call)
    expected, expected_lse = dense_attention(call)
    assert calls and out.dtype == lse.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    assert (out - expected).norm() / expected.norm() < 1.5 * eps
    assert (lse - expected_lse).abs().max() < 8 * eps


def test_one_row_is_not_copied(calls: list[tuple[Any, ...]]) -> None:
    q, k, v = (x[:1] for x in random_qkv(50, kv_heads=2))
    method = parse_method("vanilla").resolve(Lengths(PRETRAINING, 50))
    pieces = method.pieces(torch.arange(50), torch.arange(50), 0)
    tables = RopeTables(method, Lengths(PRETRAINING, 50))
    flash.flash_attention(Call(q, k, v, pieces, rope_of(), tables, 0, SCALE))
    assert calls[0][2].data_ptr() == v.data_ptr()
    assert calls[0][3].tolist() == [0, 50] and B > 1


def test_layers_share_what_is_copied_to_the_device(calls: list[tuple[Any, ...]]) -> None:
    q, k, v = (x[:1] for x in random_qkv(50, kv_heads=2))
    method = parse_method("dca:chunk_size=24,max_position=29").resolve(Lengths(PRETRAINING, 50))
    tables = RopeTables(method, Lengths(PRETRAINING, 50))
    for _layer in range(2):
        pieces = method.pieces(torch.arange(50), torch.arange(50), 0)
        flash.flash_attention(Call(q, k, v, pieces, rope_of(), tables, 0, SCALE))
    half = len(calls) // 2
    for first, second in zip(calls[:half], calls[half:], strict=True):
        assert all(a is b for a, b in zip(first[3:5], second[3:5], strict=True))


@pytest.mark.parametrize(
    ("shapes", "dtype", "why"),
    [
        ((64, 64, 4), torch.float32, "computes in bfloat16 and float16, not in float32"),
        ((64, 32, 4), torch.float16, "needs values as wide as keys, and these have 32 and 64 channels per head"),
        ((12, 12, 4), torch.float16, "needs heads of at most 256 channels, a multiple of 8, and these have 12"),
        ((264, 264, 4), torch.bfloat16, "needs heads of at most 256 channels, a multiple of 8, and these have 264"),
        ((256, 256, 4), torch.bfloat16, None),
        ((64, 64, 2), torch.bfloat16, None),
    ],
)
def test_refusals(shapes: tuple[int, int, int], dtype: torch.dtype, why: str | None) -> None:
    D, Dv, heads = shapes
    q, k, v = (torch.zeros(1, n, 5, d, dtype=dtype) for n, d in ((4, D), (heads, D), (heads, Dv)))
    call = Call(q, k, v, [], Rope(None), RopeTables(parse_method("vanilla"), Lengths(32)), 0, SCALE)
    assert flash.refusal(call) == why


def varlen_attn_2_11(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> tuple[Tensor, Tensor]:
    """As PyTorch 2.11 has it: nobody says that queries are grouped, the kernel sees it."""
    assert isinstance(window_size, tuple)  # it is compared with (-1, 0) there, which a list never equals
    options = {"return_aux": return_aux, "scale": scale, "window_size": window_size, "enable_gqa": True}
    return varlen.varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)


@functools.wraps(flash.varlen_attn)
def varlen_attn_installed(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Takes what the function of the PyTorch that is installed takes."""
    inspect.signature(varlen_attn_installed).bind(*arguments, **options)
    options.pop("enable_gqa", None)
    return varlen_attn_2_11(*arguments, **options)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kernel", [varlen.varlen_attn, varlen_attn_2_11, varlen_attn_installed])
def test_grouped_queries_of_every_pytorch(kernel: Any, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "varlen_attn", kernel)
    method = parse_method("dca:chunk_size=24,max_position=29").resolve(Lengths(PRETRAINING, 80))
    q, k, v = random_qkv(80, kv_heads)
    call = Call(
        q,
        k,
        v,
        method.pieces(torch.arange(80), torch.arange(80), 0),
        rope_of(),
        RopeTables(method, Lengths(32, 80)),
        0,
        SCALE,
    )
    out, lse = flash.flash_attention(call)
    expected, expected_lse = dense_attention(call)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=2e-5, rtol=0)
