"""A KV cache in another dtype or place, against models whose keys and values are rounded by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.attention.cache import window as cache_module
from lcbench.attention.cache.buffer import rounded
from lcbench.attention.cache.growing import GrowingLayer, key_storage
from lcbench.core.errors import UserError
from lcbench.engine.generate import generate
from lcbench.engine.prefix_cache import PrefixCache
from lcbench.engine.score import score_tokens
from tests.attention import zoo

N = 60
METHODS = [
    "vanilla",
    "dca:chunk_size=18,max_position=21",
    "self_extend:group_size=3,neighbor_window=10",
    "yarn:factor=2",
    "duo_attention:full_heads=[1:0],sinks=2,window=9",
]
FP8, BF16 = "float8_e4m3fn", "bfloat16"
HELD = [{"kv_dtype": FP8}, {"kv_dtype": BF16}, {"kv_offload": True}, {"kv_dtype": FP8, "kv_offload": True}]


def llama() -> PreTrainedModel:
    """In float64, where two ways of summing agree so well that nothing falls to either side of a rounding."""
    return zoo.llama().double()


@contextmanager
def keys_rounded_by_hand(model: PreTrainedModel, dtype: str) -> Iterator[None]:
    """What Llama's projections make are its un-rotated keys, and its values."""
    narrow = getattr(torch, dtype)

    def by_hand(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        most = torch.finfo(narrow).max
        return output.clamp(-most, most).to(narrow).to(output.dtype)

    with ExitStack() as stack:
        for layer in model.model.layers:
            for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                stack.callback(projection.register_forward_hook(by_hand).remove)
        yield


@torch.no_grad()
def in_calls(model: PreTrainedModel, ids: Tensor, *sizes: int, **options: Any) -> Tensor:
    cache = DynamicCache(config=model.config)
    chunks = torch.split(ids, list(sizes), dim=1)
    return torch.cat([model(chunk, past_key_values=cache, **options).logits for chunk in chunks], dim=1)


@pytest.mark.parametrize("held", HELD, ids=str)
@pytest.mark.parametrize("spec", METHODS)
def test_as_keys_that_are_rounded_by_hand(spec: str, held: dict[str, Any]) -> None:
    model, ids = llama(), zoo.tokens(2, N)
    with torch.no_grad(), lcbench.extend(model, spec, length=N) as steered:
        plain = steered(ids, use_cache=False).logits
        with keys_rounded_by_hand(model, held.get("kv_dtype", "float64")):
            expected = steered(ids, use_cache=False).logits
    with lcbench.extend(model, spec, length=N, **held) as steered:
        for sizes in ((N,), (30, 25, 1, 1, 1, 1, 1)):
            torch.testing.assert_close(in_calls(steered, ids, *sizes), expected, rtol=1e-9, atol=1e-9)
    assert ("kv_dtype" in held) == bool((plain - expected).abs().max() > 1e-3)


@pytest.mark.parametrize("held", HELD[2:], ids=str)
def test_rows_with_padding(held: dict[str, Any]) -> None:
    model = llama()
    ids, mask = zoo.left_padded(zoo.tokens(2, 40), [0, 9])
    with torch.no_grad(), lcbench.extend(model, "dca:chunk_size=18,max_position=21", length=40, **held) as steered:
        both = steered(ids, attention_mask=mask, past_key_values=DynamicCache()).logits
        alone = steered(ids[1:, 9:], past_key_values=DynamicCache()).logits
    torch.testing.assert_close(both[1:, 9:], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2, 100])
