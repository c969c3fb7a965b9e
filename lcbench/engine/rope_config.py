"""Errors in the RoPE settings of a config.json, in words; transformers only raises a KeyError."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import brief

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OLD_SPELLINGS = {"su": "longrope"}  # of Phi-3's first checkpoints; transformers reads it for Phi-3 only
NUMBERS = ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "rope_theta")


def rope_fault(config: PretrainedConfig) -> str | None:
    """Why no rotary module can be made with these settings; None if nothing is found."""
    given = getattr(config.get_text_config(), "rope_parameters", None)
    if not isinstance(given, dict):
        return None
    per_layer_type = [value for value in given.values() if isinstance(value, dict)]
    faults = map(_fault, per_layer_type or [given])
    return next(filter(None, faults), None)


def _fault(parameters: dict[str, Any]) -> str | None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind, known = parameters.get("rope_type", "default"), ("default", *ROPE_INIT_FUNCTIONS)
    if kind not in known:
        newer = OLD_SPELLINGS.get(kind) if isinstance(kind, str) else None
        way_out = (
            f"an old spelling: write {newer!r} instead"
            if newer
            else f"which transformers does not implement; known are {', '.join(known)}"
        )
        return f"the rope_scaling in its config.json has the type {brief(kind)}, {way_out}"
    if parameters.get("rope_theta", 0) is None:
        return "rope_theta in its config.json is null; write the base of the rotary frequencies there"
    return no_number(parameters)


def no_number(parameters: Mapping[str, Any]) -> str | None:
    """Which of the settings should be a number and is something else; None if none is."""
    for name in NUMBERS:
        value = parameters.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{name} in the rope_scaling of its config.json must be a number, not {brief(value)}"
    return None


def wrong_number(config: PretrainedConfig) -> str | None:
    """The error for a number that transformers accepts silently and that gives useless frequencies; None if none."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None)
    if not isinstance(given, dict):
        return None
    theta = given.get("rope_theta")
    if isinstance(theta, int | float) and not 0 < theta < math.inf:
        return f"rope_theta in its config.json must be a number above 0, not {theta:g}"
    heads, width = getattr(text, "num_attention_heads", None), getattr(text, "hidden_size", None)
    size = getattr(text, "head_dim", None) or (width // heads if heads and width else 0)
    pairs = int(size * (given.get("partial_rotary_factor") or 1.0)) // 2
    for name in ("short_factor", "long_factor"):
        factors = given.get(name)
        if given.get("rope_type") == "longrope" and isinstance(factors, list) and pairs and len(factors) != pairs:
            return f"{name} in the rope_scaling of its config.json has {len(factors)} numbers for {pairs} frequencies"
    return None


def idle_factor(config: PretrainedConfig) -> float | None:
    """The factor of a scaling without a type, or of the type `default`, which ignores it; None if there is none."""
    given = getattr(config.get_text_config(), "rope_parameters", None)
    if not isinstance(given, dict) or given.get("rope_type", "default") != "default":
        return None
    factor = given.get("factor")
    return float(factor) if isinstance(factor, int | float) and factor != 1 else None
