"""Every way to a KV cache takes the fast one, or says that it does not: the model's own, one that was used in another
block, a static one."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.window import WindowLayer
from tests.attention import zoo

N, PROMPT = 60, 48
FOT = "fot:memory_layers=[1],context_length=24,last_context_length=8,prompt_length=48"


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return zoo.llama().double()


@torch.no_grad()
def token_by_token(model: PreTrainedModel, held: Cache | None, first: int, ids: Tensor) -> tuple[Tensor, Cache]:
    """Logits from the token `first` on, one by one, and the cache that the model gave back."""
    calls = []
    for n in range(first, ids.shape[1]):
        call = model(ids[:, n : n + 1], past_key_values=held, use_cache=True)
        calls.append(call.logits)
        held = call.past_key_values
    return torch.cat(calls, dim=1), held


@pytest.mark.parametrize("spec", ["dca:chunk_size=18,max_position=21", "streaming:sinks=3,window=12", FOT])
@torch.no_grad()
def test_the_cache_that_the_model_makes(model: PreTrainedModel, spec: str) -> None:
    ids = zoo.tokens(2, N)
    with lcbench.extend(model, spec, length=N):
        expected = model(ids, use_cache=False).logits[:, PROMPT:]
        held = model(ids[:, :PROMPT], use_cache=True).past_key_values
        logits, held = token_by_token(model, held, PROMPT, ids)
    # FoT counts positions from the first window of a call, and angles are of float32.
    torch.testing.assert_close(logits, expected, atol=1e-5 if spec == FOT else 1e-9, rtol=0)
    kind = WindowLayer if spec == FOT else GrowingLayer
    assert all(type(layer) is kind for layer in held.layers)
    assert (kind is WindowLayer) == all(layer.keys.shape[2] < N for layer in held.layers)


@torch.no_grad()
def test_another_block_rotates_anew(model: PreTrainedModel) -> None:
    """Keys stand at the same positions there, but turn at other frequencies."""
    ids, held = zoo.tokens(1, N), DynamicCache(config=model.config)
    with lcbench.extend(model, "vanilla"):
        model(ids[:, :PROMPT], past_key_values=held)
        token_by_token(model, held, PROMPT, ids[:, : PROMPT + 4])
        fresh = copy.deepcopy(held)
    for layer in fresh.layers:
        layer.leave_buffers()
    answers = []
    for each in (held, fresh):
        with lcbench.extend(model, "ntk:factor=4"):
            answers.append(token_by_token(model, each, PROMPT + 4, ids)[0])
    torch.testing.assert_close(*answers, atol=1e-12, rtol=0)


def test_a_slow_cache_is_named_once(model: PreTrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    static = StaticCache(config=model.config, max_cache_len=N)
    with caplog.at_level(logging.WARNING, "lcbench"), lcbench.extend(model, "vanilla"):
        token_by_token(model, static, 0, zoo.tokens(1, 4))
    assert [record.message.split(" keeps")[0] for record in caplog.records] == ["this StaticCache"]
