"""What FoT must compute, written out with masks in float64, and runs cut into calls to hold against it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

import lcbench
from lcbench.attention.backends.reference import reference_attention
from lcbench.attention.probe import attention_set_to, probe, unrotated
from lcbench.methods import Method
from tests.attention import oracle, zoo
from tests.attention.test_generation import generate, greedy
from tests.attention.test_generation import prompt as prompt_of_70

PROMPT, NEW = 70, 12  # decoding moves keys to memory at 78 (longllama), and at 72 and 80 (streaming)
WINDOWS = "context_length=24,last_context_length=16"
STREAMING = f"fot:memory_layers=[1],{WINDOWS},variant=streaming"
LONGLLAMA = f"fot:memory_layers=[1],{WINDOWS},prompt_length={PROMPT}"
FIRST_CALL = f"fot:memory_layers=[1],{WINDOWS}"
METHODS = [
    STREAMING,
    LONGLLAMA,
    f"fot:memory_layers=[0,1],{WINDOWS},variant=streaming,mem_dtype=bfloat16",
    f"{LONGLLAMA},mem_dtype=bfloat16,mem_attention_grouping=[1,5]",
    f"{STREAMING},mem_positionals=false,mem_device=cpu",
    f"{STREAMING},memory=knn,top_k=5",
    f"{LONGLLAMA},memory=knn,top_k=5,mem_dtype=bfloat16",
    f"fot:memory_layers=[0],{WINDOWS},variant=streaming+logn:base=9",
]
every_method = pytest.mark.parametrize("spec", METHODS)
STATIC = {"cache_implementation": "static", "disable_compile": True}


def prompt(length: int = PROMPT) -> Tensor:
    return prompt_of_70()[:, PROMPT - length :]


@cache
def truth(spec: str, length: int = PROMPT) -> Tensor:
    """Every token from a whole forward pass, without a cache; of a prompt that is as long as said."""
    with lcbench.extend(zoo.llama(), spec.replace(f"prompt_length={PROMPT}", f"prompt_length={length}")) as model:
        return greedy(model, prompt(length), NEW)


def continued(model: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    """The mask is given, for a token that was generated may be the one that pads."""
    return generate(model, ids, **{"max_new_tokens": NEW, "attention_mask": torch.ones_like(ids), **options})


def model_for(spec: str, **options: Any) -> PreTrainedModel:
    """In float64 where keys are rounded: there two ways of running agree so well that no key falls to either side."""
    model = zoo.llama(**options)
    return model.double() if "bfloat16" in spec else model


def assert_close(actual: Tensor, expected: Tensor, atol: float = 5e-5) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=0)


@torch.no_grad()
def explicit_logits(
    model: PreTrainedModel,
    ids: Tensor,
    method: Method,
    *,
    held: Callable[[Tensor], Tensor] = lambda x: x,
    rounds_window: bool = False,
    top_k: int | None = None,
) -> Tensor:
    """Logits [B, n, vocabulary] in float64 from a memory that is looked up by hand.

    Keys and values stand twice in every row of scores: as they are, seen within the window, and as they are `held`,
    seen before it. With `top_k`, each query and head sees its so many highest scores of the latter.
    """
    model = copy.deepcopy(model).double()
    layers, n, name = probe(model), ids.shape[1], "lcbench-test-memory"
    (method,) = [part for part in oracle.parts(method) if part.name == "fot"]

    def attend(
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **extra: Any,
    ) -> tuple[Tensor, None]:
        layer, rope = layers[module], layers[module].rope
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        inv_freq = getattr(rope.rotary, f"{rope.prefix}inv_freq")
        factor = getattr(rope.rotary, f"{rope.prefix}attention_scaling", 1.0)
        if layer.window is not None:
            rel, local = oracle.matrices(oracle.within(layer.window), n)
            before = torch.zeros_like(local)
        else:
            rel, local, before = matrices(method, int(module.layer_idx), n)
        before = before.expand(len(q), q.shape[1], n, n)
        if top_k is not None:
            scores = torch.einsum(
                "bhtd,bhsd->bhts", turned(q, rel[:, 0], inv_freq, factor), grouped(held(k), q.shape[1])
            )
            best = scores.masked_fill(~before, -torch.inf).topk(min(top_k, n)).indices
            before = before & torch.zeros_like(before).scatter(-1, best, True)
        if rounds_window:
            k, v = held(k), held(v)
        out = reference_attention(
            q,
            torch.cat([k, held(k)], dim=2),
            torch.cat([v, held(v)], dim=2),
            torch.cat([rel, rel], dim=1),
            torch.cat([local.expand_as(before), before], dim=-1),
            inv_freq,
            attention_factor=factor,
            scale=scale,
            softcap=extra.get("softcap"),
            sinks_H=extra.get("s_aux"),
        )
        return out.to(q.dtype).transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
    with attention_set_to(model, name), unrotated(model):
        return model(ids, use_cache=False).logits


def matrices(method: Method, layer: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Relative positions [n, n], which keys each query sees in its window, and which before it."""
    options = method.options()
    context, last = options["context_length"], options["last_context_length"]
    split = max((options["prompt_length"] or n) - last, 0)
    begins = [*range(0, split, context), *range(split, n, context)]
    i = torch.arange(n)
    start = torch.tensor([max(b for b in begins if b <= t) for t in range(n)])
    if options["variant"] == "streaming":
        start = (i // (context - last) * (context - last) - last).clamp(min=0)
    remembers = layer in options["memory_layers"]
    rel = i[:, None] - torch.maximum(i, start[:, None])
    if remembers and not options["mem_positionals"]:
        rel = torch.zeros_like(rel)
    return rel, (i >= start[:, None]) & (i <= i[:, None]), (i < start[:, None]) & remembers


def turned(q_BHTD: Tensor, angle_T: Tensor, inv_freq_M: Tensor, factor: float) -> Tensor:
    """Queries rotated by what they are from the first key, which is where memory stands; `factor` of both sides."""
    m = len(inv_freq_M)
    turn = torch.polar(torch.ones((), dtype=torch.float64), angle_T.double()[:, None] * inv_freq_M.double()) * factor**2
    pairs = torch.complex(q_BHTD[..., :m], q_BHTD[..., m : 2 * m]) * turn
    return torch.cat([pairs.real, pairs.imag, q_BHTD[..., 2 * m :]], dim=-1)


def grouped(k_BKSD: Tensor, heads: int) -> Tensor:
    return k_BKSD.repeat_interleave(heads // k_BKSD.shape[1], dim=1)


def bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


@torch.no_grad()
def in_calls(
    model: PreTrainedModel, spec: str | Method, ids: Tensor, ends: list[int], past: Any = None, **options: Any
) -> Tensor:
    """Logits of a run in calls that end at `ends`."""
    past = DynamicCache() if past is None else past
    with lcbench.extend(model, spec):
        calls = [
            model(ids[:, a:b], past_key_values=past, **options).logits for a, b in zip([0, *ends], ends, strict=False)
        ]
    return torch.cat(calls, dim=1)
