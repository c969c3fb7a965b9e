"""Positions in fractions of a token (Leaky ReRoPE) on models with sliding or NoPE layers and scaled RoPE."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import lcbench
from lcbench.methods import Lengths, parse_method
from tests.attention import zoo
from tests.attention.oracle import reference_logits

N = 60
SPEC = "leaky_rerope:window=9,k=3"


@pytest.mark.parametrize(
    "arch", ["gemma2", "gemma3", "smollm3", "gpt-oss", "glm", "llama-yarn", "llama-dynamic", "phi3-longrope"]
)
@torch.no_grad()
def test_equals_the_reference(arch: str) -> None:
    """Layers with a window of their own keep whole tokens, though they share the rotation with the others."""
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(1, N)
    lengths = Lengths(model.config.max_position_embeddings, N)
    expected = reference_logits(model, ids, parse_method(SPEC).resolve(lengths), lengths)
    native = model(ids).logits
    with lcbench.extend(model, SPEC, length=N):
        actual = model(ids).logits
        torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=0)
        cache, ends = DynamicCache(config=model.config), [25, 26, 58, 59, N]
        calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in zip([0, *ends], ends)]
        torch.testing.assert_close(torch.cat(calls, dim=1).double(), expected, atol=1e-4, rtol=0)
    assert (actual - native).abs().max() > 0.02


@torch.no_grad()
def test_whole_tokens_turn_exactly_as_without_fractions() -> None:
    """Within the window the logits are those of vanilla to the last bit, however many steps make a token."""
    model, ids = zoo.llama(), zoo.tokens(1, N)
    with lcbench.extend(model, "vanilla", length=N):
        expected = model(ids).logits
    with lcbench.extend(model, "leaky_rerope:window=64,k=7", length=N):
        assert torch.equal(model(ids).logits, expected)
