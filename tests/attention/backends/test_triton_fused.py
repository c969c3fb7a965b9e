"""The Triton kernel equals the float64 reference: in Triton's interpreter, or on the GPU if there is one.

float32 and float16 only: products of bfloat16 are wrong in the interpreter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import lcbench
from lcbench.attention.backends import dispatch as backends
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.rope import Rope, RopeTables
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.pieces import Piece
from tests.attention import zoo
from tests.attention.test_attention_functions import (
    PRETRAINING,
    SCALE,
    assert_close,
    random_qkv,
    rope_of,
    run,
    truth,
)

triton_fused = pytest.importorskip(
    "lcbench.attention.backends.triton_fused", reason="needs the package triton", exc_type=ImportError
)

OWN_SIZES = triton_fused._sizes
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = [
    "vanilla",
    "self_extend:group_size=3,neighbor_window=16",
    "dca:chunk_size=24,max_position=29",
    "dca:chunk_size=7,max_position=9",  # tiles with chunks inside
    "rerope:window=20",
    "streaming:sinks=4,window=20",
    "fot:memory_layers=[0],context_length=24,last_context_length=7,prompt_length=50",
    "logn:base=16",
]
LIKE_OTHERS = ("self_extend:group_size=3,neighbor_window=16", "rerope:window=20", "logn:base=16")  # in edges and merges


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles a run, and edges inside of them."""
    monkeypatch.setattr(triton_fused, "_sizes", lambda dim, q: {"ROWS": 32, "KEYS": 16})


def attention(call: Call) -> Output:
    q, k, v = (x.to(DEVICE) for x in (call.q_BHTD, call.k_BKSD, call.v_BKSD))
    out, lse = triton_fused.triton_fused_attention(replace(call, q_BHTD=q, k_BKSD=k, v_BKSD=v))
    return out.cpu(), lse.cpu()


def given(spec: str, first: int, last: int, rope: Rope) -> tuple[Any, ...]:
    method, lengths = parse_method(spec).resolve(Lengths(PRETRAINING, last)), Lengths(PRETRAINING, last)
    pieces = method.pieces(torch.arange(first, last), torch.arange(last), 0)
    return pieces, rope, RopeTables(method, lengths), 0, SCALE


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=pytest.mark.slow) if spec in LIKE_OTHERS else spec for spec in PLANS]
)
def test_equals_the_reference(spec: str) -> None:
    method = parse_method(spec).resolve(Lengths(PRETRAINING, 70))
    qkv = tuple(x[:1] for x in random_qkv(70, kv_heads=2))  # two rows are in the tests of grouped queries
    assert_close(run(attention, method, [47, 48, 70], qkv, rope_of()), truth(method, qkv))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_queries(kv_heads: int) -> None:
    method = parse_method(PLANS[1]).resolve(Lengths(PRETRAINING, 50))
    qkv = random_qkv(50, kv_heads)
    assert_close(run(attention, method, [50], qkv, rope_of()), truth(method, qkv))


@pytest.mark.parametrize(("width", "width_v"), [(24, 24), (16, 40), (8, 8)])
def test_widths_that_no_tile_has(width: int, width_v: int) -> None:
    """Channels beyond them are padding of the tile."""
    q, k, v = (torch.randn(1, 2, 40, d, generator=torch.Generator().manual_seed(d)) for d in (width, width, width_v))
    call = Call(q, k, v, *given(PLANS[1], 0, 40, rope_of(8)))
    (out, lse), (expected, expected_lse) = attention(call), dense_attention(call)
    assert_close(out, expected)
    assert_close(lse, expected_lse)


@pytest.mark.parametrize("spec", PLANS[:3])
def test_float16_is_as_good_as_its_rounding(spec: str) -> None:
    q, k, v = (x[:1].half() for x in random_qkv(80, kv_heads=2))
    call = Call(q[:, :, 30:], k, v, *given(spec, 30, 80, rope_of()))
    (out, lse), (expected, expected_lse) = attention(call), dense_attention(call)
    assert out.dtype == torch.float16 and lse.dtype == torch.float32
    eps = torch.finfo(torch.float16).eps
    assert (out - expected).norm() / expected.norm() < 1.5 * eps
    assert (lse - expected_lse).abs().max() < 8 * eps


@pytest.mark.parametrize("spec", PLANS[1:3])
def test_nothing_beyond_the_keys_is_read(spec: str) -> None:
    """A cache has room ahead, with whatever was there; what lies around the queries is poisoned too."""
    q, k, v = (x[:1] for x in random_qkv(77, kv_heads=2))

    def poisoned(x: Tensor) -> Tensor:
        room = torch.full((*x.shape[:2], x.shape[2] + 64, x.shape[3]), math.nan)
        room[:, :, 32 : 32 + x.shape[2]] = x
        return room[:, :, 32 : 32 + x.shape[2]]

    rest = given(spec, 0, 77, rope_of())
    assert_close(attention(Call(*map(poisoned, (q, k, v)), *rest))[0], dense_attention(Call(q, k, v, *rest))[0])


