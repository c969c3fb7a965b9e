"""Tiny random models of every kind, built in milliseconds, with weights that make attention matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

PRETRAINING = 64
SHAPE: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": PRETRAINING,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def config(name: str, **options: Any) -> PreTrainedConfig:
    """A config of class `name` in the tiny shape."""
    return getattr(transformers, name)(**{**SHAPE, **options})


def build(of: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model with eager attention. Norms and biases are not trivial, and attention is far from uniform."""
    torch.manual_seed(seed)
    of._experts_implementation = "eager"  # the fused one has no float64
    model = AutoModelForCausalLM.from_config(of, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim <= 1 or "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
            else:
                weight.mul_(5.0)
    return model


def llama(**options: Any) -> PreTrainedModel:
    return build(config("LlamaConfig", num_hidden_layers=2, **options))


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """Random token ids [rows, length] without the special ones."""
    return torch.randint(3, 100, (rows, length), generator=torch.Generator().manual_seed(seed))


def left_padded(ids: Tensor, pads: list[int]) -> tuple[Tensor, Tensor]:
    """Rows of ids, each shifted right by its number of pads (its last tokens fall off), and their attention mask."""
    out, mask = torch.zeros_like(ids), torch.ones_like(ids)
    for row, pad in enumerate(pads):
        out[row, pad:] = ids[row, : ids.shape[1] - pad]
        mask[row, :pad] = 0
    return out, mask


def rope_parameters(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **options}


ORIGINAL = {"original_max_position_embeddings": 16}
LONGROPE = rope_parameters(
    "longrope",
    short_factor=[1.0 + 0.1 * m for m in range(8)],
    long_factor=[2.0 + 0.5 * m for m in range(8)],
    factor=4.0,
    **ORIGINAL,
)
OWN_SCALING = {
    "linear": rope_parameters("linear", factor=4.0),
    "llama3": rope_parameters("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL),
    "yarn": rope_parameters("yarn", factor=4.0, attention_factor=1.3, **ORIGINAL),
    "dynamic": rope_parameters("dynamic", factor=2.0),
    "longrope": LONGROPE,
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_GPT_OSS_ROPE = rope_parameters("yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False, **ORIGINAL)

ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: config("LlamaConfig"),
    **{
        f"llama-{kind}": lambda kind=kind: config("LlamaConfig", rope_parameters=OWN_SCALING[kind].copy())
        for kind in OWN_SCALING
    },
    "mistral": lambda: config("MistralConfig", sliding_window=None),
    "mistral-sliding": lambda: config("MistralConfig", sliding_window=8),
    "mixtral": lambda: config("MixtralConfig", num_local_experts=4),
    "qwen2": lambda: config("Qwen2Config"),
    "qwen2-sliding": lambda: config("Qwen2Config", use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "qwen3": lambda: config("Qwen3Config", head_dim=32),
    "qwen3-moe": lambda: config(
        "Qwen3MoeConfig", head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "gemma": lambda: config("GemmaConfig", head_dim=32),
    "gemma2": lambda: config("Gemma2Config", head_dim=32, sliding_window=8, query_pre_attn_scalar=32),
    "gemma3": lambda: config(
        "Gemma3TextConfig", head_dim=32, sliding_window=8, query_pre_attn_scalar=32, layer_types=_ALTERNATING
    ),
    "gemma4": lambda: config(  # whose last layers read the keys of the first ones
        "Gemma4TextConfig",
        head_dim=16,
        global_head_dim=32,
        sliding_window=8,
        layer_types=_ALTERNATING,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=101,
    ),
    "phi": lambda: config("PhiConfig", partial_rotary_factor=0.5, qk_layernorm=True),
    "phi3": lambda: config("Phi3Config"),
    "phi3-longrope": lambda: config("Phi3Config", rope_parameters=LONGROPE.copy()),
    "gpt-neox": lambda: config("GPTNeoXConfig", rotary_pct=0.25),
    "stablelm": lambda: config("StableLmConfig", partial_rotary_factor=0.25, use_qkv_bias=True),
    "olmo2": lambda: config("Olmo2Config"),
    "olmo3": lambda: config("Olmo3Config", sliding_window=8),
    "cohere": lambda: config("CohereConfig", use_qk_norm=True, logit_scale=1.0),
    "cohere2": lambda: config("Cohere2Config", sliding_window=8, logit_scale=1.0),
    "glm": lambda: config("GlmConfig", head_dim=32),
    "glm4": lambda: config("Glm4Config", head_dim=32),
    "granite": lambda: config("GraniteConfig", attention_multiplier=0.1),
    "smollm3": lambda: config("SmolLM3Config", no_rope_layer_interval=2),
    "gpt-oss": lambda: config(
        "GptOssConfig",
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters=_GPT_OSS_ROPE.copy(),
    ),
    "starcoder2": lambda: config("Starcoder2Config"),
    "exaone4": lambda: config("Exaone4Config", sliding_window=8, sliding_window_pattern=2),
    "ernie4.5": lambda: config("Ernie4_5Config", head_dim=32),
    "nemotron": lambda: config("NemotronConfig", partial_rotary_factor=0.5),
    "persimmon": lambda: config("PersimmonConfig"),
}
# Their full layers, if any, have no positions: a plan that only moves positions has nothing to steer.
WITHOUT_ROTATION_IN_FULL_LAYERS = {"mistral-sliding", "cohere2", "exaone4"}
