"""Every method on a whole model equals the float64 reference, however the run is split, padded or grouped."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.attention.backends import matmul, tiles
from lcbench.methods import Lengths, Method, all_methods, parse_method
from lcbench.methods.base import CONTENT
from tests.attention import zoo
from tests.attention.oracle import reference_logits

N = 130
LENGTHS = Lengths(zoo.PRETRAINING, N)
ATOL = 5e-5  # to the reference, so any two ways to run agree within 1e-4

METHODS = [
    "vanilla",
    "pi:factor=2.5",
    "ntk:factor=3",
    "dynamic_ntk",
    "dynamic_ntk:factor=2",
    "yarn:factor=4",
    "llama3:factor=4",
    "logn:base=16",
    "self_extend",
    "self_extend:group_size=4,neighbor_window=16",
    "self_extend:group_size=3,neighbor_window=16",  # the group does not divide the window
    "self_extend:group_size=5,neighbor_window=7,log_scale_base=20",
    "dca",
    "dca:chunk_size=24,max_position=29",
    "dca:pretraining_length=32,mscale=0.1",
    "dca:variant=chunkllama",
    "dca:variant=chunkllama,pretraining_length=32",
    "dca:variant=chunkllama,mscale=0",
    "yarn:factor=4,attention_factor=1.4,truncate=false",
    "yarn:factor=8,mscale=0.7,mscale_all_dim=0.3,beta_fast=8",
    "abf:base=300",
    "p_rope:p=0.6",
    "drope",
    "drope:scale=1.5",
    "resonance",
    "longrope:factors=[1,1.1,1.3,1.6,2,2.5,3,4]",
    "llama4_temperature:floor_scale=16,attn_scale=0.5",
    "llama4_temperature:floor_scale=9,layers=[1]",
    "entropy_abf:base=900,length=20,unscaled_layers=1",
    "rerope:window=20",
    "leaky_rerope",
    "leaky_rerope:window=13,k=5",
    "string",
    "string:shift=30,window=9,attention_factor=1.2",
    "lm_infinite:sinks=3,window=25",
    "tri_shape:sinks=3,window=21,dense=12,prompt_length=130",
    "tri_shape:sinks=2,window=18,dense=9,prompt_length=75",  # the rest is decoded
    "duo_attention:full_heads=[1:0],sinks=3,window=17",
    "duo_attention:full_heads=[],window=23",
    "streaming:sinks=4,window=20",
    "streaming:sinks=0,window=9",
    "fot:memory_layers=[1],context_length=40,last_context_length=16,prompt_length=130",
    "fot:memory_layers=[0,1],context_length=24,last_context_length=24,prompt_length=70",  # the rest is decoded
    "fot:memory_layers=[0],context_length=30,last_context_length=7,mem_positionals=false,prompt_length=130",
    "fot:memory_layers=[],context_length=50,variant=streaming",
    "fot:memory_layers=[1],context_length=32,last_context_length=12,variant=streaming",
    "fot:memory_layers=[1],context_length=28,variant=streaming,mem_attention_grouping=[1,7]",
    "fot:memory_layers=[1],context_length=36,variant=streaming,mem_attention_grouping=[3,50],mem_dtype=float32",
    "fot:memory_layers=[1],context_length=20,last_context_length=6,variant=streaming,memory=knn,top_k=200",
    "fot:memory_layers=[0],context_length=33,prompt_length=90,memory=knn,top_k=200",
    "fot:memory_layers=[0],context_length=20,variant=streaming+ntk:factor=2+logn:base=16",
    "dca+yarn:factor=4",
    "ntk:factor=4+logn",
    "self_extend:group_size=2,neighbor_window=16+pi:factor=2",
    "rerope+logn",
    "streaming:window=30+ntk:factor=2",
    "dca+llama3+logn:base=20",
    "yarn:factor=4+resonance",
    "duo_attention:full_heads=[0:0],window=12+yarn:factor=2+logn:base=16",
    "leaky_rerope:window=20,k=3+yarn:factor=2+logn:base=16",
    "string+longrope:factors=[1,1,1,2,2,2,3,3]+llama4_temperature:floor_scale=30",
]


@dataclass(frozen=True)
class Way:
    """How a run of two rows is split into calls, which end at `cuts`, padded, grouped and computed."""

    cuts: tuple[int, ...] = (N,)
    pads: tuple[int, int] = (0, 0)
    kv_heads: int = 2  # two queries a head
    attention: str = "auto"
    tile: int = tiles.BLOCK
    scores: int = matmul.SCORES_AT_ONCE["cpu"]
    specs: list[str] = field(default_factory=lambda: METHODS)


# Where a way asks nothing of a method that others do not ask of it, some methods go it: those that look at heads, and
# every third of the rest, each in its turn.
HEADWISE = [spec for spec in METHODS if "duo_attention" in spec]
WAYS = {
    "prefill in one call": Way(),
    "small tiles, decode included": Way((70, 71, 72, N), attention="tiled", tile=16),
    "reference, decode included": Way((70, 71, 72, N), attention="reference", specs=METHODS[::3]),
    "scores of a few queries at once": Way(attention="matmul", scores=4096),
    # The first tokens and the last, beyond the first windows, chunks and clamps of every method.
    "odd chunks and token by token": Way((1, 2, 37, 38, 82, 83, 101, *range(N - 3, N + 1))),
    "one KV head for all": Way((77, 78, N), kv_heads=1, specs=[*HEADWISE, *METHODS[::3]]),
    "a KV head for each": Way((77, 78, N), kv_heads=4, specs=[*HEADWISE, *METHODS[1::3]]),
    "rows padded alike": Way(pads=(23, 23), specs=METHODS[2::3]),
    # The first call sees nothing but padding of a row.
    "one row padded, chunks": Way((5, 60, 61, 62, N), pads=(0, 23)),
}


@cache
def model_of(kv_heads: int) -> PreTrainedModel:
    return zoo.llama(num_key_value_heads=kv_heads)


@cache
def reference(spec: str, kv_heads: int = 2) -> Tensor:
    return reference_logits(model_of(kv_heads), zoo.tokens(2, N), resolved(spec), LENGTHS)


@cache
def resolved(spec: str) -> Method:
    return parse_method(spec).resolve(LENGTHS)


@torch.no_grad()
def steered(spec: str, way: Way) -> Tensor:
    """Logits of two rows."""
    ids, mask = zoo.left_padded(zoo.tokens(2, N), list(way.pads))
    cache, out, a = DynamicCache(), [], 0
    with lcbench.extend(model_of(way.kv_heads), spec, length=N, attention=way.attention) as model:
        for b in way.cuts:
            options: dict[str, Any] = {"attention_mask": mask[:, :b]} if any(way.pads) else {}
            out.append(model(ids[:, a:b], past_key_values=cache, **options).logits)
            a = b
    return torch.cat(out, dim=1)


def test_every_registered_method_is_tested() -> None:
    """Those that look at queries and keys are in test_content.py."""
    methods = {name for name, method in all_methods().items() if not method().hooks & CONTENT}
    assert {part.split(":")[0] for spec in METHODS for part in spec.split("+")} == methods


def test_reference_itself_tells_methods_apart() -> None:
    """Otherwise the tests below would prove nothing."""
    logits = {resolved(spec): reference(spec)[1] for spec in METHODS}
    for n, (method, expected) in enumerate(logits.items()):
        others = torch.stack(list(logits.values())[:n] or [torch.zeros_like(expected)])
        assert (others - expected).abs().amax((1, 2)).min() > 0.01, method.label


# All ways of a method follow each other: its reference is computed once.
@pytest.mark.parametrize(("spec", "way"), [(spec, way) for spec in METHODS for way in WAYS if spec in WAYS[way].specs])
def test_equals_the_reference(spec: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row as if it were alone."""
    chosen = WAYS[way]
    for share, name in enumerate(("BLOCK", "SMALL", "FINE", "TRIANGLE")):
        monkeypatch.setattr(tiles, name, min(getattr(tiles, name), chosen.tile >> min(share, 2)))
    monkeypatch.setitem(matmul.SCORES_AT_ONCE, "cpu", chosen.scores)
    actual, expected = steered(spec, chosen), reference(spec, chosen.kv_heads)
    for row, pad in enumerate(chosen.pads):
        torch.testing.assert_close(actual[row, pad:].double(), expected[row, : N - pad], atol=ATOL, rtol=0)
