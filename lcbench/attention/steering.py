"""Steer a model: its attention is computed under a method; the model's weights and code stay unchanged.

Inside the block, a hook hides the rotation from the model, so that queries, keys and the KV cache stay un-rotated, and
the model calls `steered_attention`, which rotates queries and keys to the positions in the method's pieces.

Do not use the same model in another thread meanwhile: it would be steered there too, which cannot be detected.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from lcbench.attention.backends.dispatch import BackendSelector
from lcbench.attention.cache.growing import key_storage
from lcbench.attention.cache.watch import CacheWatch
from lcbench.attention.calls import Calls
from lcbench.attention.mask import Span, span_mask
from lcbench.attention.options import AUTO, AttentionOptions
from lcbench.attention.probe import (
    ProbedLayer,
    attention_set_to,
    probe,
    require_rotary,
    rotary_modules,
    rotary_state_kept,
    unrotated,
)
from lcbench.attention.reach import Reach
from lcbench.attention.rope import RopeTables
from lcbench.attention.weights import Observer
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.base import CONTENT
from lcbench.methods.trained_length import trained_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "lcbench"
logger = logging.getLogger("lcbench")


def extend(
    model: PreTrainedModel,
    method: str | Method,
    *,
    length: int | None = None,
    attention: str = AUTO,
    kv_dtype: str = "auto",
    kv_offload: bool = False,
    **options: Any,
) -> Steering:
    """Run a model with a context-extension method:

        with lcbench.extend(model, "dca", chunk_size=48) as model:
            model.generate(...)

    `method` is a name with options as on the command line ("dca+yarn:factor=4") or a Method; `options` are its
    options. `length` is the whole length of the run in tokens, prompt and generation: required by options whose default
    depends on it, such as `factor`, and an upper bound on what the block may process. `attention` is the backend:
    `auto` (the fastest that supports a call) or one of `lcbench.attention.backends`. `kv_dtype` and `kv_offload` are
    the dtype and place of the keys and values in a KV cache (`lcbench.attention.cache.growing`). Use one thread and one
    block at a time per model. A KV cache that was filled in a block contains un-rotated keys and is valid only in
    blocks. The returned object has `layers_steered`, the resolved `method`, and the `backends` used so far.

    Raises: UserError for invalid options, for a model that is steered already, for a method that changes no layer of
    this model, and for a backend that does not run on this machine or, in the block, does not support a call;
    UnsupportedModelError for a model that cannot be steered.
    """
    chosen = AttentionOptions(attention, kv_dtype, kv_offload)
    steering = Steering(model, parse_method(method, **options), length, chosen)
    if advice := steering.method.advice(steering.lengths):
        logger.warning(advice)
    return steering


class Steering:
    """One steered block of one model; made by `extend`."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        length: int | None = None,
        attention: AttentionOptions | None = None,
    ) -> None:
        require_rotary(model)
        attention = attention or AttentionOptions()
        self._storage = key_storage(attention.kv_dtype, attention.kv_offload, model)
        self._selector = BackendSelector(attention.backend)
        self._selector.check(model.device)
        self.model = model
        self.lengths = Lengths(trained_length(model.config), length)
        self.method = method.for_model(model.config.get_text_config()).resolve(self.lengths)
        attention.check_method(self.method)
        self.layers: dict[nn.Module, ProbedLayer] = {}
        self.layers_steered = 0
        self.position_ids: Tensor | None = None
        self.observer: Observer | None = None  # called with the last query of every attention call
        self._undo = contextlib.ExitStack()

    @property
    def backends(self) -> list[str]:
        """The backends used in this block so far, such as `flash (FA2)` or `matmul`."""
        return self._selector.used

    def __enter__(self) -> PreTrainedModel:
        if any(module in _steered for module in self.model.modules()):
            raise UserError(f"this {type(self.model).__name__} is steered already; leave that block first.")
        self.layers = probe(self.model)
        reach = Reach(self.model, self.method, self.lengths, self.layers)
        reach.check()
        self.layers_steered = reach.steered
        tables = RopeTables(self.method, self.lengths)
        for layer in self.layers.values():
            tables.check(layer.rope)
        config = self.model.config.get_text_config()
        self.caches = CacheWatch(self.method, reach.full, config, self._storage)
        reach.check_memory(self.caches)
        self.calls = Calls(config, reach, tables, self.caches, self._selector, bool(self.method.hooks & CONTENT))
        with contextlib.ExitStack() as stack:
            stack.enter_context(rotary_state_kept(self.model))
            for rotary in rotary_modules(self.model):
                stack.callback(rotary.register_forward_pre_hook(self._note_positions, with_kwargs=True).remove)
            stack.callback(self.model.register_forward_pre_hook(self.caches.begin, with_kwargs=True).remove)
            stack.callback(self.model.register_forward_hook(self.caches.end, always_call=True).remove)
            for module in self.layers:
                _steered[module] = self
                stack.callback(_steered.pop, module, None)
            _register()
            stack.enter_context(attention_set_to(self.model, NAME))
            stack.enter_context(unrotated(self.model))
            self._undo = stack.pop_all()
        logger.info("%s steers %d of %d attention layers", self.method, self.layers_steered, len(self.layers))
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        """Raises: UserError, since the model's hooks refer to this object: a copy would be steered only in part."""
        raise UserError(f"a steered {type(self.model).__name__} cannot be copied; copy it outside the block.")

    def attend(self, module: nn.Module, span: Span, q: Tensor, k: Tensor, v: Tensor, **scores: Any) -> Tensor:
        """`Calls.attend`, with the block's observer."""
        return self.calls.attend(module, span, q, k, v, self.observer, **scores)

    def check(self, span: Span) -> None:
        """Raises: UserError if the forward pass began in another block (gradient checkpointing that recomputes too
        late), or if its position_ids are not 0, 1, 2, ... after the padding.

        Positions are computed from the cache and the padding; other `position_ids` (packed sequences, shifted
        positions) would be ignored.
        """
        if span.block is self:
            return  # checked once per forward pass
        if span.block is not None:
            raise UserError(
                "this forward pass began in another block; call backward() inside the block of its forward."
            )
        span.block = self
        self.caches.span = span
        self.calls.views.clear()
        if self.position_ids is None:
            return
        given = self.position_ids[..., -span.q_length :].reshape(-1, span.q_length)
        # Bamba itself counts from 0 in every call; positions from the cache correct that.
        if not _in_order(given, span) and (self.caches.positions_given or not _from_zero(given)):
            raise UserError(
                "lcbench computes positions from cache and padding; these position_ids differ (packed sequences "
                "or shifted positions): leave them out."
            )

    def _note_positions(self, rotary: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.model.config._attn_implementation != NAME:
            raise UserError("the attention implementation was set inside a steered block; set it outside.")
        self.position_ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)


