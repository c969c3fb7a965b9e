"""Models whose own RoPE follows the length of the input: one length for the whole run, whatever the pieces ask for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.methods import Lengths, parse_method
from tests.attention import zoo
from tests.attention.oracle import reference_logits

FOLLOWS_LENGTH = ["llama-dynamic", "llama-longrope", "phi3-longrope"]
METHODS = ["vanilla", "self_extend:group_size=3,neighbor_window=10", "dca:chunk_size=30,max_position=35"]
N = 100  # beyond the trained length of the dynamic one, 64, and the original length of the others, 16
pytestmark = pytest.mark.parametrize("arch", FOLLOWS_LENGTH)


@pytest.fixture
def model(arch: str) -> PreTrainedModel:
    return zoo.build(zoo.ARCHITECTURES[arch]())


@torch.no_grad()
def logits(model: PreTrainedModel, n: int) -> Tensor:
    return model(zoo.tokens(1, n)).logits


@pytest.mark.parametrize("turn", range(3))
@torch.no_grad()
def test_cached_equals_uncached_equals_the_reference(model: PreTrainedModel, arch: str, turn: int) -> None:
    """At the length of the run, however much of it has been seen: the cache never mixes two sets of frequencies.

    Every architecture and every method at every length.
    """
    length, spec = [12, N, 150][turn], METHODS[(turn + FOLLOWS_LENGTH.index(arch)) % 3]
    n = min(N, length)
    ids, lengths = zoo.tokens(1, n), Lengths(model.config.max_position_embeddings, length)
    expected = reference_logits(model, ids, parse_method(spec).resolve(lengths), lengths)
    with lcbench.extend(model, spec, length=length):
        torch.testing.assert_close(model(ids).logits.double(), expected, atol=1e-4, rtol=0)
        cache, ends = DynamicCache(), [n // 4, n // 4 + 1, n // 2, n - 1, n]
        calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in zip([0, *ends], ends)]
        torch.testing.assert_close(torch.cat(calls, dim=1).double(), expected, atol=1e-4, rtol=0)


def test_vanilla_at_the_inputs_length_is_native(model: PreTrainedModel) -> None:
    native = logits(model, N)
    with lcbench.extend(model, "vanilla", length=N):
        torch.testing.assert_close(logits(model, N), native, atol=1e-4, rtol=0)
    with lcbench.extend(model, "vanilla", length=400):
        follows = (logits(model, N) - native).abs().max() > 0.01
    assert follows == ("dynamic" in model.config.rope_parameters["rope_type"])


@pytest.mark.parametrize("spec", ["vanilla", METHODS[1]])
def test_native_state_is_restored(model: PreTrainedModel, spec: str) -> None:
    """A dynamic RoPE remembers the longest input so far; a block in between must not change what it remembers."""
    twin = copy.deepcopy(model)
    for n in (N + 20, N, 10, N):
        expected = logits(twin, n)
        assert torch.equal(logits(model, n), expected)
        with lcbench.extend(model, spec, length=N):
            logits(model, 30)
            logits(model, N)
        assert torch.equal(logits(model, n), logits(twin, n))
    state, other = (dict(m.model.rotary_emb.named_buffers()) for m in (model, twin))
    assert all(torch.equal(state[name], other[name]) for name in other)


@pytest.mark.parametrize("spec", METHODS)
def test_what_the_model_saw_before_makes_no_difference(model: PreTrainedModel, spec: str) -> None:
    with lcbench.extend(model, spec, length=N):
        expected = logits(model, N)
    logits(model, 2 * N)
    with lcbench.extend(model, spec, length=N):
        assert torch.equal(logits(model, N), expected)


@pytest.mark.parametrize("spec", ["pi", "ntk", "yarn", "llama3", "dynamic_ntk", "dca+yarn"])
def test_a_second_scaling_is_refused_by_name(model: PreTrainedModel, spec: str, arch: str) -> None:
    name, kind = type(model).__name__, "dynamic" if "dynamic" in arch else "longrope"
    with pytest.raises(UnsupportedModelError, match=rf"the RoPE of {name} \({kind}\) .*{spec.split('+')[0]}"):
        lcbench.extend(model, spec, length=N).__enter__()


def test_a_missing_or_short_length_is_refused(model: PreTrainedModel) -> None:
    with (
        lcbench.extend(model, METHODS[1]),
        pytest.raises(UserError, match=r"depends on the length of the run.*length="),
    ):
        logits(model, 20)
    with lcbench.extend(model, "vanilla", length=40):
        logits(model, 40)
        with pytest.raises(UserError, match="given as 40 tokens but is at least 41"):
            logits(model, 41)
