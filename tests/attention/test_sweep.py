"""Every causal language model that transformers knows: exact, or refused by name; never wrong, never a crash.

Each is built tiny from its own config class. What cannot be built tiny is skipped and says why.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import lcbench
from lcbench.core.errors import UnsupportedModelError, UserError
from tests.attention import zoo
from tests.attention.oracle import reference_logits

pytestmark = pytest.mark.slow
MOST_PARAMETERS = 3e8
SECONDS = 60
N = 40
Way = Callable[[PreTrainedModel, Tensor], Tensor]
PLAN = "self_extend:group_size=3,neighbor_window=10+logn:base=9"

# The model types that must be exact, where the installed transformers has them.
MUST_BE_EXACT = """
afmoe apertus arcee aria_text bamba beam bitnet cohere cohere2 cohere2_moe cohere_compass_text cwm dots1 ernie4_5
ernie4_5_moe exaone4 exaone_moe falcon_h1 flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text
gemma4 gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text glm glm4 glm4_moe got_ocr2 gpt_neox
gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hy_v3 hyperclovax
internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 lfm2_moe lfm3 llama mellum mimo_v2_flash minimax minimax_m2
minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder moshi moss_transcribe_diarize nemotron olmo
olmo2 olmo3 olmo_hybrid olmoe persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text
qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma zaya
"""
EXACT = set(MUST_BE_EXACT.split())

TINY: dict[str, Any] = {
    **{key: zoo.SHAPE[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads")},
    **dict.fromkeys(("n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("ffn_dim", "ffn_hidden_size", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("head_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_shared_experts", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("rotary_dim", "sliding_window", "hidden_size_per_layer_input"), 8),
    "num_experts_per_tok": 2,
    "vocab_size_per_layer_input": 101,
    "max_position_embeddings": 256,
}
# What a config class wants beyond that to be tiny and consistent; an option that is None is left out.
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), zoo.rope_parameters("default")),
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "gemma3n": {"num_kv_shared_layers": 0},
    "gemma4": {"num_kv_shared_layers": 0, "global_head_dim": 32},
    "granitemoehybrid": {  # Granite 4.0 of 350 million and 1 billion weights
        "layer_types": ["attention", "attention"],
        "position_embedding_type": "rope",
        "num_local_experts": 0,
        "shared_intermediate_size": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
    },
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
}
for hybrid in ("bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2"):
    MORE[hybrid] = {"layer_types": None, **MORE.get(hybrid, {})}  # not an option there, whatever its config says
MORE |= {"gemma3n_text": MORE["gemma3n"]}
MORE |= dict.fromkeys(("gemma4_text", "gemma4_unified", "gemma4_unified_text"), MORE["gemma4"])


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The class's default config, made small wherever it has the option; every type of layer that it has, once."""
    default = CONFIG_MAPPING[model_type]().get_text_config()
    has = default.to_dict()
    options = {key: value for key, value in TINY.items() if has.get(key) is not None}
    if "qk_rope_head_dim" in has:  # latent attention: its head size follows, and it has no grouped heads
        options = {**options, "num_key_value_heads": 4}
        options.pop("head_dim", None)
    if getattr(default, "layer_types", None) and not isinstance(getattr(type(default), "layer_types", None), property):
        kinds = list(dict.fromkeys(default.layer_types))
        options["num_hidden_layers"] = max(2, len(kinds))
        options["layer_types"] = (kinds * 2)[: options["num_hidden_layers"]]
    options |= {"pad_token_id": 0, **MORE.get(model_type, {})}
    return type(default)(**{key: value for key, value in options.items() if value is not None})


def build(model_type: str, ids: Tensor) -> tuple[PreTrainedModel, Tensor]:
    """A tiny random model and its native logits."""
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"{size / 1e6:.0f} million parameters")
    model = zoo.build(config)
    logits = model(ids, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ValueError("native logits are not finite")
    return model, logits


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def in_calls(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Prefill in two calls, then decode, with whatever cache the model makes."""
    positions = torch.arange(N)[None]
    first = model(ids[:, :20], use_cache=True)
    out = [first.logits]
    for a, b in [(20, 37), (37, 38), (38, N)]:
        call = model(ids[:, a:b], position_ids=positions[:, a:b], past_key_values=first.past_key_values)
        out.append(call.logits)
    return torch.cat(out, dim=1)


def left_padded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    padded, mask = zoo.left_padded(ids.repeat(2, 1), [0, 11])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[mask.bool()]


def whole(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


def under(method: str, model: PreTrainedModel, way: Way, ids: Tensor) -> Tensor | UserError:
    """The logits under a method, or why there are none."""
    try:
        with lcbench.extend(model, method, length=N):
            return way(model, ids)
    except UserError as refusal:
        return refusal


@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
@torch.no_grad()
def test_exact_or_refused(model_type: str) -> None:
    ids = zoo.tokens(1, N)
    with time_limit(SECONDS):
        try:
            model, native = build(model_type, ids)
        except Exception as error:
            if model_type in EXACT:
                raise
            pytest.skip(f"not built tiny: {type(error).__name__}: {str(error).strip()[:100]}")
        actual = under("vanilla", model, whole, ids)
        if isinstance(actual, UserError):
            assert isinstance(actual, UnsupportedModelError) and type(model).__name__ in str(actual)
            assert model_type not in EXACT
            return
        assert distance(actual, native) < 1e-4
        assert torch.equal(whole(model, ids), native)
        for way in (in_calls, left_padded):
            expected, actual = way(model, ids), under("vanilla", model, way, ids)
            if isinstance(actual, UserError):  # a model that makes a sliding cache for layers that see everything
                assert "its cache drops keys" in str(actual)
            else:
                assert distance(actual, expected) < 1e-4, way.__name__
        actual = under(PLAN, model, whole, ids)
        if isinstance(actual, UserError):
            assert "steers no layer" in str(actual)
            return
        block = lcbench.extend(model, PLAN, length=N)
        assert distance(actual, reference_logits(model, ids, block.method, block.lengths, torch.float32)) < 1e-4


def test_enough_of_them_are_exact() -> None:
    """Each of them is held to it above."""
    assert len(EXACT & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) >= 73
