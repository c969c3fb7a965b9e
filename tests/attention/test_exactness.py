"""Every method on a whole model equals the float64 reference, however the run is split, padded or grouped."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.attention.backends import matmul, tiled
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
every_method = pytest.mark.parametrize("spec", METHODS)


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
def steered(
    spec: str, cuts: list[int], pads: tuple[int, int] = (0, 0), kv_heads: int = 2, attention: str = "auto"
) -> Tensor:
    """Logits of two rows, run in calls that end at `cuts`."""
    ids, mask = zoo.left_padded(zoo.tokens(2, N), list(pads))
    cache, out, a = DynamicCache(), [], 0
    with lcbench.extend(model_of(kv_heads), spec, length=N, attention=attention) as model:
        for b in cuts:
            call = model(ids[:, a:b], attention_mask=mask[:, :b] if any(pads) else None, past_key_values=cache)
            out.append(call.logits)
            a = b
    return torch.cat(out, dim=1)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=ATOL, rtol=0)


def test_every_registered_method_is_tested() -> None:
    """Those that look at queries and keys are in test_content.py."""
    methods = {name for name, method in all_methods().items() if not method().hooks & CONTENT}
    assert {part.split(":")[0] for spec in METHODS for part in spec.split("+")} == methods


@every_method
def test_reference_itself_tells_methods_apart(spec: str) -> None:
    """Otherwise the tests below would prove nothing."""
    others = [other for other in METHODS if resolved(other) != resolved(spec)]
    assert all((reference(spec) - reference(other)).abs().max() > 0.01 for other in others)


@every_method
def test_prefill_in_one_call(spec: str) -> None:
    assert_equal(steered(spec, [N]), reference(spec))


@every_method
def test_prefill_through_small_tiles(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "BLOCK", 16)
    monkeypatch.setattr(tiled, "SMALL", 8)
    assert_equal(steered(spec, [N]), reference(spec))


@every_method
def test_prefill_through_joint_attention(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matmul.SCORES_AT_ONCE, "cpu", 4096)
    assert_equal(steered(spec, [N], attention="matmul"), reference(spec))


@every_method
@pytest.mark.parametrize("attention", ["tiled", "reference"])
def test_one_backend_for_every_call(spec: str, attention: str) -> None:
    """Decode included, which `auto` gives to others."""
    assert_equal(steered(spec, [70, 71, 72, N], attention=attention), reference(spec))


@every_method
def test_prefill_in_odd_chunks(spec: str) -> None:
    assert_equal(steered(spec, [37, 38, 82, 83, 84, 101, N]), reference(spec))


@every_method
def test_decode_token_by_token(spec: str) -> None:
    """The first tokens and the last; beyond the first windows, chunks and clamps of every method."""
    assert_equal(steered(spec, [*range(1, 9), *range(N - 16, N + 1)]), reference(spec))


@every_method
@pytest.mark.parametrize("kv_heads", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_grouped_queries(spec: str, kv_heads: int) -> None:
    """One key/value head for all, and one for each; the other tests have two queries a head."""
    assert_equal(steered(spec, [77, 78, N], kv_heads=kv_heads), reference(spec, kv_heads))


@every_method
@pytest.mark.parametrize(
    ("cuts", "pads"),
    [([N], (23, 23)), ([5, 60, *range(61, 70), N], (0, 23))],
    ids=["whole, rows alike", "chunks, one row"],
)
def test_left_padding(spec: str, cuts: list[int], pads: tuple[int, int]) -> None:
    """Each row as if it were alone; in chunks, the first call sees nothing but padding of a row."""
    actual = steered(spec, cuts, pads)
    for row, pad in enumerate(pads):
        assert_equal(actual[row, pad:], reference(spec)[row, : N - pad])
