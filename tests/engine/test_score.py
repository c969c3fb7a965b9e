"""Likelihoods of tokens against the plain forward pass, whatever the architecture does behind its hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import UnsupportedModelError
from lcbench.engine import score
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.score import score_tokens
from tests.attention import zoo

TOKENS = zoo.tokens(1, 60)[0].tolist()
FOLLOWS_LENGTH = {"llama-longrope"}  # one pass over all of a text, and two over its parts, are not the same to it
METHODS = ("vanilla", "dca:chunk_size=12,max_position=15", "self_extend:group_size=3,neighbor_window=6", "streaming")
METHODS += ("yarn:factor=2", "logn", "fot:memory_layers=[1]")
both_ways = pytest.mark.parametrize("layerwise", [False, True])


def truth(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """One pass, all logits, the formula as it stands in books: float64 [T - 1]."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double().tolist()
    most = list(map(max, logits))
    total = [math.log(sum(math.exp(value - top) for value in row)) + top for row, top in zip(logits, most, strict=True)]
    return torch.tensor([total[n] - logits[n][token] for n, token in enumerate(tokens[1:])], dtype=torch.float64)


def small(monkeypatch: pytest.MonkeyPatch, chunk: int, tile: int) -> None:
    """Chunks of so many tokens, tiles of so many rows."""
    monkeypatch.setattr(score, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(score, "TILE_LOGITS", tile * zoo.SHAPE["vocab_size"])


@pytest.mark.parametrize("name", sorted(zoo.ARCHITECTURES.keys() - FOLLOWS_LENGTH))
def test_as_the_plain_forward_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = zoo.ARCHITECTURES[name]()
    if name == "granite":
        config.logits_scaling = 3.0
    if name.startswith("cohere"):
        config.logit_scale = 0.25
    model = zoo.build(config).double()
    expected = truth(model, TOKENS)
    small(monkeypatch, chunk=16, tile=7)
    for layerwise in (False, True) if name != "gemma4" else (False,):  # whose layers hand on keys as well
        found = score_tokens(model, TOKENS, layerwise=layerwise).nll
        assert found.dtype == torch.float32 and found.device.type == "cpu"
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


@both_ways
@pytest.mark.parametrize("method", METHODS)
def test_in_a_steered_block(method: str, layerwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.llama().double()
    with lcbench.extend(model, method, length=60) as steered:
        expected = truth(steered, TOKENS)
        small(monkeypatch, chunk=16, tile=7)
        found = score_tokens(steered, TOKENS, layerwise=layerwise).nll
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", [1, 2, 15, 16, 17, 33, 59])
def test_scored_from(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.llama().double()
    expected = truth(model, TOKENS)
    small(monkeypatch, chunk=16, tile=7)
    torch.testing.assert_close(score_tokens(model, TOKENS, first).nll, expected[first - 1 :].float())


@pytest.mark.parametrize("first", [0, 60, -1])
def test_what_cannot_be_scored(first: int) -> None:
    with pytest.raises(ValueError, match="cannot be scored"):
        score_tokens(zoo.llama(), TOKENS, first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_few_bits_are_summed_with_more(dtype: torch.dtype) -> None:
    model = zoo.llama().to(dtype)
    torch.testing.assert_close(score_tokens(model, TOKENS).nll, truth(model, TOKENS).float(), rtol=2e-2, atol=3e-2)
    logits = torch.zeros(1, 5000, dtype=dtype)
    logits[0, 0] = -16  # all equal ones would be no answer
    nll = score._nll(logits, torch.tensor([3]))
    assert abs(float(nll) - math.log(4999)) < 1e-5 and nll.dtype == torch.float32


def test_no_tile_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.llama()
    small(monkeypatch, chunk=32, tile=5)
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _, __, output: rows.append(output.shape[1]))
    score_tokens(model, TOKENS)
    hook.remove()
    assert max(rows) == 5 and sum(rows) == 59 + 2 + 1  # each once; the last of two chunks; the check


def test_the_model_is_as_before_and_every_token_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.llama()
    small(monkeypatch, chunk=16, tile=7)
    read: list[int] = []
    calls: list[int] = []
    hooks = [
        model.model.register_forward_hook(lambda _, __, output: read.append(output.last_hidden_state.shape[1])),
        model.register_forward_hook(lambda *_: calls.append(1)),
    ]
    body, modules = model.model, list(model.modules())
    score_tokens(model, TOKENS)
    assert read == [16, 16, 16, 11] and len(calls) == 4
    assert model.model is body and list(model.modules()) == modules and len(body._forward_hooks) == 1
    hooks.append(model.lm_head.register_forward_hook(lambda *_: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        score_tokens(model, TOKENS)
    assert model.model is body and len(body._forward_hooks) == 1
    for hook in hooks:
        hook.remove()


def test_what_stands_behind_a_wrapped_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate, for one, puts a function of its own in the place of a module's forward."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = zoo.build(zoo.ARCHITECTURES["gemma2"]()).double()
    expected = truth(model, TOKENS)
    for module in (model, model.model, model.lm_head):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    small(monkeypatch, chunk=16, tile=7)
    torch.testing.assert_close(score_tokens(model, TOKENS).nll, expected.float(), rtol=1e-6, atol=1e-6)


class Twist(nn.Module):
    """A head that does not follow from the hidden states it gets."""

    calls = 0

    def forward(self, states: Tensor) -> Tensor:
        self.calls += 1
        return states @ torch.arange(64 * 101.0).view(64, 101) * self.calls


def test_a_model_that_cannot_be_taken_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = zoo.llama()
    model.lm_head = Twist()
    with pytest.raises(UnsupportedModelError, match="the logits of LlamaForCausalLM do not follow from"):
        score_tokens(model, TOKENS)
    plain = zoo.llama()
    monkeypatch.setattr(type(plain), "base_model_prefix", "nothing_here")
    with pytest.raises(UnsupportedModelError, match="its `nothing_here` alone"):
        score_tokens(plain, TOKENS)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here")
def test_memory_does_not_grow_with_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """6000 tokens of a vocabulary of 50000 are 1.1 GiB of logits; a tile of 2^22 is 16 MiB."""
    model = zoo.llama(vocab_size=50_000)
    ids = zoo.tokens(1, 6000)[0].tolist()
    monkeypatch.setattr(score, "TILE_LOGITS", 2**22)
    monkeypatch.setattr(score, "PREFILL_CHUNK", 512)
    cpu = torch.device("cpu")
    with lcbench.extend(model, "streaming:window=32", length=6000) as steered:
        score_tokens(steered, ids[:600])
        reset_peak_memory(cpu)
        before = peak_memory(cpu)
        score_tokens(steered, ids)
    assert peak_memory(cpu) - before < 200 * 2**20
