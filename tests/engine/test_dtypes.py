"""The type that `--dtype auto` computes in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcbench.engine.dtypes import best_dtype, cpu_multiplies_bfloat16
from lcbench.engine.models import ModelSource
from tests.gguf_models import tiny_model, write_gguf
from tests.helpers import model_folder

CPU = torch.device("cpu")
FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16


def with_units(monkeypatch: pytest.MonkeyPatch, *, fast: bool) -> None:
    monkeypatch.setattr("lcbench.engine.dtypes.cpu_multiplies_bfloat16", lambda: fast)


@pytest.mark.parametrize(
    ("own", "dequantized", "on_fast", "on_slow"),
    [
        (FLOAT32, False, FLOAT32, FLOAT32),
        (None, False, FLOAT32, FLOAT32),
        (BFLOAT16, False, BFLOAT16, BFLOAT16),
        (FLOAT16, False, BFLOAT16, FLOAT16),
        (None, True, BFLOAT16, FLOAT32),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_is_faster_and_the_weights_have_no_more_digits(
    own: torch.dtype | None,
    dequantized: bool,
    on_fast: torch.dtype,
    on_slow: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fast, expected in ((True, on_fast), (False, on_slow)):
        with_units(monkeypatch, fast=fast)
        assert best_dtype(own, CPU, dequantized=dequantized) == expected


@pytest.mark.parametrize(
    ("capabilities", "fast"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_what_a_cpu_can_is_asked_of_torch(
    capabilities: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    cpu_multiplies_bfloat16.cache_clear()
    assert cpu_multiplies_bfloat16() is fast
    cpu_multiplies_bfloat16.cache_clear()


def test_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_units(monkeypatch, fast=True)
    faster = "bfloat16, in which this CPU is faster; --dtype float32 is more precise."
    half = ModelSource(str(model_folder(tmp_path / "half", dtype="float16")), device="cpu")
    assert half.notes(half.config()) == [f"{half.name}: weights of float16 are converted to {faster}"]
    file = ModelSource(str(write_gguf(tmp_path / "mine.gguf", tiny_model(), "Q8_0")), device="cpu")
    assert file.notes(file.config()) == [f"{file.name}: weights of Q8_0 are dequantized to {faster}"]
    assert file.model().dtype == BFLOAT16
    embedded = ModelSource(device="cpu")
    assert embedded.notes(embedded.config()) == [] and embedded.torch_dtype(embedded.config()) == FLOAT32
