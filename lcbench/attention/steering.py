"""Steer a model: its attention is computed as a method says; weights and code of the model stay unchanged.

Inside the block, a hook hides the rotation from the model, so that queries, keys and the KV cache stay un-rotated, and
the model calls `steered_attention`, which rotates queries and keys to the positions in the method's pieces.

Do not use the same model in another thread meanwhile: it would be steered there too, which cannot be detected.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from functools import cache, lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from lcbench.attention.attend import Scoring, attend
from lcbench.attention.backends.dispatch import BackendSelector
from lcbench.attention.cache.growing import key_storage
from lcbench.attention.cache.watch import CacheWatch, layer_index
from lcbench.attention.cache.window import GONE, Keys
from lcbench.attention.content import ContentCall, Row, chooses
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
from lcbench.attention.rope import RopeTables, scales
from lcbench.attention.views import View
from lcbench.attention.weights import LastQuery, Observer
from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.base import layer_scale
from lcbench.methods.pieces import Piece
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
    follows from it, such as `factor`, and an upper bound on what the block may process. `attention` is the backend:
    `auto` (the fastest that supports a call) or one of `lcbench.attention.backends`. `kv_dtype` and `kv_offload` are
    the dtype and place of the keys and values in a KV cache (`lcbench.attention.cache.growing`). One thread and one
    block at a time per model. A KV cache that is filled in a block contains un-rotated keys and can be used in blocks
    only. The returned object has
    `layers_steered`, the resolved `method`, and the `backends` used so far.

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
        self._chooses = chooses(self.method, attention)
        self.layers: dict[nn.Module, ProbedLayer] = {}
        self.layers_steered = 0
        self.position_ids: Tensor | None = None
        self.observer: Observer | None = None  # called with the last query of every call of a layer
        self._outgrown = False
        self._undo = contextlib.ExitStack()
        self._view = lru_cache(maxsize=None)(self._make_view)  # cleared once per forward pass

    @property
    def backends(self) -> list[str]:
        """The backends used in this block so far, such as `flash (FA2)` or `matmul`."""
        return self._selector.used

    def __enter__(self) -> PreTrainedModel:
        if any(module in _steered for module in self.model.modules()):
            raise UserError(f"this {type(self.model).__name__} is steered already; leave that block first.")
        self.layers = probe(self.model)
        self.layers_steered = sum(map(self._steers, self.layers))
        self._require_layers_to_steer()
        self.tables = RopeTables(self.method, self.lengths)
        for layer in self.layers.values():
            self.tables.check(layer.rope)
        full = [module for module, layer in self.layers.items() if not self._slides(layer.window)]
        self.caches = CacheWatch(self.method, full, self.model.config.get_text_config(), self._storage)
        self._require_memory_in(full)
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

    def _require_layers_to_steer(self) -> None:
        """Raises: UserError if the method changes no layer; UnsupportedModelError if it scales frequencies that
        already depend on the length."""
        if not self.layers_steered:
            raise UserError(self._why_nothing_is_steered())
        for layer in self.layers.values():
            scaled = scales(self.method, layer.rope) and not self.method.replaces_scaling
            if scaled and layer.rope.depends_on_length:
                raise UnsupportedModelError(
                    f"the RoPE of {type(self.model).__name__} ({layer.rope.kind}) follows the length by itself; "
                    f"{self.method.label} cannot scale it again: use a position plan such as self_extend or dca."
                )

    def _require_memory_in(self, full: list[nn.Module]) -> None:
        """Raises: UserError if the method has memory in a layer without full attention."""
        for module in self.layers.keys() - set(full):
            if self.method.forgets and self.caches.memory(module):
                raise UserError(
                    f"layer {layer_index(module)} of {type(self.model).__name__} attends within its own sliding window "
                    f"and can hold no memory; {self.method.label} needs another layer."
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        """Refused: the hooks of the model refer to this object, and a copy of the model would be steered in part."""
        raise UserError(f"a steered {type(self.model).__name__} cannot be copied; copy it outside the block.")

    def attend(self, module: nn.Module, span: Span, q: Tensor, k: Tensor, v: Tensor, **scores: Any) -> Tensor:
        """Un-rotated q [B, H, T, D], k and v [B, K, S, D] -> [B, T, H, D]; the output of padded queries is 0.

        `k` and `v` end with this call's tokens (a static cache may have unused rows after them); earlier tokens may
        have been dropped by the cache.
        """
        total = span.q_offset + span.q_length
        store, growing = self.caches.store(module, k.shape[1]), self.caches.growing(module)
        if k.shape[2] > total:
            k, v = k[:, :, :total], v[:, :, :total]
        first = 0 if self.method.evicts and growing is not None else total - k.shape[2]
        keys = Keys(k, v, first, store, growing)
        layer, index = self.layers[module], layer_index(module) if self.method.layerwise else 0
        scoring = Scoring(layer.rope, self.tables, selector=self._selector, **scores)
        content = self._content_call(module, keys, scoring) if self._chooses else None
        if self.method.headwise:
            self._require_all_heads(k.shape[1])
        out = None if span.whole else q.new_zeros(*q.shape[:3], v.shape[-1])
        for rows, pad in span.rows:
            first_query = max(0, pad - span.q_offset)
            i0, i1 = span.q_offset + first_query - pad, total - pad
            if i0 >= i1:
                continue
            prompt = self.caches.prompt(pad)
            view = self._view(i0, i1, keys.origin(pad), layer.window, index, prompt, q.device, q.dtype)
            queries = q if span.whole else q[rows, :, first_query:]
            if view.factor_T1 is not None:
                queries = queries * view.factor_T1
            if content is None:
                answer = attend(queries, keys, view.pieces, rows, pad, scoring, view.look)
            else:
                answer = content.attend(queries, Row(rows, pad, view, prompt))
            if self.observer is not None and len(q) == 1 and not pad:
                shown = [piece.of_queries(slice(-1, None)) for piece in view.pieces]
                ends = queries[:, :, -1:], answer[:, :, -1:]
                self.observer(LastQuery(layer_index(module), i1 - 1, ends[0], keys, shown, scoring, ends[1]))
            if out is None:
                out = answer
            else:
                out[rows, :, first_query:] = answer
        if content is not None:
            content.end(span.pads)
        assert out is not None
        return out.transpose(1, 2).contiguous()

    def _content_call(self, module: nn.Module, keys: Keys, scoring: Scoring) -> ContentCall | None:
        """For methods that look at content, this call of a layer; None for the model's own sliding windows."""
        if self._slides(self.layers[module].window):
            return None
        return ContentCall(self.method, layer_index(module), keys, scoring, self.caches.cache)

    def _require_all_heads(self, kv_heads: int) -> None:
        """Raises: UserError if attention gets other KV heads than the model's: a part of them, or repeated ones."""
        config = self.model.config.get_text_config()
        expected = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if kv_heads != expected:
            raise UserError(
                f"{self.method.label} names KV heads, and attention of {type(self.model).__name__} gets {kv_heads} "
                f"instead of {expected} of them here; use a model on one device."
            )

    def check(self, span: Span) -> None:
        """Raises: UserError if the forward pass began in another block (a checkpoint that is recomputed too late), or
        if its position_ids are not 0, 1, 2, ... after the padding.

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
        self._view.cache_clear()
        if self.position_ids is None:
            return
        given = self.position_ids[..., -span.q_length :].reshape(-1, span.q_length)
        if not _in_order(given, span):
            raise UserError(
                "lcbench works out positions from the cache and the padding; these position_ids differ "
                "(packed sequences, or shifted positions): leave them out."
            )

    def _make_view(
        self,
        i0: int,
        i1: int,
        first_key: int,
        window: int | None,
        layer: int,
        prompt: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> View:
        """What the queries i0 <= i < i1 see; sliding-window layers stay as trained.

        Raises: UserError if they see a key before `first_key`, the first that is still in the cache, or if the run
        exceeds a window that was treated as full attention.
        """
        i, j = torch.arange(i0, i1), torch.arange(first_key, i1)
        if self.lengths.run is not None and i1 > self.lengths.run and not self._outgrown:
            self._outgrown = True  # warned once, no error: speculative decoding drafts a few tokens beyond the end
            logger.warning("this run has %d tokens, but was said to have %d; mend length=...", i1, self.lengths.run)
        if not self._slides(window):
            if window is not None and i1 > window:
                raise UserError(f"{type(self.model).__name__} has a sliding window of {window} tokens; set it to null.")
            method = self.method.for_prompt(prompt)
            pieces, factor = method.pieces(i, j, layer), layer_scale(method, i, self.lengths, layer)
        else:
            assert window is not None
            unit = self.method.position_unit
            pieces, factor = [Piece(i * unit, j * unit, start=(i - window + 1).clamp(min=0), stop=i + 1)], None
        if first_key and any(((piece.start < first_key) & (piece.start < piece.stop)).any() for piece in pieces):
            if self.method.forgets and not self._slides(window):
                raise UserError(GONE)
            raise UserError(
                f"an attention layer of {type(self.model).__name__} got only the last {len(j)} of {i1} keys: its cache "
                "forgets, its attention does not; pass past_key_values=DynamicCache()."
            )
        if factor is not None:
            factor = factor[:, None].to(device, dtype)
        return View(pieces, factor, first_key, self.tables.ways)

    def _slides(self, window: int | None) -> bool:
        """Whether a layer was trained with a window that hides keys; a window of at least the pretraining length
        (Phi-3: 262144) hid none in training, and is treated as full attention."""
        return window is not None and window < self.lengths.pretraining

    def _steers(self, module: nn.Module) -> bool:
        """Whether the method can change the output of this layer; for vanilla, every layer counts.

        A layer with a sliding window keeps its positions; a layer without rotation (NoPE) has none, so that a position
        plan matters there only if it hides keys.
        """
        hooks, layer = self.method.hooks, self.layers[module]
        if not hooks or scales(self.method, layer.rope):
            return True
        if self._slides(layer.window):
            return False
        if self._chooses:
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
        windows = [layer.window for layer in self.layers.values() if self._slides(layer.window)]
        name = type(self.model).__name__
        if windows:
            return (
                f"{self.method.label} steers no layer of {name}: those that rotate attend within a sliding window of "
                f"{windows[0]} tokens; set sliding_window to null in its config to give them full attention."
            )
        return f"{self.method.label} steers no layer of {name}: none of its {len(self.layers)} layers rotates."

    def _note_positions(self, rotary: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.model.config._attn_implementation != NAME:
            raise UserError("the attention implementation was set inside a steered block; set it outside.")
        self.position_ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)


def _in_order(given_BT: Tensor, span: Span) -> bool:
    """Whether position_ids [B, T], or [1, T] for all rows, are those of the span, with or without the padding."""
    at = torch.arange(span.q_offset, span.q_offset + span.q_length, device=given_BT.device)
    plain = (given_BT == at).all(-1)
    if plain.all():
        return True
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
            "this attention layer belongs to no steered model: it shares its config with one, or runs after its block "
            "ended."
        )
    if not isinstance(attention_mask, Span):
        raise UserError(
            f"lcbench needs a 2-D attention_mask or none, not a prepared {type(attention_mask).__name__}: pass which "
            "tokens are padding."
        )
    if dropout:
        raise UserError("lcbench has no attention dropout; call model.eval(), or set attention_dropout to 0.")
    steering.check(attention_mask)
    scores = {"softcap": softcap, "sinks_H": s_aux}
    given = {name: value for name, value in scores.items() if value is not None}
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return steering.attend(module, attention_mask, query, key, value, scale=scale, **given), None


@cache
def _register() -> None:
    """Register both functions with `transformers`, when the first block is entered: importing its modelling code and
    PyTorch's compiler takes seconds, and a loaded model has imported them already."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, torch.compiler.disable(steered_attention))  # type: ignore[no-untyped-call]
    AttentionMaskInterface.register(NAME, torch.compiler.disable(span_mask))  # type: ignore[no-untyped-call]
