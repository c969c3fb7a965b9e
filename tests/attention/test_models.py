"""Architectures: vanilla is the model's own attention, methods equal the reference, the rest is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.pieces import Piece
from tests.attention import zoo
from tests.attention.oracle import reference_logits

N = 60
ATOL = 1e-4
PLAN = "self_extend:group_size=3,neighbor_window=10"
STEERABLE = [arch for arch in zoo.ARCHITECTURES if arch not in zoo.WITHOUT_ROTATION_IN_FULL_LAYERS]
every_architecture = pytest.mark.parametrize("arch", zoo.ARCHITECTURES)


@cache
def model_of(arch: str) -> PreTrainedModel:
    return zoo.build(zoo.ARCHITECTURES[arch]())


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=ATOL, rtol=0)


@every_architecture
@torch.no_grad()
def test_prefill_is_native(arch: str) -> None:
    """Padded at the left as well."""
    model, ids = model_of(arch), zoo.tokens(2, N)
    padded, mask = zoo.left_padded(ids, [0, 17])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = model(ids).logits
    of_padded = model(padded, attention_mask=mask, position_ids=positions).logits
    assert expected.abs().max() > 1  # else the tolerance would be none
    with lcbench.extend(model, "vanilla", length=N):
        assert_close(model(ids).logits, expected)
        actual = model(padded, attention_mask=mask, position_ids=positions).logits
    assert_close(actual[0], of_padded[0])
    assert_close(actual[1, 17:], of_padded[1, 17:])


@every_architecture
@pytest.mark.parametrize("cache", ["dynamic", pytest.param("static", marks=pytest.mark.slow)])
@torch.no_grad()
def test_greedy_generation_is_native(arch: str, cache: str) -> None:
    model = model_of(arch)
    ids, mask = zoo.left_padded(zoo.tokens(2, 40), [0, 9])
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    if cache == "static":
        options["disable_compile"] = True
    expected = model.generate(ids, attention_mask=mask, **options)
    with lcbench.extend(model, "vanilla", length=45):
        assert torch.equal(model.generate(ids, attention_mask=mask, **options), expected)


# Every architecture with a plan that groups positions, every other with one that also scales queries.
SCALED = "dca:chunk_size=18,max_position=21+logn:base=9"
PAIRS = [*((arch, PLAN) for arch in STEERABLE), *((arch, SCALED) for arch in STEERABLE[::2])]


@pytest.mark.parametrize(("arch", "spec"), PAIRS)
@torch.no_grad()
def test_plans_equal_the_reference(arch: str, spec: str) -> None:
    """Soft caps, sinks, own scaling, sliding and NoPE layers included; in chunks through the cache, and padded."""
    model, ids = model_of(arch), zoo.tokens(2, N)
    lengths = Lengths(model.config.max_position_embeddings, N)
    expected = reference_logits(model, ids, parse_method(spec).resolve(lengths), lengths)
    assert (expected - model(ids).logits).abs().max() > 0.02  # else the comparison would prove nothing
    padded, mask = zoo.left_padded(ids, [13, 0])
    with lcbench.extend(model, spec, length=N):
        assert_close(model(ids).logits, expected)
        cache, ends = DynamicCache(config=model.config), [25, 26, 27, N]
        calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in zip([0, *ends], ends)]
        assert_close(torch.cat(calls, dim=1), expected)
        actual = model(padded, attention_mask=mask).logits
    assert_close(actual[0, 13:], expected[0, : N - 13])
    assert_close(actual[1], expected[1])


@dataclass(frozen=True)
class LateLayersLocal(Method):
    """From layer 2 on, a window of 8 tokens."""

    layerwise = True

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        start = (i - 7).clamp(min=0) if layer >= 2 else torch.zeros_like(i)
        return [Piece(i, j, start=start, stop=i + 1)]


@torch.no_grad()
def test_pieces_may_differ_from_layer_to_layer() -> None:
    """One method makes of a full model what another config of it is."""
    model, sliding, ids = model_of("qwen2"), model_of("qwen2-sliding"), zoo.tokens(2, N)
    with lcbench.extend(model, LateLayersLocal()):
        assert_close(model(ids).logits, sliding(ids).logits)


@pytest.mark.parametrize(
    ("arch", "method", "steered"),
    [
        ("llama", "self_extend", 4),
        ("qwen2-sliding", "dca", 2),
        ("qwen2-sliding", "yarn", 4),  # one rotation for all layers: scaled everywhere, as its config would
        ("gemma2", "self_extend", 2),
        ("gemma2", "vanilla", 4),
        ("gemma3", "self_extend", 2),
        ("gemma3", "logn", 2),
        ("gemma3", "yarn", 2),  # a rotation of their own for sliding layers: left alone
        ("smollm3", "self_extend", 2),
        ("smollm3", "yarn", 2),
        ("smollm3", "streaming:window=9", 4),  # a plan that hides keys changes layers without positions, too
        ("smollm3", "logn", 4),
        ("cohere2", "streaming:window=9", 1),  # its full layer has no positions, its others slide
        ("mistral-sliding", "vanilla", 4),
        ("mistral-sliding", "pi", 4),
    ],
)
def test_layers_steered(arch: str, method: str, steered: int) -> None:
    steering = lcbench.extend(model_of(arch), method, length=130)
    with steering:
        assert steering.layers_steered == steered
        assert len(steering.layers) == 4
        assert steering.method == parse_method(method).resolve(Lengths(zoo.PRETRAINING, 130))


@pytest.mark.parametrize(
    ("arch", "method"), [("mistral-sliding", "self_extend"), ("mistral-sliding", "dca+logn"), ("cohere2", "dca")]
)
def test_a_method_that_would_change_nothing_is_refused(arch: str, method: str) -> None:
    model = model_of(arch)
    name = type(model).__name__
    label = parse_method(method).label.replace("+", r"\+")
    with (
        pytest.raises(UserError, match=rf"{label} steers no layer of {name}: .*sliding"),
        lcbench.extend(model, method, length=130),
    ):
        pass


def test_a_window_as_long_as_the_pretraining_length_is_full_attention(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the run: what is measured must not change with its length."""
    model = zoo.build(zoo.config("MistralConfig", sliding_window=100))
    full = zoo.build(zoo.config("MistralConfig", sliding_window=None))
    ids = zoo.tokens(1, 100)
    with lcbench.extend(full, "self_extend:group_size=4"), torch.no_grad():
        expected = full(ids).logits
    for length in (90, 100, 101, None):
        steering = lcbench.extend(model, "self_extend:group_size=4", length=length)
        with steering, torch.no_grad():
            assert steering.layers_steered == 4
            assert torch.equal(model(ids).logits, expected)
            with pytest.raises(UserError, match="has a sliding window of 100 tokens, which this run exceeds"):
                model(zoo.tokens(1, 101))
    assert caplog.messages == [
        "this run has 100 tokens, more than the given length of 90; correct length=...",
        "this run has 101 tokens, more than the given length of 100; correct length=...",
    ]


