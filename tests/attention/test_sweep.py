"""Every causal language model that transformers knows: exact, or refused by name; never wrong, never a crash.

Each is built tiny from its own config class. What cannot be built tiny is skipped and says why.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
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
from lcbench.errors import UnsupportedModelError, UserError
from tests.attention import zoo
from tests.attention.oracle import reference_logits

pytestmark = pytest.mark.slow
MOST_PARAMETERS = 3e8
SECONDS = 60
N = 40
PLAN = "self_extend:group_size=3,neighbor_window=10+logn:base=9"

# The model types that must be exact, where the installed transformers has them.
EXACT = set(
    """
    afmoe apertus arcee aria_text bamba beam bitnet cohere cohere2 cohere2_moe cwm ernie4_5 ernie4_5_moe exaone4
    exaone_moe falcon_h1 flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text
    gemma4_unified gemma4_unified_assistant gemma4_unified_text glm glm4 glm4_moe got_ocr2 gpt_neox gpt_oss granite
    granite_swa granitemoe granitemoe_swa granitemoeshared helium hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe
    kolibri1 laguna lfm2 lfm3 llama mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text ministral ministral3
    mistral mixtral modernbert-decoder moshi moss_transcribe_diarize nemotron olmo olmo2 olmo3 olmo_hybrid olmoe persimmon
    phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss
    smollm3 solar_open stablelm starcoder2 vaultgemma zaya
    """.split()
)

TINY: dict[str, Any] = {
    **{key: zoo.SHAPE[key] for key in ("vocab_size", "hidden_size", "intermediate_size")},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    **{"n_embd": 64, "n_layer": 2, "n_head": 4, "d_model": 64, "num_layers": 2, "num_heads": 4, "rotary_dim": 8},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
    **{"topk_group": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "first_k_dense_replace": 1},
    **{"num_shared_experts": 1, "n_shared_experts": 1, "ffn_dim": 96, "ffn_hidden_size": 96, "sliding_window": 8},
    **{"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16},
    **{"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "vocab_size_per_layer_input": 101},
    **{"hidden_size_per_layer_input": 8, "max_position_embeddings": 256},
}
# What a config class wants beyond that to be tiny and consistent; an option that is None is left out.
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gemma3n": {"num_kv_shared_layers": 0},
    "gemma4": {"num_kv_shared_layers": 0, "global_head_dim": 32},
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
    """The last logits of a prefill in two calls, then a token at a time, with whatever cache the model makes."""
    first = model(ids[:, :20], use_cache=True)
    cache = first.past_key_values
    return torch.cat([model(ids[:, a:b], past_key_values=cache).logits for a, b in [(20, 37), (37, 38), (38, N)]], 1)


def left_padded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    padded, mask = zoo.left_padded(ids.repeat(2, 1), [0, 11])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[mask.bool()]


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
        try:
            with lcbench.extend(model, "vanilla"):
                assert distance(model(ids, use_cache=False).logits, native) < 1e-4
        except UnsupportedModelError as refusal:
            assert type(model).__name__ in str(refusal)
            assert model_type not in EXACT
            return
        assert torch.equal(model(ids, use_cache=False).logits, native)
        for way in (in_calls, left_padded):
            try:
                expected = way(model, ids)
            except Exception:
                print("WAY", model_type, way.__name__)
                continue
            with lcbench.extend(model, "vanilla"):
                assert distance(way(model, ids), expected) < 1e-4, way.__name__
        steering = lcbench.extend(model, PLAN, length=N)
        try:
            with steering:
                actual = model(ids, use_cache=False).logits
        except UserError as refusal:
            assert "steers no layer" in str(refusal)
            return
        expected = reference_logits(model, ids, steering.method, steering.lengths, torch.float32)
        assert distance(actual, expected) < 1e-4


def test_enough_of_them_are_exact() -> None:
    """Each of them is held to it above."""
    assert len(EXACT & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) >= 73
