"""LongLLaMA checkpoints in the stock Llama classes.

`syzymon/long_llama_3b`, `_3b_v1_1`, `_code_7b` and the Instruct models bring modelling code for transformers 4.33.
Their weights are those of a Llama, under its names; what is special about them is what they attend to: method `fot`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODEL_TYPE = "longllama"


class StockConfig:
    """`AutoConfig` that reads a LongLLaMA's config.json as that of a Llama; what memory needs stays in attributes."""

    @staticmethod
    def from_pretrained(location: str, *, revision: str | None, trust_remote_code: bool) -> PretrainedConfig:
        """Without `fot`, the result is a Llama of the original context length. Raises: whatever `AutoConfig` raises."""
        from transformers import AutoConfig, LlamaConfig, PretrainedConfig

        content: dict[str, Any] = PretrainedConfig.get_config_dict(location, revision=revision)[0]
        config: PretrainedConfig
        if content.get("model_type") == MODEL_TYPE:
            kept = {key: value for key, value in content.items() if key not in ("auto_map", "model_type")}
            config = LlamaConfig.from_dict({**kept, "architectures": ["LlamaForCausalLM"]})
        else:
            config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=trust_remote_code)
        return config
