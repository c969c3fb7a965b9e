"""The weights of one row, held against an explicit softmax in float64 and against what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lcbench.attention.backends.reference import reference_attention
from lcbench.attention.steering import Steering
from lcbench.attention.weights import LastQuery
from lcbench.engine.generate import generate
from lcbench.methods import Lengths, parse_method
from tests.attention import oracle, zoo

LENGTH = 150  # more than twice the trained length
THETA = 10_000.0
ROUNDING = 1e-3  # of frequencies, which are float32 in models, at positions of three digits
METHODS = [
    "vanilla",
    "yarn:factor=4",
    "ntk+logn",
    "self_extend:group_size=4,neighbor_window=16,log_scale_base=64",
    "dca:mscale=0.1",
    "leaky_rerope:window=20,k=4",
    "streaming:sinks=2,window=40",
    "lm_infinite:sinks=3,window=30",
    "entropy_abf:unscaled_layers=1",
    "duo_attention:full_heads=[0:1,1:0],sinks=2,window=20",
    "fot:memory_layers=[1],context_length=32,last_context_length=16",
    "fot:memory_layers=[1],context_length=32,last_context_length=16,variant=streaming",
    "tri_shape:sinks=2,window=20,dense=1",
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return zoo.llama().double()


def watched(model: PreTrainedModel, method: str, see: Callable[[LastQuery], None], *, new_tokens: int = 1) -> list[int]:
    """Prefill in one call, then decode; `see` is called for every layer and call."""
    ids = zoo.tokens(1, LENGTH)[0].tolist()
    steering = Steering(model, parse_method(method), LENGTH + new_tokens)
    with steering:
        steering.observer = see
        return generate(model, ids, new_tokens).tokens


def explicit_row(query: LastQuery, method: str, model: PreTrainedModel, n: int) -> Tensor:
    """The weights [H, n]: those of the reference with one value a key, which is 1 for this key and 0 for others.

    Of the engine only the un-rotated queries and keys are taken, the former with the factor on their scores.
    """
    lengths = Lengths(zoo.PRETRAINING, LENGTH + 1)
    resolved = parse_method(method).for_model(model.config).resolve(lengths)
    K, D = query.kv_heads, query.q_BHTD.shape[-1]
    G = query.q_BHTD.shape[1] // K
    store = query.keys.store
    kept = [store.keys[:, :, : query.keys.first]] if store is not None and query.keys.first else []
    k_BKSD = torch.cat([*kept, query.keys.k_BKSD], dim=2)
    first = n - k_BKSD.shape[2]
    rows = []
    for head in range(K):
        relative = oracle.plan(resolved, query.layer, LENGTH, head)
        rel, seen = oracle.matrices(relative, n, [n - 1])
        assert not seen[:, :first].any()
        inv_freq, factor = oracle.frequencies(resolved, lengths, D, THETA)
        row = reference_attention(
            query.q_BHTD[:, head * G : (head + 1) * G],
            k_BKSD[:, head : head + 1],
            torch.eye(n - first, dtype=torch.float64)[None, None],
            rel[:, first:],
            seen[:, first:],
            inv_freq,
            attention_factor=factor,
            scale=D**-0.5,
        )
        rows.append(torch.nn.functional.pad(row[0, :, 0], (first, 0)))
    return torch.cat(rows)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_that_of_an_explicit_softmax(method: str, model: PreTrainedModel) -> None:
    """For the last token of the prompt and for one that is decoded, in every layer and head."""
    seen = []

    def see(query: LastQuery) -> None:
        n = query.position + 1
        weights = query.weights()
        seen.append((query.layer, query.position))
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(weights, explicit_row(query, method, model, n), rtol=0, atol=ROUNDING)
        torch.testing.assert_close(query.output(weights), query.out_BHTD[0, :, 0], rtol=0, atol=1e-6)

    watched(model, method, see, new_tokens=2)
    assert seen == [(layer, LENGTH - 1 + step) for step in range(2) for layer in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_distances_are_those_of_the_paper(method: str, model: PreTrainedModel) -> None:
    lengths = Lengths(zoo.PRETRAINING, LENGTH + 1)
    resolved = parse_method(method).for_model(model.config).resolve(lengths)

    def see(query: LastQuery) -> None:
        for head in range(query.kv_heads):
            relative = oracle.plan(resolved, query.layer, LENGTH, head)
            for keys in (range(10, 40), range(100, 150)):
                wanted = [rel for j in keys if (rel := relative(LENGTH - 1, j)) is not None]
                assert sorted(query.distances(keys, head).tolist()) == pytest.approx(sorted(wanted))

    watched(model, method, see)


@pytest.mark.parametrize("name", ["LlamaConfig", "Gemma2Config", "GptOssConfig", "Qwen3Config"])
def test_vanilla_is_what_transformers_returns(name: str) -> None:
    """Soft caps, sliding windows and sinks of a layer's own included."""
    own_way: dict[str, Any] = {
        "Gemma2Config": {"sliding_window": 24, "attn_logit_softcapping": 2.0},
        "GptOssConfig": {"sliding_window": 24},
    }
    model = zoo.build(zoo.config(name, num_hidden_layers=2, head_dim=16, **own_way.get(name, {})))
    ids = zoo.tokens(1, 60)
    with torch.no_grad():
        own = model(ids, output_attentions=True).attentions
    found: dict[int, Tensor] = {}
    steering = Steering(model, parse_method("vanilla"), 60)
    with steering as steered, torch.no_grad():
        steering.observer = lambda query: found.update({query.layer: query.weights()})
        steered(ids)
    for layer, weights in enumerate(own):
        torch.testing.assert_close(found[layer], weights[0, :, -1].double(), rtol=0, atol=1e-5)


def test_what_a_search_leaves_out_is_no_output_of_the_weights(model: PreTrainedModel) -> None:
    """The row knows no content: whoever shows it must compare."""
    pytest.importorskip("faiss")
    differ = []
    method = "fot:memory_layers=[1],context_length=32,last_context_length=16,memory=knn,top_k=2"
    model = zoo.llama()

    def see(query: LastQuery) -> None:
        differ.append(float((query.output(query.weights()) - query.out_BHTD[0, :, 0].double()).abs().max()))

    watched(model, method, see)
    assert differ[0] < 1e-5 < 1e-2 < differ[1]
