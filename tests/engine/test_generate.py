"""Greedy generation against the model's own, and what is measured beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import UserError, out_of_memory
from lcbench.engine import generate as engine
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return ModelSource().model()


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return load_task("passkey").example(Cell(200), 0, ModelSource().tokenizer(), 0).prompt


def test_greedy_as_the_model_itself(model: PreTrainedModel, prompt: list[int]) -> None:
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    found = engine.generate(model, prompt, 20)
    assert found.tokens == expected[0, len(prompt) :].tolist()
    assert found.prefill_seconds > 0 and found.decode_seconds > 0


@pytest.mark.parametrize(
    ("method", "chunk"),
    [
        pytest.param("vanilla", 1, marks=pytest.mark.slow),
        ("vanilla", 64),
        ("dca:chunk_size=48,max_position=63", 7),
        ("dca:chunk_size=48,max_position=63", 1000),
        ("self_extend+yarn:factor=2", 64),
    ],
)
def test_the_size_of_chunks_changes_nothing(
    model: PreTrainedModel, prompt: list[int], method: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lcbench.extend(model, method, length=512) as steered:
        whole = engine.generate(steered, prompt, 8)
        monkeypatch.setattr(engine, "PREFILL_CHUNK", chunk)
        assert engine.generate(steered, prompt, 8).tokens == whole.tokens


def test_generation_ends_at_the_budget_or_a_stop_token(model: PreTrainedModel, prompt: list[int]) -> None:
    tokens = engine.generate(model, prompt, 6).tokens
    assert len(tokens) == 6
    for budget in (1, 3):
        assert engine.generate(model, prompt, budget).tokens == tokens[:budget]
    stop = tokens[3]
    assert engine.generate(model, prompt, 6, {stop}).tokens == tokens[: tokens.index(stop)]
    assert engine.generate(model, prompt, 6, {tokens[0]}).tokens == []


@pytest.mark.parametrize(("eos", "expected"), [(None, set()), (5, {5}), ([5, 7], {5, 7}), (0, {0})])
def test_stop_tokens(
    model: PreTrainedModel, eos: int | list[int] | None, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of generation_config, config and tokenizer together."""
    tokenizer = ModelSource().tokenizer()
    for owner in (model.generation_config, model.config):
        monkeypatch.setattr(owner, "eos_token_id", eos)
    assert engine.stop_tokens(model, tokenizer) == expected | {tokenizer.eos_token_id}
    monkeypatch.setattr(model.config, "eos_token_id", [9, 11])
    tokenizer.eos_token = None
    assert engine.stop_tokens(model, tokenizer) == expected | {9, 11}
    for strange in ("15", [[15]], 1.5, [True]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", strange)
        with pytest.raises(UserError, match="must be a token id, or a list of them"):
            engine.stop_tokens(model, tokenizer)


def test_logits_are_made_for_the_last_position_only(
    model: PreTrainedModel, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    hook = model.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.logits.shape[:2])))
    try:
        engine.generate(model, prompt, 3)
    finally:
        hook.remove()
    assert shapes == [(1, 1)] * 3


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) == is_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here")
def test_peak_memory_is_of_what_follows_the_reset() -> None:
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    torch.ones(2**26)  # 256 MiB, gone at once
    grown = peak_memory(CPU)
    assert 2**28 * 0.9 < grown - before < 2**28 * 1.5
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < grown - 2**27


def test_prefill_is_told_chunk_by_chunk(model: PreTrainedModel, prompt: list[int]) -> None:
    reported: list[int] = []
    engine.generate_together(model, [engine.Prompt(prompt, 2, chunk_size=100, on_prefill=reported.append)])
    assert reported == [*range(0, len(prompt), 100), len(prompt)] and len(reported) > 2
