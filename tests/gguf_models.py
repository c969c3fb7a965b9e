"""GGUF files of small models, written as llama.cpp's converter writes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests.helpers import TINY

# The names of architectures that llama.cpp calls otherwise than transformers.
ARCHITECTURES = {"gemma3_text": "gemma3", "minimax_m2": "minimax-m2", "qwen3_moe": "qwen3moe"}
SIZES: dict[str, Any] = {
    "vocab_size": 1344,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}
IDS = list(range(40, 80))
TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"


def small(architecture: str = "llama", **options: Any) -> PreTrainedModel:
    """A model with random weights, biases included."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**copy.deepcopy(SIZES | options))  # which configs change in place
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
        elif "norm" not in name:
            parameter.data.mul_(8)  # so that attention is far from uniform
    return model


def tiny_model() -> PreTrainedModel:
    """The embedded model as a folder loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TINY)
    return tokenizer


@dataclass(frozen=True)
class Stated:
    """A file that says nothing but its architecture, and these keys."""

    architecture: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "mine.gguf"
    dtype: None = None

    def value(self, key: str) -> None:
        return None

    tensor = value

    def entries(self, key: str, numbers: Sequence[int] | None = None) -> list[Any]:
        return []


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: str = "F32",
    *,
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    architecture: str | None = None,
    adds_bos: bool | None = True,
    marked: Mapping[str, gguf.TokenType] | None = None,
) -> Path:
    """The model with the embedded tokenizer; matrices are stored as `kind`, vectors as F32, as llama.cpp does.

    `extra` are keys, without the architecture's prefix where they begin with a dot; `tensors` are further ones.
    `marked` are up to three tokens behind those of the embedded tokenizer. `adds_bos` is whether texts begin with BOS
    (our models were trained so), None for a file that does not say.
    """
    config = model.config
    family = _family(model)
    writer = gguf.GGUFWriter(path, architecture or family)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "norm_epsilon"):
        writer.add_layer_norm_eps(config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", None) or config.norm_eps)
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
    _add_tokenizer(writer, tiny_tokenizer(), config.vocab_size, marked or {})
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
    kinds: dict[type, Any] = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int, marked: Mapping[str, gguf.TokenType]
) -> None:
    import json

    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens |= {len(tokens) + n: token for n, token in enumerate(marked)}
    kinds = gguf.TokenType
    special = tokenizer.added_tokens_decoder
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(
        [
            kinds.UNUSED
            if number not in tokens
            else marked.get(tokens[number], kinds.CONTROL if number in special else kinds.NORMAL)
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
    family = _family(model)
    (architecture,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, parameter in _stored(model):
        stem, _, suffix = key.rpartition(".")
        tensor = parameter.detach().float()
        if config.model_type == "llama" and stem.endswith(("q_proj", "k_proj")):
            # llama.cpp rotates neighbours, transformers halves
            tensor = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        if family.startswith(("gemma", "nemotron")) and "norm" in stem and suffix == "weight":
            tensor = tensor + 1
        if stem.endswith("conv"):
            tensor = tensor.squeeze(1)
        stored = gguf.GGMLQuantizationType[kind if tensor.ndim > 1 else "F32"]
        data = np.ascontiguousarray(tensor.numpy())
        name = stem if stem.startswith("blk.") else names.get_name(stem)
        writer.add_tensor(f"{name}.{suffix}", gguf.quants.quantize(data, stored), raw_dtype=stored)


def _stored(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by name, those of experts by llama.cpp's, with gate and up apart."""
    kept = [(name, buffer) for name, buffer in model.named_buffers() if name in model.state_dict()]
    for key, tensor in [*model.named_parameters(), *kept]:
        block = f"blk.{key.split('.')[2]}" if key.startswith("model.layers.") else ""
        if key.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            yield from ((f"{block}.ffn_gate_exps.weight", gate), (f"{block}.ffn_up_exps.weight", up))
        elif key.endswith("experts.down_proj"):
            yield f"{block}.ffn_down_exps.weight", tensor
        elif key.endswith("e_score_correction_bias"):
            yield f"{block}.exp_probs_b.bias", tensor
        else:
            yield key, tensor


def _family(model: PreTrainedModel) -> str:
    kind = str(model.config.model_type)
    return ARCHITECTURES.get(kind, kind)


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits
    return found
