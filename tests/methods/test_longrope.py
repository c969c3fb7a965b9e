"""LongRoPE's factors: typed, from a file, from the model's config; which of them a run takes, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lcbench
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.longrope import LongRoPE
from tests.attention import zoo
from tests.attention.oracle import reference_logits

SHORT, LONG = [1.0, 1.0, 1.1, 1.2], [1.0, 2.0, 4.0, 8.0]
PHI: dict[str, Any] = {
    "max_position_embeddings": 1024,
    "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    "original_max_position_embeddings": 64,
}


def resolved(content: object, folder: Path, run: int, **options: Any) -> LongRoPE:
    (folder / "factors.json").write_text(json.dumps(content))
    method = LongRoPE(file=str(folder / "factors.json"), **options).for_model(SimpleNamespace())
    return method.resolve(Lengths(128, run))


@pytest.mark.parametrize(("run", "factors"), [(64, SHORT), (65, LONG)])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_config_has_short_and_long_factors(tmp_path: Path, key: str, run: int, factors: list[float]) -> None:
    content = {**PHI, key: PHI["rope_scaling"]}
    method = resolved(content, tmp_path, run)
    assert list(method.factors) == factors and method.original_length == 64
    assert math.isclose(method.attention_factor or 0, math.sqrt(1 + math.log(16) / math.log(64)))


def test_a_list_is_for_every_length(tmp_path: Path) -> None:
    method = resolved(LONG, tmp_path, 1024)
    assert list(method.factors) == LONG and method.original_length == 128
    assert math.isclose(method.attention_factor or 0, math.sqrt(1 + math.log(8) / math.log(128)))
    assert resolved(LONG, tmp_path, 100).attention_factor == 1


def test_what_is_typed_wins(tmp_path: Path) -> None:
    method = resolved(PHI, tmp_path, 80, original_length=100, attention_factor=1.5)
    assert list(method.factors) == SHORT and method.attention_factor == 1.5
    assert list(resolved(PHI, tmp_path, 80, factors=(3.0,)).factors) == [3.0]


def test_a_resolved_method_reads_no_file_again(tmp_path: Path) -> None:
    method = resolved(PHI, tmp_path, 80)
    (tmp_path / "factors.json").unlink()
    assert method.resolve(Lengths(128, 80)) == parse_method(str(method)) == method


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rope_scaling": None}, "has no long_factor"),
        (7, "has no long_factor"),
        ({"long_factor": "many"}, "long_factor must be a list"),
        ([1, None], "long_factor must be a number"),
        ([1, -2], "factors must be one number above 0 for each channel"),
        ([], "factors must be one number above 0 for each channel"),
    ],
)
def test_files_that_hold_no_factors(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolved(content, tmp_path, 80)
    assert str(error.value).startswith("longrope: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_files_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "factors.json"
    file.write_text(text)
    for each in (file, tmp_path, tmp_path / "missing.json"):
        with pytest.raises(UserError, match="cannot be read as JSON"):
            LongRoPE(file=str(each)).resolve(Lengths(128, 80))


def test_a_model_without_factors_asks_for_them() -> None:
    with pytest.raises(UserError, match="the model's config has no factors; give a file of them, longrope:file=PATH"):
        lcbench.extend(zoo.llama(), "longrope", length=100)


def test_the_number_of_channels_is_checked_before_anything_runs() -> None:
    with pytest.raises(UserError, match="longrope: there are 3 factors for 8 channels"):
        lcbench.extend(zoo.llama(), "longrope:factors=[1,2,3]", length=100).__enter__()


@pytest.mark.parametrize("length", [12, 100])
@pytest.mark.parametrize("arch", ["llama-longrope", "phi3-longrope"])
@torch.no_grad()
def test_the_models_own_factors_are_what_it_does_itself(arch: str, length: int) -> None:
    """Short ones up to the original length of 16 tokens, long ones beyond; with a plan, too."""
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(1, length)
    expected = model(ids).logits
    with lcbench.extend(model, "longrope", length=length):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)
    assert torch.equal(model(ids).logits, expected)
    lengths = Lengths(model.config.max_position_embeddings, length)
    method = parse_method("rerope:window=9+longrope").for_model(model.config).resolve(lengths)
    with lcbench.extend(model, method, length=length):
        actual = model(ids).logits.double()
    torch.testing.assert_close(actual, reference_logits(model, ids, method, lengths), atol=1e-4, rtol=0)


@pytest.mark.parametrize("arch", ["llama-linear", "llama-yarn", "llama-dynamic", "llama-llama3"])
@torch.no_grad()
def test_another_scaling_of_the_models_own_is_replaced(arch: str) -> None:
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(1, 100)
    spec = "longrope:factors=[1,1,2,2,3,3,4,4],attention_factor=1.1"
    with lcbench.extend(zoo.build(zoo.ARCHITECTURES["llama"]()), spec, length=100) as plain:
        expected = plain(ids).logits
    with lcbench.extend(model, spec, length=100):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)
