"""Layer by layer: the same numbers as through a cache, one layer's keys at a time, and a refusal where it cannot be.

That the numbers are those of the plain forward pass is in test_score.py.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel

import lcbench
from lcbench.core.errors import UnsupportedModelError
from lcbench.engine import score
from lcbench.engine.footprint import footprint
from lcbench.engine.layerwise import LayerStack
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.score import score_tokens
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.pieces import Piece
from tests.attention import zoo

LLAMA_3_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
TOKENS = zoo.tokens(1, 61)[0].tolist()
DCA, SELF_EXTEND = "dca:chunk_size=12,max_position=15", "self_extend:group_size=3,neighbor_window=6"
FOT = "fot:memory_layers=[1],context_length=24,last_context_length=16"
CASES = [
    ("gemma3", DCA),
    ("gemma2", SELF_EXTEND),
    ("gpt-oss", DCA),
    ("qwen2-sliding", SELF_EXTEND),
    ("smollm3", "yarn:factor=2"),
    ("qwen3-moe", "logn"),
    ("llama-dynamic", DCA),
    ("phi3-longrope", SELF_EXTEND),
    ("gemma3", "fot:memory_layers=[1],context_length=24,mem_dtype=bfloat16"),
    ("llama", f"{FOT},variant=streaming"),
    ("llama", FOT),
    ("llama", "streaming:window=9"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "PREFILL_CHUNK", 16)
    monkeypatch.setattr(score, "TILE_LOGITS", 7 * zoo.SHAPE["vocab_size"])


@pytest.mark.parametrize(("name", "method"), CASES)
def test_as_through_a_cache(name: str, method: str) -> None:
    model = zoo.build(zoo.ARCHITECTURES[name]()).double()
    with lcbench.extend(model, method, length=len(TOKENS)) as steered:
        expected = score_tokens(steered, TOKENS, 3).nll
        found = score_tokens(steered, TOKENS, 3, layerwise=True).nll
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("length", [2, 3, 16, 17, 33])
def test_texts_of_any_length(length: int) -> None:
    model = zoo.llama().double()
    expected = score_tokens(model, TOKENS[:length]).nll
    torch.testing.assert_close(score_tokens(model, TOKENS[:length], layerwise=True).nll, expected)


def test_one_layer_keeps_keys_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build(zoo.config("LlamaConfig"))
    caches: weakref.WeakSet[DynamicCache] = weakref.WeakSet()
    lengths: list[int] = []

    def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        caches.add(kwargs["past_key_values"])
        (layer,) = [layer for cache in caches for layer in cache.layers if layer.is_initialized]
        lengths.append(layer.get_seq_length())

    monkeypatch.setattr(score.LayerStack, "check", lambda *_: None)
    with lcbench.extend(model, "dca", length=61) as steered:
        hook = model.register_forward_hook(look, with_kwargs=True)
        score_tokens(steered, TOKENS, layerwise=True)
        hook.remove()
    assert lengths == [16, 32, 48, 60] * 4


def test_every_layer_sees_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build(zoo.config("LlamaConfig"))
    layers = list(model.model.layers)
    monkeypatch.setattr(score.LayerStack, "check", lambda *_: None)
    seen: list[tuple[int, int]] = []
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda _, __, output, number=number: seen.append((number, output.shape[1])))
    score_tokens(model, TOKENS, layerwise=True)
    assert seen == [(number, size) for number in range(4) for size in (16, 16, 16, 12)]
    assert list(model.model.layers) == layers


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3-moe", "gpt-oss"])
def test_logits_of_hidden_states_are_the_models_own(name: str) -> None:
    """Of the last layer's output those that the model gives; of any other, those of the model without the layers behind
    it."""
    model = zoo.build(zoo.ARCHITECTURES[name]()).double()
    ids = torch.tensor([TOKENS])
    states: list[Tensor] = []
    layers = list(model.model.layers)
    hooks = [layer.register_forward_hook(lambda _, __, output: states.append(output[0])) for layer in layers]
    with torch.no_grad():
        own = model(ids, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    stack = LayerStack(model)
    torch.testing.assert_close(stack.logits_of(states[-1]), own)
    assert list(model.model.layers) == layers
    whole, model.model.layers = model.model.layers, model.model.layers[:1]
    with torch.no_grad():
        shorter = model(ids, use_cache=False).logits[0]
    model.model.layers = whole
    torch.testing.assert_close(stack.logits_of(states[0]), shorter)


def carries(model: PreTrainedModel) -> None:
    """Something goes past the hidden states, from the first layer to the last."""
    carried: list[Tensor] = []
    model.model.layers[0].register_forward_hook(lambda _, __, output: carried.append(output))
    model.model.layers[-1].register_forward_pre_hook(lambda _, args: (args[0] + carried[-1].mean(1, True), *args[1:]))


def test_what_is_no_plain_stack_is_refused() -> None:
    words = "is not a plain stack of layers that pass on hidden states alone"
    tuples = zoo.build(zoo.config("FalconConfig", new_decoder_architecture=True, num_kv_heads=2))
    hybrid = zoo.build(
        zoo.config(
            "Qwen3NextConfig",
            head_dim=32,
            layer_types=["linear_attention", "full_attention"] * 2,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
        )
    )
    past = zoo.llama()
    carries(past)
    for model in (tuples, hybrid, past):
        modules = list(model.modules())
        expected = score_tokens(model, TOKENS).nll
        with pytest.raises(UnsupportedModelError, match=words):
            score_tokens(model, TOKENS, layerwise=True)
        assert list(model.modules()) == modules
        assert torch.equal(score_tokens(model, TOKENS).nll, expected)


def test_what_the_pass_of_an_8b_model_keeps() -> None:
    """Llama 3 8B, bfloat16: 8 key heads of 128 channels, 4096 hidden; a cache of 8 bits is half as large."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA_3_8B)
    need = footprint(model, torch.bfloat16)
    assert need.layerwise(Method(), 2**20) == 12 * 2**30 and need.kv_cache(Method(), 2**20) == 128 * 2**30
    dca = parse_method("dca").resolve(Lengths(8192, 2**20))
    for method in (Method(), dca):  # a layer keeps each key once more while it decodes
        assert need.rotated_keys(method, 2**20) == 64 * 2**30
    assert footprint(model, torch.bfloat16, kv_offload=True).rotated_keys(dca, 2**20) == 0
    assert footprint(model, torch.bfloat16, torch.float8_e4m3fn).layerwise(Method(), 2**20) == 10 * 2**30


class Near(Method):
    """Sees 16 keys and keeps all: what it costs grows with the text alone."""

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        return [Piece(i, j, start=(i - 15).clamp(min=0), stop=i + 1)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here")
def test_memory_is_that_of_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 layers by 4000 tokens: 188 MiB of keys and values in a cache, 16 in a layer, 1 of hidden states."""
    model = zoo.build(zoo.config("LlamaConfig", num_hidden_layers=12, head_dim=128, num_key_value_heads=4))
    ids = zoo.tokens(1, 4000)[0].tolist()
    monkeypatch.setattr(score, "PREFILL_CHUNK", 512)
    cpu, peaks = torch.device("cpu"), []
    with lcbench.extend(model, Near(), length=4000) as steered:
        for layerwise in (True, False):
            score_tokens(steered, ids[:600], layerwise=layerwise)
            gc.collect()
            if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
                libc.malloc_trim(0)  # what earlier tests have freed must not serve this one
            reset_peak_memory(cpu)
            before = peak_memory(cpu)
            score_tokens(steered, ids, layerwise=layerwise)
            peaks.append(peak_memory(cpu) - before)
    assert peaks[0] < peaks[1] - 120 * 2**20
