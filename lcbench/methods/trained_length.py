"""The length that a model was trained for, as its config says it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def trained_length(config: PretrainedConfig) -> int:
    """The length in tokens that the model was trained for, its own RoPE scaling included.

    Raises: UserError if its config does not say.
    """
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 2:
        raise UserError(f"the config of this {config.model_type} has no max_position_embeddings: its trained length.")
    return scaled_length(length, getattr(text, "rope_parameters", None), _stated(text))


def scaled_length(length: int, rope: object, stated: int | None = None) -> int:
    """The length that a RoPE scaling of a config reaches, where `max_position_embeddings` is that before the scaling.

    `yarn` and `linear` reach factor times `original_max_position_embeddings`, if that is more than the length. Where a
    config does not have it, the length counts as that before the scaling, as in vLLM, unless the length that the model
    was tuned at is `stated`, as FastChat does. The lengths of other types, and of models with one scaling per layer
    type (Gemma 3), are scaled already.

    Raises: UserError for a factor that is not a positive number.
    """
    if not isinstance(rope, dict):
        return length
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings") or length
    if rope.get("rope_type") not in ("linear", "yarn") or not isinstance(factor, int | float):
        return length
    if not 0 < factor < math.inf:
        raise UserError(f"the RoPE scaling in the model's config has the factor {factor:g}; it must be from 1 up.")
    if stated == length and rope["rope_type"] == "linear":
        return length
    return max(length, int(factor * original))


def length_note(config: PretrainedConfig) -> str | None:
    """Where a config can mean two lengths: which one is taken, and how to say that it is the other one.

    With linear scaling, `max_position_embeddings` is the length before it in some checkpoints (as transformers says),
    and the one after it in others, and nothing in the config tells them apart.
    """
    text = config.get_text_config()
    rope, length = getattr(text, "rope_parameters", None), trained_length(config)
    own = text.max_position_embeddings
    if length == own or not isinstance(rope, dict) or rope.get("rope_type") != "linear":
        return None
    if rope.get("original_max_position_embeddings") or _stated(text) == length:
        return None
    return (
        f"the config's linear scaling (factor {rope['factor']:g}) is taken to start from its {own:,} tokens and to "
        f"reach {length:,}; if the model was tuned at {own:,}, write "
        f'"original_max_position_embeddings": {int(own / rope["factor"])} into rope_scaling in its config.json.'
    )


def _stated(text: PretrainedConfig) -> int | None:
    """The length that a model was tuned at, with its scaling, where FastChat wrote it into the config."""
    stated = getattr(text, "max_sequence_length", None)
    return stated if isinstance(stated, int) else None
