"""Which attention layers of a model a method changes, and which models it does not support."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from lcbench.attention.cache.watch import CacheWatch, layer_index
from lcbench.attention.probe import ProbedLayer
from lcbench.attention.rope import scales
from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.methods import Lengths, Method
from lcbench.methods.base import CONTENT, layer_scale

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def slides(window: int | None, lengths: Lengths) -> bool:
    """Whether a layer was trained with a window that hides keys; a window of at least the pretraining length
    (Phi-3: 262144) hid none in training, and is treated as full attention."""
    return window is not None and window < lengths.pretraining


class Reach:
    """Which layers of a model a resolved method can change."""

    def __init__(
        self, model: PreTrainedModel, method: Method, lengths: Lengths, layers: dict[nn.Module, ProbedLayer]
    ) -> None:
        self.name, self.method, self.lengths, self.layers = type(model).__name__, method, lengths, layers

    @cached_property
    def steered(self) -> int:
        """The number of layers whose output the method can change."""
        return sum(map(self._steers, self.layers))

    @cached_property
    def full(self) -> list[nn.Module]:
        """The layers with full attention."""
        return [module for module, layer in self.layers.items() if not slides(layer.window, self.lengths)]

    def check(self) -> None:
        """Raises: UserError if the method changes no layer; UnsupportedModelError if it scales RoPE frequencies that
        already depend on the length, or selects keys that layers share."""
        if not self.steered:
            raise UserError(self._why_nothing_is_steered())
        for layer in self.layers.values():
            scaled = scales(self.method, layer.rope) and not self.method.replaces_scaling
            if scaled and layer.rope.depends_on_length:
                raise UnsupportedModelError(
                    f"the RoPE of {self.name} ({layer.rope.kind}) already scales with the length; "
                    f"{self.method.label} cannot scale it again: use a position plan such as self_extend or dca."
                )
        self._check_shared_keys()

    def _check_shared_keys(self) -> None:
        """Raises: UnsupportedModelError if the method selects keys per layer and some layers share keys."""
        chosen = self.method.hooks & {"select", "evict"} or (self.method.forgets and self.method.layerwise)
        sharing = [str(layer_index(module)) for module in self.full if self.layers[module].keys_of is not None]
        if chosen and sharing:
            raise UnsupportedModelError(
                f"{self.method.label} selects keys anew in each layer, but some layers of {self.name} read the keys of "
                f"earlier ones: {', '.join(sharing)}; use a method that selects keys by position."
            )

    def check_memory(self, caches: CacheWatch) -> None:
        """Raises: UserError if the method has memory in a layer without full attention."""
        for module in self.layers.keys() - set(self.full):
            if self.method.forgets and caches.memory(module):
                raise UserError(
                    f"layer {layer_index(module)} of {self.name} is a sliding-window layer and cannot have a memory; "
                    f"choose another layer for {self.method.label}."
                )

    def _steers(self, module: nn.Module) -> bool:
        """Whether the method can change the output of this layer; for vanilla, every layer counts.

        A layer with a sliding window keeps its positions; a layer without rotation (NoPE) has none, so that a position
        plan matters there only if it hides keys.
        """
        hooks, layer = self.method.hooks, self.layers[module]
        if not hooks or scales(self.method, layer.rope):
            return True
        if slides(layer.window, self.lengths):
            return False
        if hooks & CONTENT:
            return True
        if "score_scale" in hooks:
            first = torch.zeros(1, dtype=torch.long)
            if layer_scale(self.method, first, self.lengths, layer_index(module)) is not None:
                return True
        return "pieces" in hooks and (layer.rope.rotary is not None or self._hides_keys())

    def _hides_keys(self) -> bool:
        """Whether some query of the run does not see all earlier keys."""
        i = torch.arange(self.lengths.run or 4 * self.lengths.pretraining)
        seen = sum(piece.stop - piece.start for piece in self.method.for_prompt(len(i)).pieces(i, i, 0))
        return not torch.equal(torch.as_tensor(seen), i + 1)

    def _why_nothing_is_steered(self) -> str:
        windows = [layer.window for layer in self.layers.values() if slides(layer.window, self.lengths)]
        if windows:
            return (
                f"{self.method.label} steers no layer of {self.name}: those that rotate attend within a sliding "
                f"window of {windows[0]} tokens; set sliding_window to null in its config to give them full attention."
            )
        return f"{self.method.label} steers no layer of {self.name}: none of its {len(self.layers)} layers rotates."
