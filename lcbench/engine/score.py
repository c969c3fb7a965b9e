"""Negative log-likelihoods of tokens: prefill through the KV cache or layer by layer, logits in tiles.

The logits of a long text are larger than everything else together (128k tokens by a vocabulary of 128k are 34 GB in
bfloat16), and nobody looks at them: of each row one number is kept. So they are made of the hidden states a tile at a
time, by the model's own code, which may do more than multiply: Gemma 2 caps its logits, Cohere and Granite scale them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.core.errors import UnsupportedModelError
from lcbench.engine.generate import PREFILL_CHUNK
from lcbench.engine.layerwise import LayerStack, StandIn
from lcbench.engine.new_cache import new_cache

TILE_LOGITS = 2**26  # logits that exist at a time: 256 MiB in float32, and as much again while they are summed


@dataclass(frozen=True)
class TokenScores:
    """nll [n]: float32 on the CPU, in nats; and the seconds that it took."""

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
) -> TokenScores:
    """-ln p(token | all tokens before it) of tokens[first:], `first` from 1: nothing stands before the token 0.

    Computed in float32, or in the model's dtype where that is wider. `layerwise` goes layer by layer and keeps one
    layer's keys and values at a time; the numbers are the same. `chunk_size`: tokens a forward call, by default as many
    as in generation.
    Raises: UnsupportedModelError for a model whose logits do not follow from its hidden states alone, or that cannot
    run layer by layer.
    """
    if not 1 <= first < len(tokens):
        raise ValueError(f"of {len(tokens)} tokens those from {first} on cannot be scored")
    device = execution_device(model)
    started = time.perf_counter()
    ids_T = torch.tensor(tokens, device=device)
    # Nothing follows the last token that it could predict.
    chunks = torch.split(ids_T[:-1], chunk_size or PREFILL_CHUNK)

    def empty_cache() -> DynamicCache:
        return new_cache(model.config, len(tokens))

    def call(chunk_T: Tensor, cache: DynamicCache) -> _States:
        return _States.of(model, chunk_T[None], cache)

    if layerwise:
        stack = LayerStack(model)
        stack.check(ids_T, empty_cache)
        passes = stack.run(chunks, empty_cache, call)
    else:
        cache = empty_cache()
        passes = (call(chunk_T, cache) for chunk_T in chunks)
    # One tensor, not many small ones between the tiles, which would tear the heap.
    nll = torch.empty(len(tokens) - first, dtype=torch.float32, device=device)
    begin = done = 0
    for chunk_T, states in zip(chunks, passes, strict=True):
        if begin == 0:
            states.check()
        skipped = max(first - 1 - begin, 0)
        for rows in _tiles(skipped, len(chunk_T), states.tile):
            targets = ids_T[begin + 1 + rows.start : begin + 1 + rows.stop]
            nll[done : done + len(targets)] = _nll(states.logits(rows)[0], targets)
            done += len(targets)
        begin += len(chunk_T)
    nll = nll.cpu()  # waits for the device
    return TokenScores(nll, time.perf_counter() - started)


@dataclass(frozen=True)
class _States:
    """What the body of a model made of a chunk, and the model's own logits [1, 1, V] of its last position."""

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
        try:
            logits = model(chunk_1T, past_key_values=cache, logits_to_keep=1).logits
        finally:
            hook.remove()
        if len(caught) != 1 or not is_dataclass(caught[0]):
            raise _unsupported(model)
        return cls(model, caught[0], logits[:, -1:])

    @property
    def tile(self) -> int:
        """Rows of a tile."""
        return max(1, TILE_LOGITS // self.last_11V.shape[-1])

    def logits(self, rows: slice) -> Tensor:
        """Logits [1, rows, V], by the model's code behind its body. Its hooks do not run: nothing is read anew."""
        part = replace(self.output, last_hidden_state=self.output.last_hidden_state[:, rows])
        with _body_answers(self.model, part):
            ids = torch.zeros(1, rows.stop - rows.start, dtype=torch.long, device=self.last_11V.device)
            logits: Tensor = self.model.forward(ids).logits
        return logits

    def check(self) -> None:
        """Raises: UnsupportedModelError unless the last position comes out as the model itself has it."""
        size = self.output.last_hidden_state.shape[1]
        found, own = self.logits(slice(size - 1, size)).double(), self.last_11V.double()
        near = torch.finfo(self.last_11V.dtype).eps ** 0.5
        if found.shape != own.shape or not torch.allclose(found, own, rtol=0, atol=near * float(own.abs().max())):
            raise _unsupported(self.model)


class _KnownBody(StandIn):
    """Stands for the body of a model, and answers what is known already."""

    def __init__(self, body: nn.Module, output: Any) -> None:
        super().__init__(body)
        self.__dict__["output"] = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.__dict__["output"]


@contextmanager
def _body_answers(model: PreTrainedModel, output: Any) -> Iterator[None]:
    """The body is exchanged as a whole, so that whatever hooks and wrappers it has (of accelerate, say) stay as
    they are and see nothing."""
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
    """Both on the logits' device, which need not be that of the tokens."""
    wide = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    targets = targets_T.to(wide.device)[:, None]
    return wide.logsumexp(-1) - wide.gather(-1, targets)[:, 0]


def _unsupported(model: PreTrainedModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the logits of {type(model).__name__} do not follow from the hidden states of its `{model.base_model_prefix}` "
        "alone, so that its perplexity cannot be had in bounded memory."
    )
