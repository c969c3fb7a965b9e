"""LongRoPE: a factor for each channel, found by search."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.files import read_whole
from lcbench.core.lazy import torch
from lcbench.core.specs import convert_options
from lcbench.methods.base import Lengths, Method, at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LongRoPE(Method):
    """f_m -> base^(-m / M) / factors_m; cos and sin times attention_factor. A scaling of the model's own is replaced.

    `factors`, one a channel: default those of `file`, else of the model's config. A file or config has `long_factor`
    for runs of more than `original_length` tokens, and may have `short_factor` for the others, as a config.json of
    Phi-3 does; a file may also be a list. `original_length`: default that of the file or config, else the pretraining
    length. `attention_factor`: default that of the file or config, else sqrt(1 + ln s / ln original_length), with
    s = max_position_embeddings / original_length where these are given, else run length / original_length; at least 1.
    Ding et al., https://arxiv.org/abs/2402.13753, code https://github.com/microsoft/LongRoPE (c9e56aa);
    `rope_type="longrope"` in transformers; it equals both. The paper also leaves the first tokens unscaled, which no
    released model does, and its code may let factors grow with the prompt ("dynamic").
    """

    name: ClassVar[str] = "longrope"
    file: str = ""
    factors: tuple[float, ...] = ()
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_length: int | None = None
    attention_factor: float | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if self.file else ()

    def for_model(self, config: Any) -> LongRoPE:
        if self.file or self.factors or self.long_factor:
            return self
        rope = getattr(config, "rope_parameters", None) or {}
        if "long_factor" not in rope:
            raise UserError("longrope: the model's config has no factors; give a file of them, longrope:file=PATH.")
        return self._with_defaults({"max_position_embeddings": config.max_position_embeddings, **rope})

    def resolve(self, lengths: Lengths) -> LongRoPE:
        method = self._with_defaults(_read(self.file)) if self.file and not self.factors else self
        original = lengths.pretraining if method.original_length is None else method.original_length
        at_least(self.name, "original_length", original, 2)
        factors, attention = method.factors, method.attention_factor
        if not factors:
            run = lengths.need_run(self.name, "the choice of factors", "factors=[...] or ")
            factors = method.short_factor if run <= original and method.short_factor else method.long_factor
        if attention is None:
            run = lengths.need_run(self.name, "attention_factor", "attention_factor=... or ")
            attention = _attention_factor(run / original, original)
        if not factors or not all(factor > 0 for factor in factors):
            raise UserError("longrope: factors must be one number above 0 for each channel.")
        if not attention > 0:
            raise UserError(f"longrope: attention_factor must be above 0, not {attention:g}.")
        return replace(
            self, factors=factors, short_factor=(), long_factor=(), original_length=original, attention_factor=attention
        )

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        if len(self.factors) != len(inv_freq):
            raise UserError(f"longrope: there are {len(self.factors)} factors for {len(inv_freq)} channels.")
        assert self.attention_factor is not None
        return inv_freq / torch.tensor(self.factors).to(inv_freq), self.attention_factor

    @property
    def replaces_scaling(self) -> bool:
        return True

    def _with_defaults(self, given: dict[str, Any]) -> LongRoPE:
        """This method with what it lacks taken from a config, or from its entries on RoPE."""
        original, longest = given.get("original_max_position_embeddings"), given.get("max_position_embeddings")
        attention, stretch = given.get("attention_factor"), given.get("factor")
        found: dict[str, Any] = {key: given[key] for key in ("short_factor", "long_factor") if key in given}
        if original and self.original_length is None:
            found["original_length"] = original
        if original and not attention and (stretch or longest):
            attention = _attention_factor(stretch or longest / original, original)
        if attention and self.attention_factor is None:
            found["attention_factor"] = attention
        return replace(self, **convert_options(self.name, type(self), found))


def _attention_factor(stretch: float, original: int) -> float:
    return math.sqrt(1 + math.log(max(1.0, stretch)) / math.log(original))


def _read(file: str) -> dict[str, Any]:
    """What a JSON file says: a list of factors, or a model's config, or the part of one on RoPE. Raises: UserError."""
    try:
        content = json.loads(read_whole(Path(file).expanduser()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"longrope: {file} cannot be read as JSON: {error}.") from None
    if isinstance(content, list):
        return {"long_factor": content}
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {} if isinstance(content, dict) else {}
    found = {**content, **rope} if isinstance(content, dict) else {}
    if "long_factor" not in found:
        raise UserError(f"longrope: {file} has no long_factor: a list of numbers, one for each channel.")
    return found
