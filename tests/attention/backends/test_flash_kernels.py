"""FlashAttention 3 and 4 by stand-ins: what their releases take and return, and that PyTorch's own SDPA stays."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import attention
from torch.nn.attention.varlen import AuxRequest

from lcbench.attention.backends import flash, flash_kernels
from lcbench.attention.backends.call import Call
from lcbench.attention.backends.flash_kernels import Kernel, by_package, fastest_kernel
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.rope import RopeTables
from lcbench.methods import Lengths, parse_method
from tests.attention import varlen
from tests.attention.test_attention_functions import PRETRAINING, SCALE, random_qkv, rope_of


def answer(q: Tensor, k: Tensor, v: Tensor, given: dict[str, Any], nothing: int | None) -> tuple[Tensor, Tensor]:
    """The window's sides are `nothing` where there is no bound; causal attention is said by `causal` alone."""
    window = given["window_size"]
    assert not given["causal"] or window == (nothing, nothing)
    left, right = (-1, 0) if given["causal"] else (-1 if side == nothing else side for side in window)
    return varlen.varlen_attn(
        q, k, v, given["cu_seqlens_q"], given["cu_seqlens_k"], given["max_seqlen_q"], given["max_seqlen_k"],
        return_aux=AuxRequest(lse=True), scale=given["softmax_scale"], window_size=(left, right), enable_gqa=True,
    )  # fmt: skip


def fa4(
    q: Tensor, k: Tensor, v: Tensor, *, window_size: Any = (None, None), return_lse: bool = False, **given: Any
) -> Any:
    found = answer(q, k, v, {**given, "window_size": window_size}, None)
    return found if return_lse else found[0]


def fa4_with_more(q: Tensor, k: Tensor, v: Tensor, *, window_size: Any = (None, None), **given: Any) -> Any:
    return *answer(q, k, v, {**given, "window_size": window_size}, None), None


def fa3(
    q: Tensor, k: Tensor, v: Tensor, *, window_size: Any = (-1, -1), return_attn_probs: bool = False, **given: Any
) -> Any:
    found = answer(q, k, v, {**given, "window_size": window_size}, -1)
    return found if return_attn_probs else found[0]


def fa3_at_first(q: Tensor, k: Tensor, v: Tensor, *, window_size: Any = (-1, -1), **given: Any) -> Any:
    return answer(q, k, v, {**given, "window_size": window_size}, -1)


@pytest.mark.parametrize("spec", ["dca:chunk_size=24,max_position=29", "streaming:sinks=4,window=20"])
@pytest.mark.parametrize("function", [fa4, fa4_with_more, fa3, fa3_at_first])
def test_every_release(function: Callable[..., Any], spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "fastest_kernel", lambda: Kernel("FA", by_package(function)))
    method, lengths = parse_method(spec).resolve(Lengths(PRETRAINING, 80)), Lengths(PRETRAINING, 80)
    q, k, v = random_qkv(80, kv_heads=2)
    pieces = method.pieces(torch.arange(80), torch.arange(80), 0)
    call = Call(q, k, v, pieces, rope_of(), RopeTables(method, lengths), 0, SCALE)
    with mock.patch.object(torch.cuda, "device_of", wraps=torch.cuda.device_of) as on:
        answers = flash.flash_attention(call)
    assert on.called  # whichever is the current one: layers may be on several
    for found, expected in zip(answers, dense_attention(call), strict=True):
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("capability", "installed", "name"),
    [
        ((9, 0), ["flash_attn_interface", "flash_attn.cute.interface"], "FA3"),
        ((9, 0), ["flash_attn.cute.interface"], "FA4"),
        ((10, 0), ["flash_attn_interface", "flash_attn.cute.interface"], "FA4"),
        ((8, 0), ["flash_attn_interface", "flash_attn.cute.interface"], "FA2"),
        ((9, 0), [], "FA2"),
    ],
)
def test_the_fastest_that_is_there(
    capability: tuple[int, int], installed: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And PyTorch's own SDPA is as it was."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    for path in installed:
        monkeypatch.setitem(sys.modules, path, module := types.ModuleType(path))
        module.__spec__ = flash_kernels.importlib.util.spec_from_loader(path, None)
        module.flash_attn_varlen_func = fa4  # type: ignore[attr-defined]
    assert fastest_kernel.__wrapped__().name == name
    assert attention.current_flash_attention_impl() is None
