"""A forward pass layer by layer: every chunk of a text goes through one layer before any goes through the next.

A likelihood then needs the keys and values of one layer at a time, and one copy of the hidden states. A model of the
shape of Llama 3 8B needs 12 GiB for a million tokens that way, where the KV cache of all layers takes 128 GiB.

No part of a model is reimplemented. Its own forward pass runs for every chunk and layer with all other layers replaced
by the identity, so that positions, masks and the code around the layers are the model's; embeddings and norms are
computed once per layer, which costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from lcbench.attention.probe import execution_device, rotary_state_kept
from lcbench.core.errors import UnsupportedModelError

Result = TypeVar("Result")
TRIED = 32  # tokens of the test run, in two chunks


class StandIn(nn.Module):
    """Replaces a module and forwards attribute look-ups to it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module  # not as a submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)


class LayerStack:
    """The decoder layers of a model, all but one of which can be replaced by the identity."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises: UnsupportedModelError for a model whose decoder is not a plain stack of layers."""
        self.model = model
        count = model.config.get_text_config().num_hidden_layers
        found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and _is_stack(module, count)]
        if len(found) != 1:
            raise refused(model)
        self.layers = found[0]

    def __len__(self) -> int:
        return len(self.layers)

    @contextmanager
    def only(self, index: int, states_ND: Tensor | None, keep: Callable[[Tensor], None]) -> Iterator[None]:
        """Inside, only layer `index` runs, on the hidden states [n, D] unless it is the first; `keep` is called with
        its output [1, n, D]."""
        own = dict(self.layers._modules)
        for key, layer in own.items():
            number = int(key)
            assert layer is not None
            if number == index:
                self.layers._modules[key] = _Active(layer, states_ND, refused(self.model))
            else:
                self.layers._modules[key] = _Idle(layer, keep if number == index + 1 else None)
        try:
            yield
        finally:
            self.layers._modules.update(own)

    def run(
        self, chunks: Sequence[Tensor], empty_cache: Callable[[], DynamicCache], call: Callable[..., Result]
    ) -> Iterator[Result]:
        """The results of `call(chunk, cache)`, a forward pass of the model, for every chunk [n] in order, as if all
        calls shared one cache. Raises: UnsupportedModelError for a model that cannot run layer by layer."""
        states_TD: Tensor | None = None
        total, last = sum(map(len, chunks)), len(self) - 1
        for index in range(len(self)):
            answer, cache, begin = None, empty_cache(), 0  # frees the previous layer's cache
            with rotary_state_kept(self.model):
                for chunk in chunks:
                    rows = slice(begin, begin + len(chunk))
                    kept: list[Tensor] = []
                    with self.only(index, states_TD[rows] if index and states_TD is not None else None, kept.append):
                        answer = call(chunk, cache)
                    cache.layers = _alone(self.model, cache, index, rows.stop)
                    begin = rows.stop
                    if index == last:
                        yield answer
                        continue
                    if len(kept) != 1 or kept[0].shape[:-1] != (1, len(chunk)):
                        raise refused(self.model)
                    if states_TD is None:
                        states_TD = kept[0].new_empty(total, kept[0].shape[-1])
                    states_TD[rows] = kept[0][0]

    @torch.no_grad()
    def logits_of(self, states_ND: Tensor) -> Tensor:
        """Logits [n, V] of hidden states [n, D] as if they were the output of the last layer (logit lens): by the
        model's own final norm, head and whatever else follows its layers."""
        own = dict(self.layers._modules)
        for number, (key, layer) in enumerate(own.items()):
            assert layer is not None
            self.layers._modules[key] = _Given(layer, states_ND[None]) if number == 0 else _Idle(layer, None)
        try:
            ids_1N = torch.zeros(1, len(states_ND), dtype=torch.long, device=execution_device(self.model))
            logits: Tensor = self.model(ids_1N, use_cache=False).logits[0]
        finally:
            self.layers._modules.update(own)
        return logits

    def _own_logits(self, ids_T: Tensor, empty_cache: Callable[[], DynamicCache]) -> Tensor:
        """Logits [1, n, V] of the first tokens in float64, by ordinary forward passes of the model."""
        with rotary_state_kept(self.model):
            cache = empty_cache()
            return torch.cat([self._logits(chunk, cache) for chunk in _tried(ids_T)], dim=1)

    def _logits(self, chunk_T: Tensor, cache: DynamicCache) -> Tensor:
        logits: Tensor = self.model(chunk_T[None], past_key_values=cache).logits
        return logits.double()

    @torch.no_grad()
    def check(self, ids_T: Tensor, empty_cache: Callable[[], DynamicCache]) -> None:
        """Compare with ordinary forward passes over the first tokens: layers may pass on more than hidden states.

        Raises: UnsupportedModelError if the logits differ.
        """
        own_1TV = self._own_logits(ids_T, empty_cache)
        if not own_1TV.isfinite().all():
            return  # nothing to compare: the caller gets the same logits
        found = torch.cat(list(self.run(_tried(ids_T), empty_cache, self._logits)), dim=1)
        near = torch.finfo(self.model.dtype).eps ** 0.5
        if not torch.allclose(found, own_1TV, rtol=0, atol=near * float(own_1TV.abs().max())):
            raise refused(self.model)


