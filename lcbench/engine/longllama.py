"""LongLLaMA checkpoints in the stock Llama classes.

`syzymon/long_llama_3b`, `_3b_v1_1`, `_code_7b` and the Instruct models bring modelling code for transformers 4.33.
Their weights have the names and shapes of a Llama; only their attention differs, which is the method `fot`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODEL_TYPE = "longllama"


class StockConfig:
    """`AutoConfig` that reads the config.json of a LongLLaMA as a `LlamaConfig` with its memory options as
    attributes."""

    @staticmethod
    def from_pretrained(location: str, *, revision: str | None, trust_remote_code: bool) -> PretrainedConfig:
        """The config; used without `fot`, the model is a Llama of the original context length.

        Raises: whatever `AutoConfig` raises.
        """
        from transformers import AutoConfig, LlamaConfig, PretrainedConfig

        content: dict[str, Any] = PretrainedConfig.get_config_dict(location, revision=revision)[0]
        config: PretrainedConfig
        if content.get("model_type") == MODEL_TYPE:
            kept = {key: value for key, value in content.items() if key not in ("auto_map", "model_type")}
            config = LlamaConfig.from_dict({**kept, "architectures": ["LlamaForCausalLM"]})
        else:
            config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=trust_remote_code)
        return config
