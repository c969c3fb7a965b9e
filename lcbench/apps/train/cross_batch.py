"""Cross-batch training of the Focused Transformer: memory layers learn to find their own past among that of others.

A document of 2L tokens is two windows of L. All first windows run plainly. In the memory layers, the second window of
document b attends, in one softmax, to itself causally and to the first windows of the documents b, b + 1, ... b + d - 1
of the batch (in a ring): its own past, and d - 1 distractors. With i and j counted within their windows, the score of
query i is that of the relative position

    i - j   for key j <= i of its own window
    i       for every key of a first window: memory lies at the start of the window

and other layers see their own window only. Nothing is detached: the loss of a second window also teaches the keys and
values of the first windows that it saw, those of the other documents included.

Tworkowski et al., https://arxiv.org/abs/2307.03170, section 3.2. The published trainer (JAX, `fot_cross_batch` of
https://github.com/CStanKonrad/long_llama) goes about it differently: entry b of a batch sees its own window and r batch
entries before it (never a later one, so the first entries see fewer), entries are windows of documents packed k a
document, and with "stepping" entry p of its pack sees min(p * step + 1, r + 1, b + 1) of them,
step = ceil((r + 1) / max(k - 1, 1)); contexts of the same document are the positives among them. Here every document
has one positive and the same number of negatives.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lcbench.attention.attend import Part, Scoring, attend_parts
from lcbench.attention.mask import Span, span_mask
from lcbench.attention.probe import attention_set_to, probe, rotary_state_kept, unrotated
from lcbench.attention.rope import Rope, RopeTables
from lcbench.attention.steering import NAME as STEERED
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method
from lcbench.methods.pieces import Piece
from lcbench.methods.trained_length import trained_length

NAME = "lcbench-cross-batch"


def as_windows(x_BN: Tensor, context_length: int) -> Tensor:
    """Documents [B, 2L] -> what the model runs on in a block: windows [2B, L], the two of a document in turn.

    Raises: UserError for documents of another length.
    """
    if x_BN.shape[1] != 2 * context_length:
        raise UserError(
            f"cross-batch training takes documents of two windows, {2 * context_length} tokens, not {x_BN.shape[1]}."
        )
    return x_BN.reshape(-1, context_length)


class CrossBatch:
    """One block of cross-batch training of one model; made by `cross_batch`.

    `contexts` (d of the paper) is how many first windows a second one sees, its own included; it may be changed between
    two forward passes.
    """

    def __init__(
        self, model: PreTrainedModel, memory_layers: Sequence[int], context_length: int, contexts: int
    ) -> None:
        self.context_length, self.contexts = context_length, contexts
        self.memory_layers = frozenset(memory_layers)
        self.layers = probe(model)
        self._tables = RopeTables(Method(), Lengths(trained_length(model.config), context_length))
        self._check_layers(type(model).__name__)

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, **scores: Any) -> Tensor:
        """Un-rotated q [2B, H, L, D], k and v [2B, K, L, D] -> [2B, H, L, Dv], in the dtype of v."""
        layer, L = self.layers[module], q.shape[2]
        positions = torch.arange(L)
        q = self._tables.rotate(q, positions, layer.rope).to(v.dtype)
        local_k = self._tables.rotate(k, positions, layer.rope).to(v.dtype)
        if int(str(module.layer_idx)) not in self.memory_layers:
            return _attend(q, local_k, v, layer.window, **scores)
        first_k = self._tables.rotate(k[0::2], torch.zeros_like(positions), layer.rope).to(v.dtype)
        memory_k, memory_v = self._contexts_of(first_k), self._contexts_of(v[0::2])
        first = _attend(q[0::2], local_k[0::2], v[0::2], None, **scores)
        second = _attend(
            q[1::2], torch.cat([memory_k, local_k[1::2]], 2), torch.cat([memory_v, v[1::2]], 2), None, **scores
        )
        return torch.stack([first, second], dim=1).flatten(0, 1)

    def check(self, span: Span) -> None:
        """Raises: UserError for a call that is not a batch of documents in two windows."""
        rows = len(span.pads)
        if span.q_offset or span.q_length != self.context_length or rows % 2:
            raise UserError(
                f"a block of cross-batch training runs windows of {self.context_length} tokens, two a document, "
                f"without a cache; not {rows} rows of {span.q_length}."
            )
        if any(span.pads):
            raise UserError("cross-batch training takes documents without padding.")
        if not 1 <= self.contexts <= rows // 2:
            raise UserError(
                f"d = {self.contexts} contexts cannot come from a batch of {rows // 2} documents; "
                f"take 1 to {rows // 2}, or a larger batch."
            )

    def _contexts_of(self, x_BKLD: Tensor) -> Tensor:
        """First windows, one a document [B, K, L, D] -> those that each document sees, concatenated [B, K, d * L,
        D]."""
        B, K, _, D = x_BKLD.shape
        if self.contexts == 1:
            return x_BKLD
        ring = (torch.arange(B)[:, None] + torch.arange(self.contexts)) % B
        return x_BKLD[ring.to(x_BKLD.device)].transpose(1, 2).reshape(B, K, -1, D)

    def _check_layers(self, name: str) -> None:
        if not self.memory_layers:
            raise UserError("cross-batch training needs at least one memory layer; see --memory-layers.")
        by_index = {int(str(module.layer_idx)): layer for module, layer in self.layers.items()}
        for index in sorted(self.memory_layers):
            if index not in by_index:
                raise UserError(f"there is no attention layer {index} in {name}; its layers are 0 to {max(by_index)}.")
            window = by_index[index].window
            if window is not None and window < self.context_length:
                raise UserError(
                    f"layer {index} of {name} attends within {window} tokens only and cannot have memory; "
                    "choose another layer."
                )


@contextlib.contextmanager
def cross_batch(
    model: PreTrainedModel, memory_layers: Sequence[int], context_length: int, contexts: int = 1
) -> Iterator[CrossBatch]:
    """Inside, the model attends as in cross-batch training:

        with cross_batch(model, [1], 256, contexts=16):
            model(as_windows(ids, 256), labels=as_windows(labels, 256), use_cache=False).loss.backward()

    `memory_layers` count from 0, `context_length` is L in tokens, `contexts` is d. It works on every model that can be
    steered, and leaves it as it was. backward() of a model with gradient checkpointing belongs inside the block.

    Raises: UserError for layers that the model does not have or that slide, or a model that is in a block already;
    UnsupportedModelError for a model that cannot be steered; in a forward pass, UserError for another shape than
    `as_windows` makes, for padding, and for fewer documents than contexts.
    """
    if model.config._attn_implementation in (NAME, STEERED):
        raise UserError(f"this {type(model).__name__} is steered already; leave that block first.")
    block = CrossBatch(model, memory_layers, context_length, contexts)
    with contextlib.ExitStack() as stack:
        stack.enter_context(rotary_state_kept(model))
        for module in block.layers:
            _blocks[module] = block
            stack.callback(_blocks.pop, module, None)
        stack.enter_context(attention_set_to(model, NAME))
        stack.enter_context(unrotated(model))
        yield block


_blocks: weakref.WeakKeyDictionary[nn.Module, CrossBatch] = weakref.WeakKeyDictionary()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def cross_batch_attention(
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
    """The attention function that is registered with `transformers`; signature and shapes are theirs."""
    block = _blocks.get(module)
    if block is None:
        raise UserError("this attention layer belongs to no block of cross-batch training; call backward() inside it.")
    if not isinstance(attention_mask, Span):
        raise UserError("cross-batch training takes no prepared attention mask; leave it out.")
    if dropout:
        raise UserError("lcbench has no attention dropout; set attention_dropout to 0.")
    block.check(attention_mask)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = block.attend(module, query, key, value, scale=scale, softcap=softcap, sinks_H=s_aux)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, cross_batch_attention)
AttentionMaskInterface.register(NAME, torch.compiler.disable(span_mask))  # type: ignore[no-untyped-call]


def _attend(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    window: int | None,
    scale: float,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Rotated queries over rotated keys, of which the last T are their own -> [B, H, T, Dv].

    Every query sees all keys up to its own; with a `window`, the last so many. PyTorch's fused kernels, unless the
    model bounds its scores or has sinks, which they do not know.
    """
    T, S = q_BHTD.shape[2], k_BKSD.shape[2]
    stop = torch.arange(S - T, S) + 1
    start = torch.zeros_like(stop) if window is None else (stop - window).clamp(min=0)
    if softcap is not None or sinks_H is not None:
        piece = Piece(torch.arange(T), torch.arange(S), start, stop)
        scoring = Scoring(Rope(None), RopeTables(Method(), Lengths(S)), scale, softcap, sinks_H)
        return attend_parts(q_BHTD, [Part(k_BKSD, v_BKSD, 0, [piece])], scoring)
    groups = q_BHTD.shape[1] // k_BKSD.shape[1]
    if groups > 1:
        k_BKSD, v_BKSD = k_BKSD.repeat_interleave(groups, 1), v_BKSD.repeat_interleave(groups, 1)
    plain = S == T and window is None
    j = torch.arange(S)
    seen = None if plain else ((j >= start[:, None]) & (j < stop[:, None])).to(q_BHTD.device)
    return scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=seen, is_causal=plain, scale=scale)
