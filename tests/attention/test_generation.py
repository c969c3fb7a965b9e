"""`generate()` under a method, with every kind of cache and strategy, equals the run that recomputes everything."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lcbench
from tests.attention import zoo

PROMPT, NEW = 70, 12
LENGTH = PROMPT + NEW
METHODS = [
    "self_extend:group_size=3,neighbor_window=10",
    "dca:chunk_size=18,max_position=21,mscale=0.1",
    "streaming:sinks=3,window=12",
    "dynamic_ntk",
    "rerope:window=9+yarn+logn:base=9",
]
every_method = pytest.mark.parametrize("spec", METHODS)
STATIC = {"cache_implementation": "static", "disable_compile": True}


def in_turn(*options: Any, each: int = 1) -> pytest.MarkDecorator:
    """Every method with `each` of the options, and every option with a method or more."""
    pairs = [(spec, options[(n + m) % len(options)]) for n, spec in enumerate(METHODS) for m in range(each)]
    return pytest.mark.parametrize(("spec", "options"), pairs, ids=lambda value: str(value) or "default")


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


def prompt() -> Tensor:
    """With repeats, so that prompt lookup finds something."""
    ids = zoo.tokens(1, PROMPT)
    ids[:, 40:60] = ids[:, 5:25]
    return ids


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: Tensor, new: int = NEW) -> Tensor:
    """The slow truth: the whole sequence again for every token."""
    for _ in range(new):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids


@cache
def truth(spec: str) -> Tensor:
    with lcbench.extend(zoo.llama(), spec, length=LENGTH) as model:
        return greedy(model, prompt())


def generate(model: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    return model.generate(ids, **{"max_new_tokens": NEW, "do_sample": False, **options})


def test_methods_differ() -> None:
    """Otherwise equal ids would prove little."""
    assert len({tuple(truth(spec)[0].tolist()) for spec in [*METHODS, "vanilla"]}) == len(METHODS) + 1


@in_turn(
    {},
    STATIC,
    {"prefill_chunk_size": 7},
    {"prompt_lookup_num_tokens": 4},
    {"prefill_chunk_size": 32},
    {"use_cache": False},
    each=3,
)
def test_greedy(model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
    with lcbench.extend(model, spec, length=LENGTH):
        assert torch.equal(generate(model, prompt(), **options), truth(spec))


@in_turn("assistant steered", "assistant as it is")
def test_assisted_decoding(model: PreTrainedModel, spec: str, options: str) -> None:
    assistant = zoo.build(zoo.config("LlamaConfig", num_hidden_layers=1), seed=3)
    with lcbench.extend(model, spec, length=LENGTH):
        if options == "assistant steered":
            with lcbench.extend(assistant, spec, length=LENGTH):
                actual = generate(model, prompt(), assistant_model=assistant)
        else:
            actual = generate(model, prompt(), assistant_model=assistant)
    assert torch.equal(actual, truth(spec))


@in_turn(STATIC, {})
def test_left_padded_batch(model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
    """Every row answers as it does alone."""
    rows = [prompt(), prompt()[:, 31:]]
    batch = torch.cat([torch.cat([torch.zeros(1, PROMPT - row.shape[1]).long(), row], dim=1) for row in rows])
    with lcbench.extend(model, spec, length=LENGTH):
        actual = generate(model, batch, attention_mask=(batch != 0).long(), **options)
        for ids, row in zip(actual, rows):
            assert torch.equal(ids[PROMPT:], greedy(model, row)[0, row.shape[1] :])


@every_method
def test_a_cache_goes_on(model: PreTrainedModel, spec: str) -> None:
    """Generate, then generate again with the cache of the first answer."""
    cache = DynamicCache()
    with lcbench.extend(model, spec, length=LENGTH):
        first = generate(model, prompt(), past_key_values=cache, max_new_tokens=5)
        assert cache.get_seq_length() == PROMPT + 4
        second = generate(model, first, past_key_values=cache, max_new_tokens=NEW - 5)
    assert torch.equal(second, truth(spec))


@every_method
def test_a_cropped_cache(model: PreTrainedModel, spec: str) -> None:
    """Run on with something else, cut it off, and generate as if it had never been."""
    cache = DynamicCache()
    with lcbench.extend(model, spec, length=LENGTH), torch.no_grad():
        model(torch.cat([prompt()[:, :50], zoo.tokens(1, 15, seed=9)], dim=1), past_key_values=cache)
        cache.crop(-15)
        assert torch.equal(generate(model, prompt(), past_key_values=cache), truth(spec))


@every_method
def test_a_static_cache_that_is_used_again(model: PreTrainedModel, spec: str) -> None:
    cache = StaticCache(config=model.config, max_cache_len=LENGTH + 10)
    with lcbench.extend(model, spec, length=LENGTH):
        for _ in range(2):
            assert torch.equal(generate(model, prompt(), past_key_values=cache), truth(spec))
            cache.reset()


@in_turn({"num_beams": 3}, {"do_sample": True, "top_k": 8}, {"num_beams": 2, "do_sample": True})
def test_beams_and_samples_equal_the_uncached_run(model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
    answers = []
    with lcbench.extend(model, spec, length=LENGTH):
        for use_cache in (True, False):
            torch.manual_seed(5)
            answers.append(generate(model, prompt().repeat(2, 1), use_cache=use_cache, **options))
    assert torch.equal(*answers)


@pytest.mark.parametrize("arch", ["gemma2", "gemma3", "gpt-oss", "qwen2-sliding", "cohere2"])
def test_sliding_layers_beside_full_ones(arch: str) -> None:
    """Their caches forget what the window no longer needs."""
    model, spec = zoo.build(zoo.ARCHITECTURES[arch]()), "streaming:sinks=3,window=20+logn:base=9"
    with lcbench.extend(model, spec, length=LENGTH):
        expected = greedy(model, prompt(), 6)
        for options in ({}, {"prefill_chunk_size": 9}, STATIC):
            assert torch.equal(generate(model, prompt(), max_new_tokens=6, **options), expected), options
