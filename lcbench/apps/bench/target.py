"""The model that is measured: its layers, its sizes, and the number of operations of a method on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lcbench.attention.probe import ProbedLayer, probe
from lcbench.core.errors import UserError
from lcbench.engine.footprint import Footprint, footprint
from lcbench.methods import Method
from lcbench.methods.trained_length import trained_length

SEED = 0


@dataclass(frozen=True, eq=False)
class Target:
    """A model in evaluation mode and what it is called."""

    name: str
    model: PreTrainedModel

    def __post_init__(self) -> None:
        """Raises: UserError for a model that PyTorch's SDPA does not run exactly, or that cannot be checked."""
        name = type(self.model).__name__
        # transformers 5.17 gives Gemma 2 to SDPA, which leaves out its soft caps without a word.
        capped = getattr(self.config, "attn_logit_softcapping", None) is not None
        if capped or self.config._attn_implementation != "sdpa":
            raise UserError(f"{name} does not run by SDPA: there is no vanilla baseline to measure against.")
        if all(self.slides(index) for index in range(len(self.layers))):
            raise UserError(f"{name} attends within sliding windows only: no length makes its attention longer.")
        for _, layer in self.layers:
            if layer.rope.depends_on_length:
                raise UserError(
                    f"the RoPE of {name} ({layer.rope.kind}) follows the length by itself, and cannot be checked "
                    "against the float64 reference; measure a --shape of its size."
                )

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config()

    @cached_property
    def layers(self) -> list[tuple[nn.Module, ProbedLayer]]:
        """Attention layers in the order in which they run."""
        return list(probe(self.model).items())

    @cached_property
    def footprint(self) -> Footprint:
        return footprint(self.model, self.dtype)

    @property
    def pretraining(self) -> int:
        return trained_length(self.model.config)

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def hidden(self) -> int:
        return int(self.config.hidden_size)

    @property
    def intermediate(self) -> int:
        return int(getattr(self.config, "intermediate_size", None) or 4 * self.hidden)

    @property
    def heads(self) -> int:
        return int(self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_dim(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self.hidden // self.heads)

    def slides(self, index: int) -> bool:
        """Whether a layer was trained with a window that hides keys, which no method changes."""
        window = self.layers[index][1].window
        return window is not None and window < self.pretraining

    def block(self, index: int) -> nn.Module:
        """The decoder layer that an attention layer belongs to."""
        module = self.layers[index][0]
        path = next(name for name, each in self.model.named_modules() if each is module)
        block: nn.Module = self.model.get_submodule(path.rpartition(".")[0])
        return block

    def ids(self, length: int) -> Tensor:
        """Random tokens [1, length]."""
        draw = torch.Generator().manual_seed(SEED)
        return torch.randint(self.config.vocab_size, (1, length), generator=draw).to(self.device)

    def queries_keys_values(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random and un-rotated: q [1, H, length, D], k and v [1, K, length, D]."""
        draw = torch.Generator(self.device).manual_seed(SEED)
        q, k, v = (
            torch.randn(1, heads, length, self.head_dim, generator=draw, device=self.device, dtype=self.dtype)
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        return q, k, v

    def longest_layer(self, method: Method, length: int) -> int:
        """The first of the layers in which queries see most."""
        indices = [index for index in range(len(self.layers)) if not self.slides(index)]
        return max(indices, key=lambda index: self.pairs(method, index, length)) if method.layerwise else indices[0]

    def pairs(self, method: Method, index: int, length: int) -> int:
        """How many keys all queries of a resolved method see, in one layer, on average over the heads."""
        i = torch.arange(length)
        if self.slides(index):
            return int((i + 1).clamp(max=self.layers[index][1].window).sum())
        pieces = method.for_prompt(length).pieces(i, i, index)
        seen = (int((piece.stop - piece.start).clamp(min=0).sum()) * piece.share(self.kv_heads) for piece in pieces)
        return int(sum(seen))

    def attention_work(self, method: Method, index: int, length: int) -> int:
        """Floating-point operations of the two products over what is seen."""
        return 4 * self.heads * self.head_dim * self.pairs(method, index, length)

    def linear_work(self, module: nn.Module) -> int | None:
        """Floating-point operations a token in the linear layers of a module; None where experts are chosen."""
        if any(parameter.ndim > 2 for parameter in module.parameters()):
            return None
        head = self.model.get_output_embeddings()
        linear = [each for each in module.modules() if isinstance(each, nn.Linear) and each is not head]
        return 2 * sum(each.weight.numel() for each in linear)
