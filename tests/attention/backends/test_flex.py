"""The `flex` backend equals the float64 reference by FlexAttention's own uncompiled code, which masks every pair by
`start` and `stop`; that its blocks say the same is tested by themselves, as only a compiled kernel reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention

import lcbench
from lcbench.attention.backends import dispatch, flex
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.dispatch import BACKENDS, BackendSelector
from lcbench.attention.backends.flex import Blocks, flex_pieces_attention
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.rope import Rope, RopeTables
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.pieces import Piece
from tests.attention import zoo
from tests.attention.strategies import borders
from tests.attention.test_attention_functions import PRETRAINING, SCALE, assert_close, random_qkv, rope_of, run, truth

CPU = torch.device("cpu")
SELF_EXTEND = "self_extend:group_size=3,neighbor_window=16"
PLANS = [SELF_EXTEND, "dca:chunk_size=24,max_position=29+logn:base=16", "streaming:sinks=4,window=20"]


@pytest.fixture(autouse=True)
def _without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The uncompiled code is compiled, too, unless it is told otherwise: a second for every shape."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "flex", replace(BACKENDS["flex"], machine=lambda device: None))


@settings(max_examples=30)
@given(borders(), st.sampled_from([1, 2, 5, 16]))
@example((torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)), 2)  # nobody sees anything
@example((torch.tensor([0, 0, 7, 7]), torch.tensor([7, 7, 9, 16])), 4)  # a jump within a block
def test_blocks_cover_what_is_seen_and_no_whole_one_hides_a_key(borders: tuple[Tensor, Tensor], size: int) -> None:
    start, stop = borders
    keys = int(stop[-1]) + 1
    with mock.patch.object(flex, "BLOCK", size):
        blocks = Blocks.of(start, stop, keys, CPU)
    j = torch.arange(keys)
    seen = (j >= start[:, None]) & (j < stop[:, None])
    rows, columns = -(-len(start) // size), -(-keys // size)
    room = (0, columns * size - keys, 0, rows * size - len(start))
    tiled = torch.nn.functional.pad(seen, room).view(rows, size, columns, size)
    hidden = torch.nn.functional.pad(~seen, (*room[:2], 0, 0), value=True)  # keys that are not there are seen by nobody
    hidden = torch.nn.functional.pad(hidden, (0, 0, *room[2:])).view(rows, size, columns, size)
    listed = torch.zeros(2, rows, columns + 1, dtype=torch.long)
    for kind, (count, at) in enumerate((blocks[2:4], blocks[4:])):
        for row in range(rows):
            listed[kind, row].index_put_(
                (at[0, 0, row, : int(count[0, 0, row])].long(),), torch.tensor(1), accumulate=True
            )
    masked, whole = listed[:, :, :columns]
    assert (masked + whole).max() <= 1
    assert not (tiled.any(3).any(1) & (masked + whole == 0)).any()
    assert not (hidden.any(3).any(1) & (whole == 1)).any()


def test_shapes_are_those_that_are_compiled_once() -> None:
    one, many = (Blocks.of(torch.zeros(n).long(), torch.arange(n) + 1, n, CPU) for n in (1, 1000))
    assert [list(x.shape) for x in one[2:]] == [[1, 1, 2], [1, 1, 2, 2]] * 2
    assert [list(x.shape) for x in many[2:]] == [[1, 1, 8], [1, 1, 8, 8]] * 2
    assert many.whole_11R.flatten().tolist() == list(range(8)) and many.masked_11R.flatten().tolist() == [1] * 8
    assert {x.dtype for x in (*one, *many)} == {torch.int32}


@pytest.mark.parametrize("spec", PLANS)
def test_equals_the_reference(spec: str) -> None:
    method = parse_method(spec).resolve(Lengths(PRETRAINING, 90))
    qkv = random_qkv(90, kv_heads=2)
    assert_close(run(flex_pieces_attention, method, [67, 90], qkv, rope_of()), truth(method, qkv))


def given_call(spec: str, n: int, qkv: tuple[Tensor, ...], rope: Rope, **more: Any) -> Call:
    method, lengths = parse_method(spec).resolve(Lengths(PRETRAINING, n)), Lengths(PRETRAINING, n)
    pieces = method.pieces(torch.arange(n), torch.arange(n), 0)
    return Call(*qkv, pieces, rope, RopeTables(method, lengths), 0, SCALE, **more)


def test_float64_soft_caps_and_values_of_another_width() -> None:
    """To float64's own rounding: the merge and the log-sum-exp are no less exact than what they merge."""
    q, k, v = (x[:1].double() for x in random_qkv(50, kv_heads=1))
    call = given_call(SELF_EXTEND, 50, (q, k, v[..., :10]), rope_of(8, "interleaved"), softcap=0.5)
    for found, expected in zip(flex_pieces_attention(call), dense_attention(call), strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # the tables of sines are float32


def test_half_precision_is_merged_in_float32() -> None:
    call = given_call(SELF_EXTEND, 80, tuple(x[:1].half() for x in random_qkv(80, kv_heads=2)), rope_of())
    (out, lse), (expected, expected_lse) = flex_pieces_attention(call), dense_attention(call)
    eps = torch.finfo(torch.float16).eps
    assert out.dtype == lse.dtype == torch.float32
    assert (out - expected).norm() / expected.norm() < 1.5 * eps
    assert (lse - expected_lse).abs().max() < 8 * eps


def test_queries_that_see_nothing_and_keys_that_begin_later() -> None:
    q, k, v = (x[:1] for x in random_qkv(40, kv_heads=2))
    i = torch.arange(100, 140)
    start = torch.tensor([100] * 10 + [105] * 20 + [120] * 10)
    piece = Piece(i, i, start, torch.maximum(start, i - 4).clamp(max=125))
    tables = RopeTables(parse_method("vanilla"), Lengths(32))
    call = Call(q, k, v, [replace(piece, stop=piece.start), piece], rope_of(), tables, 100, SCALE)
    (out, lse), (expected, expected_lse) = flex_pieces_attention(call), dense_attention(call)
    nothing = expected_lse.isinf()
    assert nothing.any() and torch.equal(lse.isinf(), nothing)
    assert_close(out, expected)
    assert_close(lse[~nothing], expected_lse[~nothing])
    nobody = flex_pieces_attention(replace(call, pieces=call.pieces[:1]))
    assert not nobody[0].any() and bool((nobody[1] == -math.inf).all())


@pytest.mark.usefixtures("anywhere")
@torch.no_grad()
def test_a_mask_is_made_once_for_all_layers() -> None:
    """Two pieces of a prompt, and one or two of a token that follows."""
    model, ids = zoo.llama(), zoo.tokens(1, 60)
    with lcbench.extend(model, SELF_EXTEND, attention="matmul"):
        expected = model(ids).logits
    steering = lcbench.extend(model, SELF_EXTEND, attention="flex")
    with mock.patch.object(Blocks, "of", side_effect=Blocks.of) as made, steering:
        first = model(ids[:, :59])
        assert made.call_count == 2 and model.config.num_hidden_layers > 1
        last = model(ids[:, 59:], past_key_values=first.past_key_values)
        assert made.call_count == 4
    assert steering.backends == ["flex"]
    assert_close(torch.cat([first.logits, last.logits], dim=1), expected.double())


def test_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    call = given_call("vanilla", 3, tuple(torch.zeros(1, 1, 3, 16) for _ in range(3)), rope_of())
    assert flex.refusal(call) is None
    assert flex.refusal(replace(call, v_BKSD=torch.zeros(1, 1, 3, 8))) == (
        "needs heads of at least 16 channels, and these have 8"
    )
    assert "not in float64" in str(flex.refusal(replace(call, q_BHTD=call.q_BHTD.double())))
    with pytest.raises(UserError, match="flex runs on CUDA GPUs, not on cpu; use auto, reference"):
        BackendSelector("flex").check(CPU)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flex needs the package triton \(pip install triton\)"):
        BackendSelector("flex").check(CPU)


@pytest.fixture
def compiled() -> Iterator[tuple[Any, Any]]:
    """The compiled function, with PyTorch's uncompiled code behind it, and its counter."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    counter = CompileCounter()
    yield flex._compiled.__wrapped__(counter), counter
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_one_compilation_for_all_lengths(compiled: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the numbers of queries, keys and blocks, within blocks that forbid compilation too, as a steered
    model's attention is; a layer with another scale is compiled by itself, with its scale as a number."""
    attend, counter = compiled

    def answer(first: int, n: int, scale: float = SCALE) -> None:
        q, k, v = (x[:1] for x in random_qkv(n, kv_heads=2))
        method = parse_method("vanilla").resolve(Lengths(PRETRAINING, n))
        pieces = method.pieces(torch.arange(first, n), torch.arange(n), 0)
        call = Call(q[:, :, first:], k, v, pieces, rope_of(), RopeTables(method, Lengths(32, n)), 0, scale)
        monkeypatch.setattr(flex, "_attend", attend)
        found: Output = torch.compiler.disable(flex_pieces_attention)(call)  # type: ignore[no-untyped-call]
        for x, expected in zip(found, dense_attention(call), strict=True):
            assert_close(x, expected)

    for first, n in ((0, 300), (0, 90), (300, 900), (895, 900), (0, 2)):
        answer(first, n)
    assert counter.frame_count == 1
    answer(0, 90, scale=0.25)
    answer(0, 90, scale=0.26)
    assert counter.frame_count == 3