def test_queries_that_see_nothing_and_keys_that_begin_later() -> None:
    q, k, v = (x[:1] for x in random_qkv(40, kv_heads=2))
    i = torch.arange(100, 140)
    start = torch.tensor([100] * 10 + [105] * 20 + [120] * 10)
    piece = Piece(i, i, start, torch.maximum(start, i - 4).clamp(max=125))
    rest = [piece, replace(piece, stop=piece.start)], rope_of(), RopeTables(parse_method("vanilla"), Lengths(32)), 100
    call = Call(q, k, v, *rest, SCALE)
    (out, lse), (expected, expected_lse) = attention(call), dense_attention(call)
    nothing = expected_lse.isinf()
    assert nothing.any() and torch.equal(lse.isinf(), nothing)
    assert_close(out, expected)
    assert_close(lse[~nothing], expected_lse[~nothing])
    nobody = attention(replace(call, pieces=[replace(piece, stop=piece.start)]))
    assert not nobody[0].any() and bool((nobody[1] == -math.inf).all())


def test_no_rotation_and_interleaved_channels() -> None:
    q, k, v = (x[:1] for x in random_qkv(40, kv_heads=2))
    for rope in (Rope(None), rope_of(dim=6, pairing="interleaved")):
        call = Call(q, k, v, *given(PLANS[1], 0, 40, rope))
        assert_close(attention(call)[0], dense_attention(call)[0])


def test_tiles_end_where_chunks_do_and_the_longest_go_first() -> None:
    pieces = given("dca:chunk_size=100,max_position=150", 0, 330, rope_of())[0]
    start, stop = (torch.stack([getattr(piece, side) for piece in pieces]) for side in ("start", "stop"))
    tiles = triton_fused._tiles(start, stop, 64).tolist()
    assert sorted(map(tuple, tiles)) == [(0, 64), (64, 36), (100, 64), (164, 36), (200, 64), (264, 36), (300, 30)]
    keys = [int((stop[:, first + count - 1] - start[:, first]).sum()) for first, count in tiles]
    assert keys == sorted(keys, reverse=True)


def test_decode_keeps_keys_rotated() -> None:
    """One pass a way, over the keys that were rotated before, and the new one of each."""
    method, kept = parse_method(PLANS[1]).resolve(Lengths(PRETRAINING, 90)), RotatedKeyCache()
    q, k, v = (x[:1] for x in random_qkv(90, kv_heads=2))
    tables, rotated = RopeTables(method, Lengths(PRETRAINING, 90)), []
    for n in (88, 89, 90):
        pieces = method.pieces(torch.arange(n - 1, n), torch.arange(n), 0)
        rest = pieces, rope_of(), tables, 0, SCALE, None, kept
        call = Call(q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n], *rest)
        with mock.patch.object(RopeTables, "rotate", autospec=True, side_effect=RopeTables.rotate) as rotate:
            found = attention(call)[0]
        rotated.append([len(args[0][2]) for args in rotate.call_args_list])
        assert_close(found, dense_attention(call)[0])
    assert sum(rotated[0]) == 88 and rotated[1:] == [[1, 1]] * 2


@pytest.mark.parametrize("limit", [232_448, 166_912, 101_376])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_tiles_fit_into_shared_memory(
    dim: int, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Hopper, of an A100, and of other GPUs of its time."""
    monkeypatch.setattr(triton_fused, "SHARED_MEMORY", limit)
    sizes = OWN_SIZES(dim, torch.zeros(1, dtype=dtype))
    rows, keys, warps, stages = sizes.values()
    assert triton_fused.shared_memory(rows, keys, warps, stages, dim, dtype.itemsize) <= limit
    assert limit < 232_448 or dim == 256 or rows * keys >= 64 * 32


@torch.no_grad()
def test_a_whole_model() -> None:
    model, ids, logits = zoo.llama().to(DEVICE), zoo.tokens(1, 60).to(DEVICE), {}
    for attention_backend in ("triton", "matmul"):
        steering = lcbench.extend(model, PLANS[1], attention=attention_backend)
        with steering:
            logits[attention_backend] = model(ids).logits.cpu()
        assert steering.backends == [attention_backend]
    assert_close(logits["triton"], logits["matmul"].double())


def test_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(width: int, dtype: torch.dtype) -> str | None:
        x = torch.zeros(1, 1, 3, width, dtype=dtype)
        return triton_fused.refusal(Call(x, x, x, *given("vanilla", 0, 3, rope_of())))

    assert refusal(12, torch.float16) == "needs heads of a multiple of 8 channels, and these have 12"
    assert "not in float64" in str(refusal(12, torch.float64))
    assert "does not compute bfloat16 in Triton's interpreter" in str(refusal(16, torch.bfloat16))
    assert refusal(12, torch.float32) is None
    if DEVICE == "cpu":
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(UserError, match="triton runs on CUDA GPUs, not on cpu; use auto, reference"):
            backends.BackendSelector("triton").check(torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install triton"):
        backends.BackendSelector("triton").check(torch.device(DEVICE))
