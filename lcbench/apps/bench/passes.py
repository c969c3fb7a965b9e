"""What a turn of each measurement does: attention alone, one decoder layer, the whole model, and a matrix product."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lcbench.apps.bench.memory import release_freed_memory
from lcbench.apps.bench.subjects import Subject
from lcbench.apps.bench.target import Target
from lcbench.apps.bench.timing import Clock
from lcbench.attention.mask import Span
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.new_cache import new_cache
from lcbench.engine.score import score_tokens

MATMUL = "matmul"
MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}
WARM_STEPS = 2  # of decode, not counted: the first rotates the whole cache, where a method keeps it rotated
STEPS = 16
NEW_TOKENS = WARM_STEPS + STEPS


@dataclass(frozen=True)
class Turn:
    """The measurements of one turn of one subject: seconds of a call or of a token by part, and peak bytes."""

    seconds: dict[str, float]
    peak_bytes: int = 0


@dataclass(frozen=True)
class Passes:
    """The turns of one model by one clock. `decode`: whether a whole pass decodes after the prefill."""

    target: Target
    clock: Clock
    decode: bool

    def attention(self, subject: Subject, length: int) -> Callable[[], Turn]:
        """Rotation, and softmax over what is seen, of one layer; random queries, keys and values."""
        index = self.target.longest_layer(subject.method, length)

        def turn() -> Turn:
            q, k, v = self.target.queries_keys_values(length)
            with subject.running():
                return Turn({"attention": self.clock.turn(lambda: subject.attend(index, q, k, v))})

        return turn

    def block(self, subject: Subject, length: int) -> Callable[[], Turn]:
        """One decoder layer, called as the model calls it; no cache."""
        block = self.target.block(self.target.longest_layer(subject.method, length))

        def turn() -> Turn:
            with subject.running():
                args, kwargs = _call_of(self.target, block, length)
                return Turn({"block": self.clock.turn(lambda: block(*args, **kwargs))})

        return turn

    def whole(self, subject: Subject, length: int) -> Callable[[], Turn]:
        """Prefill into an empty cache, logits for the last position only, then a few tokens one by one."""
        model, device = self.target.model, self.target.device
        ids = self.target.ids(length)

        def turn() -> Turn:
            seconds: dict[str, float] = {}
            with subject.running():
                cache = new_cache(model.config, length, NEW_TOKENS)
                token = ids[:, :1]

                def step(tokens: Tensor) -> None:
                    nonlocal token
                    logits = model(tokens, past_key_values=cache, logits_to_keep=1).logits
                    token = logits[:, -1:].argmax(-1)

                def prefill() -> None:
                    for chunk in torch.split(ids, subject.chunk or length, dim=1):
                        step(chunk)

                release_freed_memory()
                reset_peak_memory(device)
                before = peak_memory(device)
                seconds["prefill"] = self.clock.seconds(prefill)
                peak = peak_memory(device) - before
                if self.decode:
                    for _ in range(WARM_STEPS):
                        step(token)
                    seconds["decode"] = statistics.median(self.clock.seconds(lambda: step(token)) for _ in range(STEPS))
            return Turn(seconds, peak)

        return turn

    def score(self, subject: Subject, length: int) -> Callable[[], Turn]:
        """The likelihood of random tokens, layer by layer, as perplexities of long texts are computed."""
        tokens = self.target.ids(length)[0].tolist()

        def turn() -> Turn:
            def score() -> None:
                score_tokens(self.target.model, tokens, layerwise=True, chunk_size=subject.chunk or length)

            with subject.running():
                return Turn({"score": self.clock.seconds(score)})

        return turn

    def matmul(self) -> Callable[[], Turn]:
        """A matrix product in the model's dtype: the rate of arithmetic that the machine reaches meanwhile."""
        size, device = self.matmul_size, self.target.device
        draw = torch.Generator(device).manual_seed(0)
        a, b = torch.randn(2, size, size, generator=draw, device=device, dtype=self.target.dtype)
        return lambda: Turn({MATMUL: self.clock.turn(lambda: a @ b)})

    @property
    def matmul_size(self) -> int:
        return MATMUL_SIZE[self.target.device.type]


class _ReachedError(Exception):
    """The forward pass came to the block."""


def _call_of(target: Target, block: nn.Module, length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which the model calls one of its decoder layers, on random tokens."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _ReachedError

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        target.model(target.ids(length), use_cache=False)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    ((args, kwargs),) = found
    # The steered block's state of a forward pass ended with that pass; a new mask starts another.
    return args, {name: replace(x, block=None) if isinstance(x, Span) else x for name, x in kwargs.items()}
