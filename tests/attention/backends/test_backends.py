"""Which backend computes a call, and what a user is told who asked for one that cannot."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lcbench
from lcbench.attention.backends import dispatch as backends
from lcbench.attention.backends import flash
from lcbench.attention.backends.call import Call
from lcbench.attention.backends.dispatch import BACKENDS, BackendSelector
from lcbench.attention.rope import Rope, RopeTables
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.pieces import Piece
from lcbench.results.records import read_manifest
from tests.attention import varlen, zoo
from tests.helpers import cli, lines_of, records_of

CPU = torch.device("cpu")


def call(queries: int = 20, *, width_v: int = 8, dtype: torch.dtype = torch.float32, **extra: Any) -> Call:
    q, k, v = (torch.randn(1, 2, n, d).to(dtype) for n, d in ((queries, 8), (20, 8), (20, width_v)))
    i = torch.arange(20 - queries, 20)
    piece = Piece(i, torch.arange(20), torch.zeros_like(i), i + 1)
    return Call(q, k, v, [piece], Rope(None), RopeTables(parse_method("vanilla"), Lengths(32)), 0, 0.3, **extra)


def with_gradient(given: Call) -> Call:
    return replace(given, q_BHTD=given.q_BHTD.requires_grad_())


@pytest.fixture
def as_if_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, with a stand-in of its kernel."""
    monkeypatch.setattr(flash, "varlen_attn", varlen.varlen_attn)
    on_gpu = BACKENDS | {
        "flash": backends.Backend("flash", BACKENDS["flash"].run, lambda device: None, BACKENDS["flash"].refusal),
        "tiled": backends.Backend("tiled", BACKENDS["tiled"].run, lambda device: "runs on CPUs", lambda given: None),
    }
    monkeypatch.setattr(backends, "BACKENDS", on_gpu)


def answered(selector: BackendSelector, given: Call) -> list[str]:
    out, lse = selector(given)
    expected, expected_lse = BACKENDS["reference"].run(given)
    tolerance = 3 * torch.finfo(given.q_BHTD.dtype).eps + 1e-6
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=4 * tolerance, rtol=0)
    return selector.used


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (call(), "tiled"),
        (call(17), "tiled"),
        (call(16), "matmul"),
        (call(1), "matmul"),
        (call(width_v=16), "matmul"),
        (call(softcap=2.0), "matmul"),
        (with_gradient(call()), "matmul"),
    ],
)
def test_auto_on_a_cpu(given: Call, taken: str) -> None:
    assert answered(BackendSelector(), given) == [taken]


@pytest.mark.usefixtures("as_if_on_cuda")
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (call(dtype=torch.bfloat16), "flash"),
        (call(dtype=torch.float16), "flash"),
        (call(16, dtype=torch.float16), "matmul"),
        (call(), "matmul"),  # float32
        (call(width_v=16, dtype=torch.float16), "matmul"),
        (call(softcap=2.0, dtype=torch.float16), "matmul"),
        (with_gradient(call(dtype=torch.float16)), "matmul"),
    ],
)
def test_auto_on_a_gpu(given: Call, taken: str) -> None:
    assert answered(BackendSelector(), given) == [taken]


@pytest.mark.parametrize("name", ["reference", "matmul", "tiled"])
@pytest.mark.parametrize("queries", [1, 20])
def test_a_backend_that_is_named_does_every_call(name: str, queries: int) -> None:
    assert answered(BackendSelector(name), call(queries)) == [name]


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        (
            "tiled",
            call(softcap=2.0),
            "tiled does not support the soft cap that this model's scores have; use auto, reference",
        ),
        ("tiled", with_gradient(call()), "tiled has no gradients; use auto, reference or matmul"),
        ("tiled", call(width_v=16), "tiled needs values as wide as keys; use auto"),
        ("flash", call(), "flash runs on CUDA GPUs, not on cpu; use auto, reference, matmul"),
    ],
)
def test_one_that_cannot_says_why(name: str, given: Call, error: str) -> None:
    selector = BackendSelector(name)
    with pytest.raises(UserError, match=f"attention backend {error}"):
        selector(given)
    assert selector.used == []


@pytest.mark.usefixtures("as_if_on_cuda")
def test_flash_says_what_it_cannot() -> None:
    with pytest.raises(UserError, match="flash computes in bfloat16 and float16, not in float32; use auto"):
        BackendSelector("flash")(call())


@pytest.mark.parametrize(("name", "kept"), [("reference", True), ("matmul", True)])
def test_gradients_of_those_that_have_them(name: str, kept: bool) -> None:
    gradients: list[Tensor] = []
    for backend in (name, "matmul"):
        torch.manual_seed(0)
        given = with_gradient(call())
        out, lse = BackendSelector(backend)(given)
        (out.square().sum() + lse.sum()).backward()
        assert given.q_BHTD.grad is not None
        gradients.append(given.q_BHTD.grad)
    torch.testing.assert_close(*gradients)


def test_unknown_names_and_machines_are_told_before_anything_runs() -> None:
    model = zoo.llama()
    with pytest.raises(UserError, match="unknown attention backend 'flahs'; did you mean 'flash'"):
        lcbench.extend(model, "dca", attention="flahs")
    with pytest.raises(UserError, match="flash runs on CUDA GPUs, not on cpu"):
        lcbench.extend(model, "dca", attention="flash")


@torch.no_grad()
def test_a_block_tells_what_computed(caplog: pytest.LogCaptureFixture) -> None:
    steering = lcbench.extend(zoo.llama(), "dca")
    with steering as model, caplog.at_level(logging.INFO, logger="lcbench"):
        assert steering.backends == []
        model(zoo.tokens(1, 40))
        assert steering.backends == ["tiled"]
        model.generate(zoo.tokens(1, 40), max_new_tokens=3, do_sample=False)
        assert steering.backends == ["matmul", "tiled"]
    said = [record.getMessage() for record in caplog.records if "computed by" in record.getMessage()]
    assert said == ["attention of 40 queries is computed by tiled", "attention of 1 queries is computed by matmul"]


def test_the_option_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same records but for what computed them, which every record tells; another folder for each backend that is
    named; what needs a GPU is refused before a model is loaded."""
    monkeypatch.chdir(tmp_path)
    asked = ("run", "passkey", "--seq-len", "256", "--samples", "1", "--method", "vanilla,dca")
    for name in ("reference", "matmul", "auto"):
        outcome = cli(*asked, "--attention", name, "-o", name)
        assert outcome.code == 0, outcome.err
    found = {name: records_of(Path(name)) for name in ("reference", "matmul", "auto")}
    used = {name: [line["cost"]["attention"] for line in lines_of(Path(name))] for name in found}
    assert used == {"reference": [["reference"]] * 2, "matmul": [["matmul"]] * 2, "auto": [["matmul", "tiled"]] * 2}
    assert found["reference"] == found["matmul"] == found["auto"]
    # The name that it had before stands in every folder, and goes on in it.
    assert [read_manifest(Path(name)).content["identity"]["attention"] for name in ("matmul", "auto")] == [
        "joint",
        None,
    ]
    again = cli(*asked, "--attention", "joint", "-o", "matmul")
    assert again.code == 0 and len(lines_of(Path("matmul"))) == 2
    other = cli(*asked, "--attention", "matmul", "-o", "auto")
    assert other.code == 2 and "it differs in attention" in other.error
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refused = cli(*asked, "--attention", "flash", "-o", "flash")
    assert refused.code == 2 and not Path("flash").exists()
    assert refused.error == (
        "error: attention backend flash runs on CUDA GPUs, not on cpu; use auto, reference, matmul or tiled."
    )