def test_few_heads_at_a_time(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = llama(), zoo.tokens(1, N)
    with lcbench.extend(model, "dca", length=N, kv_dtype=FP8) as steered:
        expected = in_calls(steered, ids, N)
        monkeypatch.setattr(cache_module, "CONVERTED_AT_ONCE", heads * 2 * N * 16 * 8)
        largest = [0]
        monkeypatch.setattr(
            "lcbench.attention.attend._as_stored",
            lambda x, memory, q: largest.append(x.shape[1]) or rounded(x, memory.dtype).to(q.dtype),
        )
        torch.testing.assert_close(in_calls(steered, ids, N), expected)
    assert max(largest) == min(heads, 2)


def test_numbers_beyond_a_dtype() -> None:
    x = torch.tensor([1e6, -1e6, 3.0, 447.0, float("inf"), float("nan")])
    assert rounded(x, torch.float8_e4m3fn).float()[:5].tolist() == [448, -448, 3, 448, 448]
    assert rounded(x, torch.float8_e4m3fn).float()[5].isnan()
    assert rounded(x, torch.float16)[:2].tolist() == [65504, -65504]
    assert rounded(x, torch.float32) is x and rounded(x, None) is x
    assert rounded(x.half(), torch.float32).dtype == torch.float32


def test_what_the_cache_holds() -> None:
    model, ids = zoo.llama(), zoo.tokens(1, N)
    for dtype, held in ((FP8, torch.float8_e4m3fn), (BF16, torch.bfloat16), ("float32", None), ("auto", None)):
        cache = DynamicCache(config=model.config)
        with torch.no_grad(), lcbench.extend(model, "vanilla", length=N, kv_dtype=dtype) as steered:
            for chunk in torch.split(ids, [50, 1, 9], dim=1):
                steered(chunk, past_key_values=cache)
        for layer in cache.layers:
            assert isinstance(layer, GrowingLayer)
            assert layer.keys.dtype == layer.values.dtype == (held or torch.float32)
            assert layer.keys.shape == (1, 2, N, 16) and layer.get_seq_length() == N
            assert bool(layer._rotated_keys) == (held is None)  # they would take what rounding saved


@pytest.mark.parametrize("held", HELD, ids=str)
def test_prefixes_are_reused(held: dict[str, Any]) -> None:
    model = llama()
    one, other = zoo.tokens(1, 40)[0].tolist(), zoo.tokens(1, 50, seed=2)[0].tolist()
    other[:30] = one[:30]
    with lcbench.extend(model, "dca", length=N, **held) as steered:
        prefixes = PrefixCache(model.config)
        expected = [generate(steered, prompt, 6).tokens for prompt in (one, other)]
        found = [generate(steered, prompt, 6, prefixes=prefixes) for prompt in (one, other)]
    assert [answer.tokens for answer in found] == expected and found[1].reused == 30


@pytest.mark.parametrize("held", HELD, ids=str)
def test_layer_by_layer(held: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.engine.score.PREFILL_CHUNK", 16)
    model, tokens = zoo.build(zoo.ARCHITECTURES["gemma3"]()).double(), zoo.tokens(1, N)[0].tolist()
    with lcbench.extend(model, "dca", length=N, **held) as steered:
        expected = score_tokens(steered, tokens).nll
        torch.testing.assert_close(score_tokens(steered, tokens, layerwise=True).nll, expected)


def test_what_cannot_be_held_so() -> None:
    model, ids = zoo.llama(), zoo.tokens(1, 20)
    with pytest.raises(UserError, match="unknown KV dtype 'fp8'"):
        key_storage("fp8", False, model)
    forgetful = lcbench.extend(model, "fot:memory_layers=[1]", kv_dtype=FP8)
    with pytest.raises(UserError, match="fot drops keys and does not support"), forgetful:
        pass
    filled = DynamicCache(config=model.config)
    with torch.no_grad(), lcbench.extend(model, "vanilla", length=N) as steered:
        steered(ids, past_key_values=filled)
    static = StaticCache(config=model.config, max_cache_len=N)
    with lcbench.extend(model, "vanilla", length=N, kv_dtype=FP8) as steered, torch.no_grad():
        for cache in (filled, static, None):
            with pytest.raises(UserError, match="cannot store keys as this block does"):
                steered(ids, past_key_values=cache, use_cache=cache is not None)
        with torch.enable_grad(), pytest.raises(UserError, match="has no gradients"):
            steered(ids, past_key_values=DynamicCache())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["auto", FP8])
def test_offloaded_from_a_gpu(dtype: str) -> None:
    model, ids = zoo.llama().cuda(), zoo.tokens(1, N).cuda()
    with lcbench.extend(model, "dca", length=N, kv_dtype=dtype) as steered:
        expected = in_calls(steered, ids, 50, *[1] * 10)
    with torch.no_grad(), lcbench.extend(model, "dca", length=N, kv_dtype=dtype, kv_offload=True) as steered:
        torch.testing.assert_close(in_calls(steered, ids, 50, *[1] * 10), expected)
        cache = DynamicCache(config=model.config)
        steered(ids, past_key_values=cache)
    assert all(layer.keys.device.type == "cpu" and layer.keys.is_pinned() for layer in cache.layers)
