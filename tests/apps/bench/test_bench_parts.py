"""The parts of a bench: what is counted, how rounds are taken, and the reference's view of a method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lcbench.apps.bench.check import _plan
from lcbench.apps.bench.shapes import random_model, shape_config, shapes
from lcbench.apps.bench.subjects import Steered
from lcbench.apps.bench.target import Target
from lcbench.apps.bench.timing import Clock, Spread, interleaved, ratios
from lcbench.core.errors import UserError
from lcbench.engine.footprint import footprint
from lcbench.methods import Method
from lcbench.methods.trained_length import trained_length
from tests.attention.oracle import matrices, plan

CPU = torch.device("cpu")
# As their makers, or the hub, count them.
PARAMETERS = {
    "open-llama-3b": 3_426_473_600,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
}
METHODS = [
    "vanilla",
    "dca:chunk_size=24,max_position=40",
    "self_extend:group_size=4,neighbor_window=16",
    "fot:memory_layers=[1],context_length=32,last_context_length=16",
    "streaming:sinks=2,window=20",
    "leaky_rerope:window=20,k=3",
    "duo_attention:full_heads=[0:0,0:1],sinks=2,window=21",
]


@pytest.fixture(scope="module")
def target() -> Target:
    config = shape_config("tiny", 2)
    return Target("tiny", random_model("tiny", config, torch.float32, CPU))


def test_shapes_have_the_parameters_of_their_models() -> None:
    assert shapes().keys() == PARAMETERS.keys() | {"tiny"}
    for name, count in PARAMETERS.items():
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(shape_config(name))
        assert footprint(skeleton, torch.bfloat16).weights == 2 * count, name
        assert trained_length(skeleton.config) >= 2048


def test_rope_of_a_shape() -> None:
    assert shape_config("llama-3-8b").rope_parameters["rope_theta"] == 500_000
    assert shape_config("llama-2-7b").rope_parameters["rope_theta"] == 10_000


def test_random_weights_are_the_same_every_time_and_are_not_nothing() -> None:
    first, second = (random_model("tiny", shape_config("tiny", 1), torch.float32, CPU) for _ in range(2))
    for (name, one), other in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(one, other) and (one.std() > 0 or "norm" in name), name


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("index", [0, 1])
def test_the_reference_sees_what_the_papers_say(spec: str, index: int, target: Target) -> None:
    n = 100
    subject = Steered(target, spec, "auto", n)
    rows = [0, 31, 63, 64, 99]
    for head in range(target.kv_heads):
        rel, seen = _plan(target, subject, index, torch.tensor(rows), n, head)
        expected_rel, expected_seen = matrices(plan(subject.method, index, n, head), n, rows)
        assert torch.equal(seen, expected_seen)
        torch.testing.assert_close(rel[seen], expected_rel[seen], rtol=1e-12, atol=0)


@pytest.mark.parametrize("spec", METHODS)
def test_work_is_counted_over_what_is_seen(spec: str, target: Target) -> None:
    n = 100
    method = Steered(target, spec, "auto", n).method
    heads = range(target.kv_heads)
    seen = [[int(matrices(plan(method, index, n, head), n)[1].sum()) for head in heads] for index in range(2)]
    pairs = [sum(of_heads) // len(heads) for of_heads in seen]
    assert [target.pairs(method, index, n) for index in range(2)] == pairs
    assert target.attention_work(method, 1, n) == 2 * 2 * 64 * 4 * pairs[1]
    assert target.longest_layer(method, n) == (1 if spec.startswith("fot") else 0)


def test_linear_work(target: Target) -> None:
    layer = 4 * 256 * 256 + 3 * 256 * 688
    assert target.linear_work(target.block(1)) == 2 * layer
    assert target.linear_work(target.model) == 2 * 2 * layer  # no logits: prefill makes them for one position only


def small(**config: Any) -> Any:
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return sizes | {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64} | config


def test_sliding_windows_are_counted_as_windows() -> None:
    from transformers import Qwen2Config

    config = Qwen2Config(**small(use_sliding_window=True, sliding_window=16, max_window_layers=1))
    target = Target("qwen", AutoModelForCausalLM.from_config(config).eval())
    assert [target.slides(index) for index in range(2)] == [False, True]
    assert target.pairs(Method(), 1, 100) == 16 * 17 // 2 + 84 * 16
    assert target.pairs(Method(), 0, 100) == 5050


def test_models_without_an_exact_baseline_are_refused() -> None:
    eager = AutoModelForCausalLM.from_config(LlamaConfig(**small()), attn_implementation="eager")
    with pytest.raises(UserError, match="does not run by SDPA"):
        Target("llama", eager)
    dynamic = LlamaConfig(**small(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
    with pytest.raises(UserError, match="follows the length by itself"):
        Target("llama", AutoModelForCausalLM.from_config(dynamic))
    from transformers import Gemma2Config, Qwen2Config

    capped = AutoModelForCausalLM.from_config(Gemma2Config(**small(head_dim=16)))  # soft caps, which SDPA has not
    with pytest.raises(UserError, match="does not run by SDPA"):
        Target("gemma", capped)
    config = Qwen2Config(**small(use_sliding_window=True, sliding_window=16, max_window_layers=0))
    with pytest.raises(UserError, match="within sliding windows only"):
        Target("qwen", AutoModelForCausalLM.from_config(config))


# Rounds


def test_all_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []

    def turn(name: str) -> Any:
        def work() -> int:
            order.append(name)
            return len(order)

        return work

    answers = interleaved({name: turn(name) for name in "abc"}, 3, lambda *_: False)
    assert "".join(order) == "abcabcbcacab"
    assert answers == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}


def test_a_turn_that_fails_is_left_out_from_then_on() -> None:
    calls = {"a": 0, "b": 0}

    def turn(name: str) -> Any:
        def work() -> str:
            calls[name] += 1
            if name == "b" and calls[name] == 2:
                raise MemoryError
            return name

        return work

    told: list[str] = []
    turns = {name: turn(name) for name in "ab"}
    assert interleaved(turns, 3, lambda name, error: told.append(name) is None) == {"a": ["a", "a", "a"]}
    assert told == ["b"] and calls == {"a": 4, "b": 2}
    calls["b"] = 0
    with pytest.raises(MemoryError):
        interleaved({"b": turn("b")}, 3, lambda *_: False)


def test_a_turn_is_as_many_calls_as_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def work() -> None:
        calls.append(None)
        now[0] += 0.5 if len(calls) == 1 else 0.02  # the first makes tables

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    clock = Clock(CPU, of_process=False)
    assert clock.turn(work) == 0.5 and len(calls) == 1
    assert clock.turn(work) == pytest.approx(0.02) and len(calls) == 1 + 1 + 13


def test_cpu_time_is_read_where_one_thread_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Clock.of(CPU).of_process
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not Clock.of(CPU).of_process
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not Clock.of(torch.device("cuda")).of_process


def test_spread_and_ratios() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, None, None)
    # Within each round, and not of the medians: a slow round is slow for both.
    assert ratios([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]).median == 2.0
