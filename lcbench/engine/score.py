"""Negative log-likelihoods of tokens: prefill through the KV cache or layer by layer, logits in tiles.

The logits of a long text are larger than everything else together (128k tokens by a vocabulary of 128k are 34 GB in
bfloat16), and only one number per row is needed. So they are computed from the hidden states one tile at a time, by the
model's own code, which may do more than a matrix product: Gemma 2 caps its logits, Cohere and Granite scale them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.core.errors import UnsupportedModelError
from lcbench.engine.finite import not_finite, require_usable
from lcbench.engine.generate import PREFILL_CHUNK
from lcbench.engine.layerwise import LayerStack, StandIn
from lcbench.engine.new_cache import new_cache

TILE_LOGITS = 2**26  # logits in memory at a time: 256 MiB in float32, and as much again in logsumexp


@dataclass(frozen=True)
class TokenScores:
    """Negative log-likelihoods nll [n] in nats, float32 on the CPU, and the seconds of their computation."""

    nll: Tensor
    seconds: float


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel,
    tokens: Sequence[int],
    first: int = 1,
    *,
    layerwise: bool = False,
    chunk_size: int | None = None,
    on_prefill: Callable[[float], None] | None = None,
) -> TokenScores:
    """-ln p(token | all tokens before it) of tokens[first:]; `first` is at least 1, as token 0 has no context.

    Computed in float32, or in the model's dtype where that is wider. `layerwise` runs layer by layer with the keys
    and values of one layer at a time; the results are the same. `chunk_size`: tokens per forward call, by default
    PREFILL_CHUNK. `on_prefill` is called with the share of the forward calls that are done, before the first one and
    after each.

    Raises: NotFiniteError for logits that are NaN, infinite or all equal; UnsupportedModelError for a model whose
    logits depend on more than its last hidden states, or that cannot run layer by layer.
    """
    if not 1 <= first < len(tokens):
        raise ValueError(f"of {len(tokens)} tokens those from {first} on cannot be scored")
    device = execution_device(model)
    started = time.perf_counter()
    ids_T = torch.tensor(tokens, device=device)
    # The last token predicts nothing that is scored.
    chunk_size = chunk_size or PREFILL_CHUNK
    chunks = torch.split(ids_T[:-1], chunk_size)

    def empty_cache() -> DynamicCache:
        return new_cache(model.config, len(tokens))

    done_calls, calls = count(1), len(chunks)

    def call(chunk_T: Tensor, cache: DynamicCache) -> _States:
        states = _States.of(model, chunk_T[None], cache)
        if on_prefill:
            states.last_11V[0, 0, 0].item()  # waits for the GPU, which runs asynchronously
            on_prefill(next(done_calls) / calls)
        return states

    if on_prefill:
        on_prefill(0.0)
    if layerwise:
        stack = LayerStack(model)
        calls *= len(stack)
        stack.check(ids_T, empty_cache)
        passes = stack.run(chunks, empty_cache, call)
    else:
        cache = empty_cache()
        passes = (call(chunk_T, cache) for chunk_T in chunks)
    # Preallocated: many small tensors between large tiles would fragment the heap.
    nll = torch.empty(len(tokens) - first, dtype=torch.float32, device=device)
    begin = done = 0
    for chunk_T, states in zip(chunks, passes, strict=True):
        require_usable(model, states.last_11V[0], tokens, chunk_size)
        if begin == 0:
            states.check()
        skipped = max(first - 1 - begin, 0)
        for rows in _tiles(skipped, len(chunk_T), states.tile):
            targets = ids_T[begin + 1 + rows.start : begin + 1 + rows.stop]
            nll[done : done + len(targets)] = _nll(states.logits(rows)[0], targets)
            done += len(targets)
        begin += len(chunk_T)
    nll = nll.cpu()  # synchronises with the device
    if not nll.isfinite().all():
        raise not_finite(model, tokens, chunk_size, equal=not nll.isnan().any())
    return TokenScores(nll, time.perf_counter() - started)


@dataclass(frozen=True)
class _States:
    """The output of the model's body (without head) for a chunk, and the model's own logits [1, 1, V] of its last
    position."""

    model: PreTrainedModel
    output: Any
    last_11V: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel, chunk_1T: Tensor, cache: DynamicCache) -> _States:
        body = model._modules.get(model.base_model_prefix)
        caught: list[Any] = []
        if body is None:
            raise _unsupported(model)
        hook = body.register_forward_hook(lambda module, args, output: caught.append(output))
        last = torch.tensor([chunk_1T.shape[1] - 1])  # as a number, Gemma 4's body would drop all other states
        try:
            logits = model(chunk_1T, past_key_values=cache, logits_to_keep=last).logits
        finally:
            hook.remove()
        if len(caught) != 1 or not is_dataclass(caught[0]):
            raise _unsupported(model)
        return cls(model, caught[0], logits[:, -1:])

    @property
    def tile(self) -> int:
        """Rows (tokens) of a tile of logits."""
        return max(1, TILE_LOGITS // self.last_11V.shape[-1])

    def logits(self, rows: slice) -> Tensor:
        """Logits [1, rows, V], computed by the model's own code after its body; the model's forward hooks do not
        run."""
        part = replace(self.output, last_hidden_state=self.output.last_hidden_state[:, rows])
        with _body_answers(self.model, part):
            ids = torch.zeros(1, rows.stop - rows.start, dtype=torch.long, device=self.last_11V.device)
            logits: Tensor = self.model.forward(ids).logits
        return logits

    def check(self) -> None:
        """Raises: UnsupportedModelError if the recomputed logits of the last position differ from the model's own."""
        size = self.output.last_hidden_state.shape[1]
        found, own = self.logits(slice(size - 1, size)).double(), self.last_11V.double()
        near = torch.finfo(self.last_11V.dtype).eps ** 0.5
        if found.shape != own.shape or not torch.allclose(found, own, rtol=0, atol=near * float(own.abs().max())):
            raise _unsupported(self.model)


class _KnownBody(StandIn):
    """Replaces the body of a model and returns a given output."""

    def __init__(self, body: nn.Module, output: Any) -> None:
        super().__init__(body)
        self.__dict__["output"] = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.__dict__["output"]


@contextmanager
def _body_answers(model: PreTrainedModel, output: Any) -> Iterator[None]:
    """Inside, the model's body returns `output`. It is replaced as a whole, so that its hooks and wrappers
    (accelerate's, say) stay in place and do not run."""
    body = model._modules[model.base_model_prefix]
    assert body is not None
    model._modules[model.base_model_prefix] = _KnownBody(body, output)
    try:
        yield
    finally:
        model._modules[model.base_model_prefix] = body


def _tiles(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def _nll(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """-ln softmax(logits)[target] [T], computed on the device of the logits, which may not be that of the tokens.

    NaN where a logit is NaN or infinite, and infinite where all are equal: neither is a likelihood.
    """
    wide = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    targets = targets_T.to(wide.device)[:, None]
    nll = wide.logsumexp(-1) - wide.gather(-1, targets)[:, 0]
    low, high = wide.aminmax(dim=-1)
    return nll.masked_fill(low == high, torch.inf).masked_fill(~(low.isfinite() & high.isfinite()), torch.nan)


def _unsupported(model: PreTrainedModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the logits of {type(model).__name__} do not follow from the hidden states of its `{model.base_model_prefix}` "
        "alone, so its perplexity cannot be computed in bounded memory."
    )
