"""GGUF files of small models, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests.helpers import TINY

TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"


def tiny_model() -> PreTrainedModel:
    """The embedded model as a folder loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TINY)
    return tokenizer


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: str = "F32",
    *,
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    architecture: str | None = None,
    adds_bos: bool | None = True,
) -> Path:
    """The model with the embedded tokenizer; matrices are stored as `kind`, vectors as F32, as llama.cpp does.

    `extra` are keys, without the architecture's prefix where they begin with a dot; `tensors` are further ones.
    `adds_bos` is whether texts begin with BOS (our models were trained so), None for a file that does not say.
    """
    config = model.config
    family = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(path, architecture or family)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_epsilon)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * (rope.get("partial_rotary_factor") or 1)))
    if family == "llama":
        writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tiny_tokenizer(), config.vocab_size)
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    for key, value in (extra or {}).items():
        _add(writer, f"{family}{key}" if key.startswith(".") else key, value)
    _add_tensors(writer, model, kind, head_dim)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds[type(value)](key, value)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    import json

    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    kinds = gguf.TokenType
    special = tokenizer.added_tokens_decoder
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(
        [
            kinds.CONTROL if number in special else kinds.NORMAL if number in tokens else kinds.UNUSED
            for number in range(rows)
        ]
    )
    merges = json.loads((TINY / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(TEMPLATE)


def _add_tensors(writer: gguf.GGUFWriter, model: PreTrainedModel, kind: str, head_dim: int) -> None:
    config = model.config
    family = config.model_type.removesuffix("_text")
    (architecture,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, parameter in model.named_parameters():
        stem, _, suffix = key.rpartition(".")
        tensor = parameter.detach().float()
        if config.model_type == "llama" and stem.endswith(("q_proj", "k_proj")):
            # llama.cpp rotates neighbours, transformers halves
            tensor = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        if family.startswith("gemma") and "norm" in stem:
            tensor = tensor + 1
        stored = gguf.GGMLQuantizationType[kind if tensor.ndim > 1 else "F32"]
        data = np.ascontiguousarray(tensor.numpy())
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quants.quantize(data, stored), raw_dtype=stored)


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits
    return found
