"""Sampling: the usual cuts, and outputs that follow from their seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lcbench.core.errors import UserError
from lcbench.engine.generate import Prompt, generate_together
from lcbench.engine.models import ModelSource
from lcbench.engine.sampling import Sampling

SIZE = 50


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.8, 0.0), (20, 0.9, 0.05)])
def test_the_distribution_is_that_of_transformers(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    for seed in range(4):
        theirs = TemperatureLogitsWarper(temperature)(None, logits(seed)[None].double())
        theirs = TopKLogitsWarper(top_k)(None, theirs) if top_k else theirs
        theirs = TopPLogitsWarper(top_p)(None, theirs) if top_p < 1 else theirs
        theirs = MinPLogitsWarper(min_p)(None, theirs) if min_p else theirs
        ours = Sampling(temperature, top_p, top_k, min_p).probabilities(logits(seed))
        torch.testing.assert_close(ours, theirs.softmax(-1)[0])


def test_draws_follow_the_distribution() -> None:
    sampling, drawn = Sampling(temperature=2.0, top_k=4), torch.zeros(SIZE)
    choose = sampling.chooser(7)
    for _ in range(4000):
        drawn[choose(logits())] += 1
    expected = sampling.probabilities(logits())
    assert int((drawn > 0).sum()) == 4
    assert float((drawn / 4000 - expected).abs().max()) < 4 * math.sqrt(0.25 / 4000)


def test_the_same_seed_draws_the_same() -> None:
    one, same, other = (Sampling(temperature=5.0).chooser(seed) for seed in (1, 1, 2))
    draws = [[choose(logits(n)) for n in range(20)] for choose in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]


def test_whatever_is_generated_beside_it() -> None:
    """Alone, in a batch, in another order, and beside a greedy prompt, which stays greedy."""
    source = ModelSource(dtype="float64")
    model, tokenizer = source.model(), source.tokenizer()
    prompts = [tokenizer(text).input_ids for text in ("The harbour was", "Mara keeps", "A long road led to the")]

    def outputs(order: list[int], seeds: list[int | None]) -> dict[int, list[int]]:
        given = [
            Prompt(prompts[n], 12, choose=None if seed is None else Sampling(temperature=1.5, top_p=0.95).chooser(seed))
            for n, seed in zip(order, seeds)
        ]
        return {n: one.tokens for n, one in zip(order, generate_together(model, given))}

    together = outputs([0, 1, 2], [3, 4, None])
    assert together == outputs([2, 1, 0], [None, 4, 3])
    assert together[0] == outputs([0], [3])[0] != outputs([0], [5])[0]
    assert together[2] == outputs([2], [None])[2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("temperature=0", "temperature must be above 0; leave --sampling out for greedy answers"),
        ("top_p=1.2", "top_p and min_p must be between 0 and 1"),
        ("top_k=-1", "top_k 0 or more"),
        ("temprature=1", "did you mean 'temperature'"),
        ("0.6", "is not option=value"),
    ],
)
def test_refusals(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Sampling.parse(text)
    assert Sampling.parse("temperature=0.6,top_p=0.95,top_k=20,min_p=0") == Sampling(0.6, 0.95, 20, 0.0)
