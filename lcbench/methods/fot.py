"""Focused Transformer (LongLLaMA): a few layers attend to all earlier keys as memory, the others to a local window."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.core.specs import convert_options
from lcbench.methods.base import Lengths, Method, at_least, require_layer
from lcbench.methods.pieces import Memory, Piece

if TYPE_CHECKING:
    from torch import Tensor

# The names under which the config.json of a LongLLaMA checkpoint gives our options.
CONFIG_NAMES = {
    "memory_layers": "mem_layers",
    "last_context_length": "last_context_length",
    "mem_dtype": "mem_dtype",
    "mem_positionals": "mem_positionals",
    "mem_attention_grouping": "mem_attention_grouping",
}


@dataclass(frozen=True)
class FocusedTransformer(Method):
    """With b(i) the first position of the local window of query i, over j <= i:

        rel(i, j) = i - j       j >= b(i), in every layer
                    i - b(i)    j < b(i), in `memory_layers`: memory lies at the start of the window
                    not seen    j < b(i), in the other layers

    one softmax over both. `context_length` L: default the pretraining length; `last_context_length` l: default the
    config's, else L/2, at most 1024. For a prompt of n tokens, with m = max(n - l, 0):
      longllama   b(i) = i - i % L for i < m, and i - (i - m) % L from there: windows of L tokens, a last one that ends
                  with the prompt and grows to L tokens while decoding, then moves to memory as a whole
      streaming   b(i) = max(i - i % (L - l) - l, 0): windows of l to L tokens that follow from the position alone
    `prompt_length` n: default the length of the first call; required for prefill in several calls outside lcbench.
    `mem_positionals=false`: memory layers do not rotate at all. `mem_dtype`: keys and values before the window are
    rounded to it. `mem_attention_grouping=[heads,queries]`: upper bounds on the heads and queries that attend to memory
    at a time; bounds the memory in use and changes no result.
    `mem_device=cpu` keeps memory in RAM. `memory=knn`: each query and head sees its `top_k` best keys of the memory
    only, found by Faiss: `index=flat` finds them all, `ivf` most of them, faster.
    Options left out come from the config of the model where it has them (`mem_layers`, ...).

    Tworkowski et al., https://arxiv.org/abs/2307.03170, code https://github.com/CStanKonrad/long_llama, which
    attends to the whole memory; the paper searches it, k = 128. There the windows restart with a second call on a
    cache, padding shifts them, and `mem_dtype` defaults to bfloat16; here they continue, padding is not counted, and
    the default is the dtype of the model.
    """

    name: ClassVar[str] = "fot"
    memory_layers: tuple[int, ...] | None = None
    context_length: int | None = None
    last_context_length: int | None = None
    prompt_length: int | None = None
    variant: Literal["longllama", "streaming"] = "longllama"
    mem_positionals: bool | None = None
    mem_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    mem_device: Literal["cpu"] | None = None
    mem_attention_grouping: tuple[int, int] | None = None
    memory: Literal["dense", "knn"] = "dense"
    top_k: int = 128
    index: Literal["flat", "ivf"] = "flat"

    def for_model(self, config: Any) -> FocusedTransformer:
        given = {
            option: getattr(config, key)
            for option, key in CONFIG_NAMES.items()
            if getattr(self, option) is None and getattr(config, key, None) is not None
        }
        method = replace(self, **convert_options(self.name, type(self), given))
        if method.memory_layers is None:
            raise UserError(
                "fot: say which layers hold memory, as in fot:memory_layers=[6,12,18]; the model's config has no "
                "mem_layers."
            )
        for layer in method.memory_layers:
            require_layer(self.name, layer, config)
        return method

    def resolve(self, lengths: Lengths) -> FocusedTransformer:
        context = lengths.pretraining if self.context_length is None else self.context_length
        at_least(self.name, "context_length", context, 2)
        last = min(1024, context // 2) if self.last_context_length is None else self.last_context_length
        at_least(self.name, "last_context_length", last, 1)
        longest = context if self.variant == "longllama" else context - 1
        if last > longest:
            raise UserError(f"fot: last_context_length={last} is more than {longest}, a window has {context} tokens.")
        if self.prompt_length is not None:
            at_least(self.name, "prompt_length", self.prompt_length, 1)
        for bound in self.mem_attention_grouping or ():
            at_least(self.name, "mem_attention_grouping", bound, 1)
        at_least(self.name, "top_k", self.top_k, 1)
        if self.memory == "knn" and importlib.util.find_spec("faiss") is None:
            raise UserError("fot: memory=knn needs Faiss; pip install 'lcbench[knn]'.")
        rotate = True if self.mem_positionals is None else self.mem_positionals
        return replace(self, context_length=context, last_context_length=last, mem_positionals=rotate)

    def for_prompt(self, length: int | None) -> FocusedTransformer:
        if self.variant == "streaming" or self.prompt_length is not None:
            return self
        if length is None:
            raise UserError("fot: this cache does not tell how long the prompt is; pass prompt_length=... (tokens).")
        return replace(self, prompt_length=length)

    def window_start(self, i: Tensor) -> Tensor:
        """b(i) [T] of the positions i [T]."""
        L, last = self.context_length, self.last_context_length
        assert L is not None and last is not None
        if self.variant == "streaming":
            return (i - i % (L - last) - last).clamp(min=0)
        assert self.prompt_length is not None
        m = max(self.prompt_length - last, 0)
        return torch.where(i < m, i - i % L, i - (i - m) % L)

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        start = self.window_start(i)
        remembers = layer in (self.memory_layers or ())
        if remembers and not self.mem_positionals:
            q_pos, local_q_pos, k_pos = torch.zeros_like(i), torch.zeros_like(i), torch.zeros_like(j)
        else:  # only differences matter, and small angles are more exact
            q_pos, local_q_pos, k_pos = i - start, i - start[0], (j - start[0]).clamp(min=0)
        local = Piece(local_q_pos, k_pos, start=start, stop=i + 1)
        if not remembers:
            return [local]
        return [local, Piece(q_pos, torch.zeros_like(j), torch.zeros_like(i), start, memory=self._memory())]

    def _memory(self) -> Memory:
        return Memory(
            dtype=None if self.mem_dtype is None else getattr(torch, self.mem_dtype),
            device=None if self.mem_device is None else torch.device(self.mem_device),
            heads=self.mem_attention_grouping[0] if self.mem_attention_grouping else None,
            queries=self.mem_attention_grouping[1] if self.mem_attention_grouping else None,
            top_k=self.top_k if self.memory == "knn" else None,
            index=self.index,
        )

    @property
    def prefix_stable(self) -> bool:
        return self.variant == "streaming" or self.prompt_length is not None

    @property
    def layerwise(self) -> bool:
        return True

    @property
    def forgets(self) -> bool:
        return True

    def keys_kept(self, layer: int, length: int) -> int:
        assert self.context_length is not None
        return length if layer in (self.memory_layers or ()) else min(length, self.context_length)