def _tried(ids_T: Tensor) -> tuple[Tensor, ...]:
    """The first tokens, in two chunks."""
    return torch.split(ids_T[:TRIED], max(1, min(TRIED, len(ids_T)) // 2))


def refused(model: PreTrainedModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the decoder of {type(model).__name__} is not a plain stack of layers that pass on hidden states alone, so "
        "it cannot run layer by layer."
    )


class _Active(StandIn):
    """The one layer that runs, on the previous layer's output for the same chunk."""

    def __init__(self, layer: nn.Module, states_ND: Tensor | None, refusal: UnsupportedModelError) -> None:
        super().__init__(layer)
        self.__dict__.update(states_ND=states_ND, refusal=refusal)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Raises: UnsupportedModelError for a layer that returns more than hidden states."""
        given = self.__dict__["states_ND"]
        if given is not None:
            given = given[None].to(_hidden(args, kwargs).device)
            args, kwargs = ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})
        states = self.__dict__["module"](*args, **kwargs)
        if isinstance(states, Tensor):
            return states
        raise self.__dict__["refusal"]


class _Given(StandIn):
    """Returns given hidden states instead of its input."""

    def __init__(self, layer: nn.Module, states_1ND: Tensor) -> None:
        super().__init__(layer)
        self.__dict__["states"] = states_1ND

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        states: Tensor = self.__dict__["states"]
        return states.to(_hidden(args, kwargs).device)


class _Idle(StandIn):
    """Returns its input."""

    def __init__(self, layer: nn.Module, keep: Callable[[Tensor], None] | None) -> None:
        super().__init__(layer)
        self.__dict__["keep"] = keep

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        states, keep = _hidden(args, kwargs), self.__dict__["keep"]
        if keep is not None:
            keep(states)
        return states


class _Elsewhere(CacheLayerMixin):  # type: ignore[misc]
    """The empty cache layer of an idle layer, which reports the length of the one that runs."""

    def __init__(self, layer: CacheLayerMixin, running: CacheLayerMixin, refusal: UnsupportedModelError) -> None:
        self.is_initialized, self.is_sliding = False, layer.is_sliding
        self._running, self._refusal = running, refusal

    def get_seq_length(self) -> int:
        return int(self._running.get_seq_length())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        sizes: tuple[int, int] = self._running.get_mask_sizes(query_length)
        return sizes

    def get_max_length(self) -> int:
        return -1

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise self._refusal

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise self._refusal


def _alone(model: PreTrainedModel, cache: DynamicCache, index: int, length: int) -> list[CacheLayerMixin]:
    """The layers of a cache, all but layer `index` replaced by `_Elsewhere`.

    Raises: UnsupportedModelError unless that layer alone has stored all `length` tokens, as keys and values.
    """
    layers = cache.layers
    if len(layers) <= index or not all(isinstance(layer, DynamicLayer | _Elsewhere) for layer in layers):
        raise refused(model)
    running = layers[index]
    others = [layer for layer in layers if layer is not running]
    if running.get_seq_length() != length or any(layer.is_initialized for layer in others):
        raise refused(model)
    return [layer if layer is running else _Elsewhere(layer, running, refused(model)) for layer in layers]


def _is_stack(layers: nn.ModuleList, count: int) -> bool:
    """Whether these are `count` layers whose submodules have the number of their layer as `layer_idx`."""
    numbers = [
        {n for module in layer.modules() if isinstance(n := getattr(module, "layer_idx", None), int)}
        for layer in layers
    ]
    return len(layers) == count and all(found == {number} for number, found in enumerate(numbers))


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states
