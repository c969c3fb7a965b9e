"""Every backend that runs here equals the float64 reference, for any pieces, cut into any calls; `flash` on a stand-in
of PyTorch's kernel, `triton` in test_triton_fused.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lcbench.attention.attend import with_sinks
from lcbench.attention.backends import flash as flash_module
from lcbench.attention.backends import matmul, tiles
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.matmul import matmul_attention
from lcbench.attention.backends.reference import dense_attention, reference_attention
from lcbench.attention.backends.tiled import tiled_attention
from lcbench.attention.rope import Pairing, Rope, RopeTables
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.dca import DualChunkAttention
from lcbench.methods.pieces import Piece
from lcbench.methods.self_extend import SelfExtend
from lcbench.methods.streaming import Streaming
from lcbench.methods.vanilla import Vanilla
from tests.attention import oracle, strategies, varlen

B, H, D, PRETRAINING, THETA = 2, 4, 16, 32, 10000.0
SCALE = 0.3
Attention = Callable[[Call], Output]


def flash(call: Call) -> Output:
    with mock.patch.object(flash_module, "varlen_attn", varlen.varlen_attn):
        return flash_module.flash_attention(call)


every_backend = pytest.mark.parametrize("attention", [tiled_attention, matmul_attention, dense_attention, flash])


def small_tiles(patch: pytest.MonkeyPatch, block: int, small: int) -> None:
    """Tiles of a few queries, so that short runs have all the edges that long ones have."""
    patch.setattr(tiles, "BLOCK", block)
    patch.setattr(tiles, "SMALL", small)
    patch.setattr(tiles, "FINE", max(1, small // 2))
    patch.setattr(tiles, "TRIANGLE", max(1, small // 2))


def rope_of(dim: int = D, pairing: Pairing = "half") -> Rope:
    config = LlamaConfig(head_dim=dim, max_position_embeddings=PRETRAINING)
    config.rope_parameters = {"rope_type": "default", "rope_theta": THETA}
    return Rope(LlamaRotaryEmbedding(config), pairing=pairing)


def random_qkv(n: int, kv_heads: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, heads, n, D, generator=generator) for heads in (H, kv_heads, kv_heads))


def run(
    attention: Attention,
    method: Method,
    ends: list[int],
    qkv: tuple[Tensor, Tensor, Tensor],
    rope: Rope,
    **extra: Any,
) -> Tensor:
    """The answers of every call of a run, side by side."""
    q, k, v = qkv
    lengths = Lengths(PRETRAINING, ends[-1])
    tables = RopeTables(method, lengths)
    sinks = extra.pop("sinks_H", None)
    out = []
    for a, b in zip([0, *ends], ends):
        i = torch.arange(a, b)
        factor = method.score_scale(i, lengths)
        queries = q[:, :, a:b] if factor is None else q[:, :, a:b] * factor.to(q.dtype)[:, None]
        pieces = method.pieces(i, torch.arange(b), 0)
        answer, lse = attention(Call(queries, k[:, :, :b], v[:, :, :b], pieces, rope, tables, 0, SCALE, **extra))
        out.append(answer if sinks is None else with_sinks(answer, lse, sinks))
    return torch.cat(out, dim=2)


def truth(method: Method, qkv: tuple[Tensor, Tensor, Tensor], dim: int = D, **extra: Any) -> Tensor:
    n = qkv[0].shape[2]
    lengths = Lengths(PRETRAINING, n)
    inv_freq, factor = oracle.frequencies(method, lengths, dim, THETA)
    rel, seen = oracle.matrices(oracle.plan(method), n)
    scores = oracle.score_scale(method, n, lengths)
    extra = {"scale": SCALE, "attention_factor": factor, "score_scale_T": scores, **extra}
    return reference_attention(*qkv, rel, seen, inv_freq, **extra)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=2e-5, rtol=0)


@every_backend
@settings(max_examples=40)
@given(
    method=strategies.methods(),
    ends=strategies.calls(),
    kv_heads=st.sampled_from([1, 2, 4]),
    block=st.sampled_from([1, 2, 3, 7, 16, 512]),
    sinks=st.booleans(),
    seed=st.integers(0, 99),
)
@example(Vanilla(), [1], 1, 1, False, 0)
@example(SelfExtend(group_size=3, neighbor_window=16), [90], 2, 16, True, 0)
@example(SelfExtend(group_size=2, neighbor_window=1), [16, 17, 90], 2, 16, False, 0)
@example(DualChunkAttention(chunk_size=16, max_position=24), [16, 32, 33, 64], 2, 16, False, 0)
@example(DualChunkAttention(chunk_size=1, max_position=0), [33], 4, 7, True, 0)
@example(Streaming(sinks=0, window=1), [40], 2, 16, True, 0)
@example(Streaming(sinks=12, window=5), [40], 2, 7, False, 0)
def test_equals_the_reference(
    attention: Attention, method: Method, ends: list[int], kv_heads: int, block: int, sinks: bool, seed: int
) -> None:
    method = method.resolve(Lengths(PRETRAINING, ends[-1]))
    qkv = random_qkv(ends[-1], kv_heads, seed)
    extra = {"sinks_H": torch.linspace(-2, 3, H)} if sinks else {}
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch, block, small=max(1, block // 2))
        patch.setitem(matmul.SCORES_AT_ONCE, "cpu", 100 * block)
        assert_close(run(attention, method, ends, qkv, rope_of(), **extra), truth(method, qkv, **extra))


@every_backend
@pytest.mark.parametrize(
    ("spec", "n"),
    [
        ("self_extend:group_size=3,neighbor_window=100", 512),
        ("self_extend:group_size=3,neighbor_window=100", 1025),
        ("dca:chunk_size=300,max_position=350", 513),
    ],
)
def test_more_than_one_tile_of_the_real_size(attention: Attention, spec: str, n: int) -> None:
    method = parse_method(spec).resolve(Lengths(PRETRAINING, n))
    q, k, v = random_qkv(n, kv_heads=1)
    queries = [i for i in (0, 1, 99, 100, 299, 300, 511, 512, 513, 600, 601, 1023, 1024) if i < n]
    rel, seen = oracle.matrices(oracle.plan(method), n, queries)
    inv_freq, _ = oracle.rope(PRETRAINING, D, THETA)
    expected = reference_attention(q[:, :, queries], k, v, rel, seen, inv_freq, scale=SCALE)
    assert_close(run(attention, method, [n], (q, k, v), rope_of())[:, :, queries], expected)


@pytest.mark.parametrize("spec", ["vanilla", "self_extend:group_size=3,neighbor_window=16", "streaming:window=9"])
@pytest.mark.parametrize("attention", [matmul_attention, dense_attention])
def test_soft_cap(spec: str, attention: Attention) -> None:
    method = parse_method(spec).resolve(Lengths(PRETRAINING, 70))
    qkv = random_qkv(70, kv_heads=2)
    capped = truth(method, qkv, softcap=0.5)
    assert (capped - truth(method, qkv)).abs().max() > 0.1
    assert_close(run(attention, method, [40, 70], qkv, rope_of(), softcap=0.5), capped)


@every_backend
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_partial_and_interleaved_rotation(attention: Attention, pairing: Pairing) -> None:
    method = parse_method("self_extend:group_size=3,neighbor_window=16").resolve(Lengths(PRETRAINING, 70))
    qkv = random_qkv(70, kv_heads=2)
    actual = run(attention, method, [40, 70], qkv, rope_of(dim=6, pairing=pairing))
    assert_close(actual, truth(method, qkv, dim=6, pairing=pairing))


@every_backend
def test_no_rotation(attention: Attention) -> None:
    method = Vanilla()
    qkv = random_qkv(50, kv_heads=2)
    rel, seen = oracle.matrices(oracle.plan(method), 50)
    expected = reference_attention(*qkv, rel, seen, torch.zeros(0), scale=SCALE)
    assert_close(run(attention, method, [20, 50], qkv, Rope(None)), expected)


@every_backend
@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(1, 30), st.sampled_from([1, 3, 16]))
def test_keys_that_begin_later(attention: Attention, first_key: int, queries: int, block: int) -> None:
    """A cache that holds only what a window still needs."""
    window = 12
    last = first_key + window + queries
    q, k, v = random_qkv(last, kv_heads=2)
    i, j = torch.arange(last - queries, last), torch.arange(first_key, last)
    pieces = [Piece(i, j, start=i - window + 1, stop=i + 1)]
    expected = reference_attention(
        q, k, v, *oracle.matrices(oracle.within(window), last), oracle.rope(0, D, THETA)[0], scale=SCALE
    )
    tables = RopeTables(Method(), Lengths(PRETRAINING))
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch, block, block)
        late = (x[:, :, first_key:] for x in (k, v))
        actual, _ = attention(Call(q[:, :, -queries:], *late, pieces, rope_of(), tables, first_key, SCALE))
    assert_close(actual, expected[:, :, -queries:])


@given(strategies.borders(), st.sampled_from([(1, 1), (4, 2), (7, 5), (512, 128)]))
@example(
    (torch.zeros(5, dtype=torch.long), torch.tensor([2, 2, 4, 5, 6])), (7, 5)
)  # as far as a causal edge, with a jump
def test_tiles_are_disjoint_and_cover_what_is_seen(borders: tuple[Tensor, Tensor], sizes: tuple[int, int]) -> None:
    start, stop = borders
    assume(bool((stop > start).any()))
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch, *sizes)
        cut = list(tiles.cut(start, stop))
    seen = torch.zeros(len(start), int(stop[-1]), dtype=torch.long)
    for tile in cut:
        rows, keys, mask = tile.rows, tile.keys, tile.mask
        assert rows > 0 and keys > 0
        if mask is True:
            assert rows == keys
        shown = mask if isinstance(mask, Tensor) else torch.ones(rows, keys).tril(0 if mask else keys)
        for n in range(tile.repeats):
            row, key = tile.row_start + n * tile.row_step, tile.key_start + n * tile.key_step
            seen[row : row + rows, key : key + keys] += shown.long()
    j = torch.arange(int(stop[-1]))
    assert torch.equal(seen, ((j >= start[:, None]) & (j < stop[:, None])).long())
