"""Resonance RoPE: wavelengths of whole tokens, so that a channel repeats positions that it met in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Resonance(Method):
    """f_m -> 2 pi / round(2 pi / f_m), after any other RoPE scaling: `yarn+resonance` is the paper's Resonance YaRN.

    Wang et al., https://arxiv.org/abs/2403.00071, code https://github.com/sheryc/resonance_rope (4a7f5a7),
    which repeats its tables of angles after a wavelength; here, as for every RoPE, an angle is position times f_m. Its
    `LlamaYaRNScaledResonanceRotaryEmbedding` has the same frequencies as `yarn+resonance`.
    """

    name: ClassVar[str] = "resonance"
    refines: ClassVar[bool] = True

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        wavelengths = torch.round(2 * math.pi / inv_freq.double())  # inf where a channel does not rotate
        return (2 * math.pi / wavelengths).to(inv_freq.dtype), 1.0