@pytest.mark.parametrize("length", [4, 8, 9, 64, 130, None])
def test_what_is_steered_does_not_follow_from_the_length(length: int | None) -> None:
    steering = lcbench.extend(model_of("gemma2"), "dca:chunk_size=8,max_position=9", length=length)
    with steering:
        assert steering.layers_steered == 2


@torch.no_grad()
def test_layers_that_read_the_keys_of_others(caplog: pytest.LogCaptureFixture) -> None:
    """For a prompt, generation runs them for the last query alone. Methods that choose keys would choose twice."""
    model, ids = model_of("gemma4"), zoo.tokens(1, N)
    with lcbench.extend(model, PLAN, length=N):
        cache = DynamicCache(config=model.config)
        last = model(ids[:, :40], past_key_values=cache, logits_to_keep=1).logits
        assert_close(last, model(ids[:, :40], use_cache=False).logits[:, -1:])
        assert_close(model(ids[:, 40:41], past_key_values=cache).logits, model(ids[:, :41]).logits[:, -1:])
    assert not caplog.messages  # rotated keys are kept
    with (
        pytest.raises(UnsupportedModelError, match=r"snapkv .* some layers of .* read the keys of earlier ones: 3;"),
        lcbench.extend(model, "snapkv", length=N),
    ):
        pass


def test_a_model_without_any_rotation_in_its_layers_is_refused() -> None:
    model = zoo.build(zoo.config("SmolLM3Config", no_rope_layers=[0, 0, 0, 0]))
    with pytest.raises(
        UserError, match="self_extend steers no layer of SmolLM3ForCausalLM: none of its 4 layers rotates"
    ):
        lcbench.extend(model, "self_extend", length=130).__enter__()


SMALL = {"vocab_size": 101, "num_hidden_layers": 2}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "FalconConfig": (
        {"hidden_size": 64, "num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2},
        "FalconForCausalLM .*AttentionInterface",
    ),
    "GPTJConfig": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, "GPTJForCausalLM has no rotary_emb"),
    "BloomConfig": ({"hidden_size": 64, "n_layer": 2, "n_head": 4}, "BloomForCausalLM has no rotary_emb"),
    "GPT2Config": ({"n_embd": 64, "n_layer": 2, "n_head": 4}, "GPT2LMHeadModel has no rotary_emb"),
    "Llama4TextConfig": (
        {**zoo.SHAPE, "head_dim": 32, "num_local_experts": 2, "intermediate_size_mlp": 96, "attention_chunk_size": 64},
        r"Llama4ForCausalLM .*Llama4TextRotaryEmbedding does not return \(cos, sin\)",
    ),
    "DeepseekV3Config": (
        {
            **zoo.SHAPE,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16,
            "v_head_dim": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 4,
            "moe_intermediate_size": 32,
        },
        "layer 0 of DeepseekV3ForCausalLM: no known rotation",
    ),
    "HunYuanDenseV1Config": ({**zoo.SHAPE, "head_dim": 32}, "layer 0 of HunYuanDenseV1ForCausalLM: no known rotation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    options, message = REFUSED[name]
    model = zoo.build(getattr(transformers, name)(**{**options, **SMALL}))
    with pytest.raises(UnsupportedModelError, match=message), lcbench.extend(model, "vanilla"):
        pass
    ids = zoo.tokens(1, 5)
    assert model.config._attn_implementation == "eager" and torch.isfinite(model(ids).logits).all()
