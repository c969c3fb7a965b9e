"""The shipped models show what their cards and the README say: few samples, loose bounds."""

from __future__ import annotations

import math
from functools import cache

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.exam import Point, What, measure
from lcbench.engine.models import REFERENCE_MODELS, ModelSource

TRAINED, SAMPLES = 256, 10
FEW = 6  # where it is all or none
SCALED = ("self_extend:log_scale_base=256", "dca:mscale=0.1")


@cache
def loaded(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = ModelSource(name)
    return source.model(), source.tokenizer()


def share_right(name: str, what: What, method: str, times: int, facts: int = 1, samples: int = SAMPLES) -> float:
    local = TRAINED if method.startswith("fot") else 0
    scores = measure(*loaded(name), Point(what, method, times * TRAINED, facts, local), range(samples))
    return sum(score for (score,) in scores) / samples


def perplexity(method: str, times: int, books: int = 2) -> tuple[float, float]:
    """Of the whole books, and of their last half windows."""
    nats = measure(*loaded("lcbench-tiny"), Point("perplexity", method, times * TRAINED), range(books))
    whole, last = (sum(column) / books for column in zip(*nats, strict=True))
    return math.exp(whole), math.exp(last)


@pytest.mark.parametrize(
    ("what", "facts", "least"),
    [
        ("copying", 1, 0.95),
        ("codes", 1, 0.9),
        ("codes", 8, 0.9),
        ("words", 1, 0.8),
        ("words", 4, 0.7),
        ("passkey", 1, 0.9),
    ],
)
def test_inside_its_length_the_model_retrieves(what: What, facts: int, least: float) -> None:
    assert share_right("lcbench-tiny", what, "vanilla", 1, facts) >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "times", "least", "most"),
    [
        ("vanilla", 8, 0.0, 0.2),
        ("pi", 2, 0.0, 0.2),
        ("ntk", 8, 0.0, 0.3),
        ("self_extend", 4, 0.7, 1.0),
        ("dca", 4, 0.7, 1.0),
        (SCALED[0], 8, 0.8, 1.0),
        (SCALED[1], 8, 0.8, 1.0),
    ],
)
def test_past_its_length_the_methods_differ(method: str, times: int, least: float, most: float) -> None:
    assert least <= share_right("lcbench-tiny", "passkey", method, times, samples=FEW) <= most


@pytest.mark.slow
def test_more_context_is_worth_something_to_who_can_use_it() -> None:
    assert perplexity("vanilla", 16)[1] > 5 * perplexity("vanilla", 1)[1]
    sliding = perplexity("streaming:sinks=0", 16)[0]
    for method in SCALED:
        assert perplexity(method, 16)[0] < 0.9 * sliding


@pytest.mark.slow
@pytest.mark.parametrize(("what", "facts", "least"), [("passkey", 1, 0.8), ("codes", 64, 0.7), ("words", 1, 0.7)])
def test_memory_carries_retrieval_far_past_the_window(what: What, facts: int, least: float) -> None:
    assert share_right("lcbench-tiny-fot", what, "fot:variant=streaming", 16, facts) >= least


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in REFERENCE_MODELS.rglob("*")) < 20e6
