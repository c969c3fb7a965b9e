"""Logits that cannot be an answer (NaN, infinite, all equal) raise an error that names the layer they come from.

Half precision overflows without an error, and argmax of NaN is token 0. The check is one pass over the logits of one
position; only after a fault, a second forward pass searches for the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.attention.steering import steered_method
from lcbench.core.errors import NotFiniteError, out_of_memory
from lcbench.engine.new_cache import new_cache

BROKEN = "whose weights are not finite"
WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32", "float32": "float64"}


def unusable(logits_NV: Tensor) -> Tensor:
    """Mask [N] of the rows of logits with a NaN or infinite entry, or with all entries equal."""
    low, high = logits_NV.aminmax(dim=-1)
    return ~(low.isfinite() & high.isfinite() & (low < high))


def require_usable(model: PreTrainedModel, logits_NV: Tensor, tokens: Sequence[int], chunk_size: int) -> None:
    """Raises: NotFiniteError, after a forward pass over `tokens` to find the layer, if any row is unusable."""
    wrong = unusable(logits_NV)
    if wrong.any():
        raise not_finite(model, tokens, chunk_size, equal=bool(logits_NV[wrong].isfinite().all()))


@torch.no_grad()
def not_finite(
    model: PreTrainedModel, tokens: Sequence[int], chunk_size: int, *, equal: bool | None = None
) -> NotFiniteError:
    """The error for a model whose logits after `tokens` are unusable, with the first layer that is, and the way out.

    `equal`: whether they are finite and all equal; None if the forward pass, in chunks of `chunk_size`, should tell.
    """
    try:
        where, found = _search(model, tokens, chunk_size)
    except Exception as error:
        if not out_of_memory(error):
            raise
        where, found = "a layer that could not be found for lack of memory", False
    equal = found if equal is None else equal
    dtype = str(model.dtype).removeprefix("torch.")
    what = "are all equal" if equal else "are NaN or infinite"
    return NotFiniteError(f"the logits {what}, first in {where}, computed in {dtype}; {_way_out(model, dtype, where)}.")


def _search(model: PreTrainedModel, tokens: Sequence[int], chunk_size: int) -> tuple[str, bool]:
    """In words, the first place where hidden states are unusable; and whether the logits are finite and all equal."""
    cache, device = new_cache(model.config, len(tokens)), execution_device(model)
    with _watched(model) as faults:
        for chunk in torch.split(torch.tensor([list(tokens)], device=device), chunk_size, dim=1):
            logits = model(chunk, past_key_values=cache, logits_to_keep=1).logits[0, -1]
            if faults:
                return faults[0], False
    return "the output head, after the last layer", bool(logits.isfinite().all())


@contextmanager
def _watched(model: PreTrainedModel) -> Iterator[list[str]]:
    """Inside, places with hidden states that are not finite are recorded in the order of computation."""
    faults: list[str] = []

    def note(place: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if isinstance(states, Tensor) and not states.isfinite().all():
                broken = any(not weight.isfinite().all() for weight in module.parameters() if not weight.is_meta)
                faults.append(place + (f", {BROKEN}" if broken else ""))

        return hook

    layers = decoder_layers(model)
    handles = [
        layer.register_forward_hook(note(f"layer {n} of {len(layers)} (from 0)")) for n, layer in enumerate(layers)
    ]
    handles.append(model.get_input_embeddings().register_forward_hook(note("the embedding")))
    try:
        yield faults
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers, in order; empty for a model that does not keep them in one list."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return list(stacks[0]) if stacks else []


def _way_out(model: PreTrainedModel, dtype: str, where: str) -> str:
    """What may help: a dtype with a larger range, or other options of the method."""
    if BROKEN in where and dtype in ("float32", "float64"):  # a narrower one may have lost them on loading
        return "the checkpoint is damaged: download it again"
    wider = WIDER.get(dtype)
    ways = [f"run with --dtype {wider}"] if wider else []
    method = steered_method(model)
    if method is not None and ":" in str(method):
        ways.append(f"use other options than {method}")
    return ", or ".join(ways) or "check the weights of the model"