def _from_zero(given_BT: Tensor) -> bool:
    """Whether position_ids [B, T] count from 0 in every row."""
    return bool((given_BT == torch.arange(given_BT.shape[-1], device=given_BT.device)).all())


def _in_order(given_BT: Tensor, span: Span) -> bool:
    """Whether position_ids [B, T], or [1, T] for all rows, are those of the span, with or without the padding."""
    at = torch.arange(span.q_offset, span.q_offset + span.q_length, device=given_BT.device)
    if torch.equal(given_BT, at.expand_as(given_BT)):
        return True
    plain = (given_BT == at).all(-1)
    pads = torch.tensor(span.pads, device=given_BT.device)[:, None]
    if len(given_BT) not in (1, len(pads)):
        pads = pads.repeat(len(given_BT) // len(pads), 1)
    padded = ((given_BT == at - pads) | (at < pads)).all(-1)
    return bool((plain | padded).all())


_steered: weakref.WeakKeyDictionary[nn.Module, Steering] = weakref.WeakKeyDictionary()


def steered_method(model: nn.Module) -> Method | None:
    """The resolved method of the block that steers this model, None outside a block."""
    return next((_steered[module].method for module in model.modules() if module in _steered), None)


def steered_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function registered with `transformers`: query [B, H, T, D], key and value [B, K, S, D] ->
    output [B, T, H, D] and None for the weights.

    Raises: UserError for a mask that is not a `Span`, dropout, or a layer that is not steered.
    """
    steering = _steered.get(module)
    if steering is None:
        raise UserError(
            "this attention layer belongs to no steered model: its model shares a config with a steered one, or runs "
            "after the block ended."
        )
    if not isinstance(attention_mask, Span):
        raise UserError(
            f"lcbench needs a 2-D attention_mask that marks padding, or none, not a prepared "
            f"{type(attention_mask).__name__}."
        )
    if dropout:
        raise UserError("lcbench does not support attention dropout; call model.eval(), or set attention_dropout to 0.")
    steering.check(attention_mask)
    scores = {"softcap": softcap, "sinks_H": s_aux}
    given = {name: value for name, value in scores.items() if value is not None}
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return steering.attend(module, attention_mask, query, key, value, scale=scale, **given), None


@cache
def _register() -> None:
    """Register both functions with `transformers` when the first block is entered: importing its modelling code and
    PyTorch's compiler takes seconds, and a loaded model has imported them already."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, torch.compiler.disable(steered_attention))  # type: ignore[no-untyped-call]
    AttentionMaskInterface.register(NAME, torch.compiler.disable(span_mask))  # type: ignore[no-untyped-call]
