"""Settings in a GGUF file that transformers leaves out of the config it builds: they are added, or the file is refused.
Without them the model would silently compute something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, brief

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lcbench.engine.gguf_files import GgufFile

# Keys of the file, and the attributes of the configs that have them.
LEFT_OUT = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Options of YaRN: keys of the file, and of `rope_parameters`.
YARN = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# Architectures that rotate a part of the channels, of which the config of transformers 5.17 does not tell.
PARTIAL = ("minimax-m2",)
# Architectures that transformers takes, though it reads a part of their files only.
IN_PART = ("gemma4", "gpt-oss")
# The layers of the models of Gemma's 27 billion weights, whose scores are scaled by hidden size / heads instead of the
# size of a head; the file does not say so, llama.cpp tells them by their size.
LARGEST = {"gemma2": 46, "gemma3": 62}


def require_whole(file: GgufFile) -> None:
    """Raises: UserError for a file of which transformers would read a part."""
    if file.architecture in IN_PART:
        raise UserError(
            f"{file.name} is a model of the architecture {file.architecture}, of whose GGUF files transformers reads a "
            "part only; take the model's own folder or Hugging Face id."
        )


def complete_config(file: GgufFile, config: PretrainedConfig) -> None:
    """Add the settings that transformers leaves out. Raises: UserError for frequencies that no config can express."""
    import torch

    if file.dtype:
        config.dtype = getattr(torch, file.dtype)
    for key, attribute in LEFT_OUT.items():
        if file.value(key) and attribute in vars(config):
            setattr(config, attribute, file.value(key))
    if file.architecture in LARGEST:
        largest = config.num_hidden_layers == LARGEST[file.architecture]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if isinstance(getattr(config, "rope_parameters", None), dict):
        config.rope_parameters = _completed(file, config)


def _completed(file: GgufFile, config: PretrainedConfig) -> dict[str, Any]:
    """`rope_parameters` completed from the file; if layer types differ, the scaling is that of the layers with full
    attention, as in llama.cpp."""
    rope: dict[str, Any] = config.rope_parameters
    if isinstance(full := rope.get("full_attention"), dict):
        return {**rope, "full_attention": _of_layers(file, config, full)}
    return _of_layers(file, config, rope)


def _of_layers(file: GgufFile, config: PretrainedConfig, rope: dict[str, Any]) -> dict[str, Any]:
    if base := file.value("rope.freq_base"):
        rope = {**rope, "rope_theta": base}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    partial = "partial_rotary_factor" in rope or file.architecture in PARTIAL
    if (rotated := file.value("rope.dimension_count")) and partial:
        rope = {**rope, "partial_rotary_factor": rotated / head}
    scaling = _scaling(file)
    return {**rope, **scaling} if rope.get("rope_type", "default") == "default" else rope


def _scaling(file: GgufFile) -> dict[str, Any]:
    """The scaling of the rotary frequencies, as in `config.rope_parameters`; empty if they are plain."""
    # Older files have another key for the factor; without a type the scaling is linear, as in llama.cpp.
    factor = file.value("rope.scaling.factor") or file.value("rope.scale_linear")
    kind = file.value("rope.scaling.type") or ("linear" if factor else None)
    if (divisors := file.tensor("rope_freqs.weight")) is not None:
        return _llama3(file, divisors)
    factors = any(file.tensor(f"rope_factors_{one}.weight") is not None for one in ("long", "short"))
    if factors or kind not in (None, "none", "linear", "yarn"):
        raise UserError(
            f"{file.name} scales its rotary frequencies as {brief(kind or 'longrope')}, which transformers does "
            "not read from a GGUF file; take the model's own folder or Hugging Face id."
        )
    if not factor or kind == "none":
        return {}
    options = {name: value for key, name in YARN.items() if kind == "yarn" and (value := file.value(key))}
    return {"rope_type": kind, "factor": factor, **options}


def _llama3(file: GgufFile, factors: Any) -> dict[str, Any]:
    """Llama 3.1 and later: llama.cpp stores the divisor of each frequency, the config the options it follows from."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    divisors = torch.tensor(factors, dtype=torch.float32).flatten()
    theta = file.value("rope.freq_base") or 10000.0
    rope = {
        "rope_type": "llama3",
        "factor": round(float(divisors.max()), 4),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    size = 2 * len(divisors)
    config = LlamaConfig(head_dim=size, rope_parameters={**rope, "rope_theta": theta})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** -(torch.arange(0, size, 2) / size)
    if not torch.allclose(plain / scaled, divisors, rtol=1e-3):
        raise UserError(
            f"{file.name} scales its rotary frequencies in a way that is not Llama 3's; take the model's own "
            "folder or Hugging Face id."
        )
    return rope
