"""vLLM as an engine: on a stand-in of its interface here; on a machine that has it, with `pytest -m gpu` of this
file."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from lcbench.engine import vllm as engine
from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.models import ModelSource
from tests.helpers import TINY, cli, fields_of

PASSKEY = ("passkey", "--seq-len", "160,256", "--samples", "3")


@dataclass
class SamplingParams:
    """The fields of vLLM's own that are used."""

    max_tokens: int
    temperature: float = 1.0
    include_stop_str_in_output: bool = False
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    finish_reason: str
    stop_reason: str | int | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    metrics: Any = None
    num_cached_tokens: int | None = None


@dataclass
class LLM:
    """Answers with the embedded model."""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    calls: list[int] = field(default_factory=list)
    log: ClassVar[float] = -0.5

    def __post_init__(self) -> None:
        if self.tensor_parallel_size > 8:
            raise ValueError("World size (9) is larger than the number of available GPUs (8). Set it lower.")
        source = ModelSource(dtype="float64")
        self._model, self._tokenizer = source.model(), source.tokenizer()

    @torch.no_grad()
    def generate(self, prompts: Any, params: list[SamplingParams], use_tqdm: bool) -> list[RequestOutput]:
        assert not use_tqdm and len(prompts) == len(params) and all(one.temperature == 0 for one in params)
        self.calls.append(len(prompts))
        return [self._one(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, params, strict=True)]

    def _one(self, tokens: list[int], params: SamplingParams) -> RequestOutput:
        if params.prompt_logprobs is not None:
            logs = self._model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            own = [{token: Logprob(float(logs[n, token]))} for n, token in enumerate(tokens[1:])]
            return RequestOutput([CompletionOutput("x", [0], None, "length")], [None, *own])
        found = generate(self._model, tokens, params.max_tokens, stop_tokens(self._model, self._tokenizer))
        text = self._tokenizer.decode(found.tokens)
        stop = next((stop for stop in params.stop or () if stop in text), None)
        text = text[: text.find(stop)] if stop else text
        reason = "stop" if stop else found.finish_reason
        return RequestOutput([CompletionOutput(text, found.tokens, self.log, reason, stop)], None, None, 0)


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `vllm`, as far as the engine uses it."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("vllm")
    module.__spec__ = importlib.util.spec_from_loader("vllm", loader=None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def same(one: str, other: str) -> None:
    for record, own in zip(fields_of(Path(one)), fields_of(Path(other)), strict=True):
        assert (record["prompt_sha256"], record["prediction"]) == (own["prompt_sha256"], own["prediction"])
        assert record["scores"] == pytest.approx(own["scores"], rel=1e-5)


def test_as_this_process(standin: ModuleType) -> None:
    done = cli("run", *PASSKEY, "--engine", "vllm", "--served-as", "plain", "--engine-option", "tensor_parallel_size=2",
               "-o", "vllm")  # fmt: skip
    assert done.code == 0, done.err
    assert cli("run", *PASSKEY, "--dtype", "float64", "-o", "local").code == 0
    same("vllm", "local")
    identity = json.loads(Path("vllm/run.json").read_text())["identity"]
    assert identity["engine"] == "vllm" and identity["engine_options"] == {"tensor_parallel_size": 2}
    assert {record["method"] for record in fields_of(Path("vllm"))} == {"served:plain"}


def test_likelihoods(standin: ModuleType) -> None:
    assert cli("run", "pg19", "--seq-len", "200", "--samples", "2", "--engine", "vllm", "-o", "vllm").code == 0
    assert cli("run", "pg19", "--seq-len", "200", "--samples", "2", "--dtype", "float64", "-o", "local").code == 0
    same("vllm", "local")
    assert fields_of(Path("vllm"))[0]["cost"]["pass"] == "prompt_logprobs"


def test_logits_that_are_no_numbers_fail_the_cell(standin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLM, "log", float("nan"))
    failed = cli("run", "passkey", "--seq-len", "160", "--samples", "2", "--engine", "vllm", "-o", "vllm")
    assert failed.code == 1 and "vLLM's logits are NaN or infinite" in failed.out.replace("\n", " ")


def test_options(standin: ModuleType) -> None:
    assert engine.parse_engine_options(["a=1", "b-c=x", 'd={"e": 2}']) == {"a": 1, "b_c": "x", "d": {"e": 2}}
    run = ("run", "passkey", "--seq-len", "160", "--engine", "vllm")
    for arguments, said in (
        (("--engine-option", "tensor_parallel_size"), "must be name=value"),
        (("--engine-option", "dtype=half"), "lcbench has --dtype for it"),
        (("--method", "dca"), "leave it out with --engine vllm"),
        (("--engine-option", "max_model_len=128"), "at most 128 tokens"),
        (("--engine-option", "tensor_parallel_size=9"), "vLLM cannot load lcbench-tiny: World size (9) is larger"),
        (("--endpoint", "http://localhost:1/v1"), "pass one of them"),
    ):
        refused = cli(*run, *arguments)
        assert refused.code == 2 and said in refused.error, refused.err


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself(tmp_path: Path) -> None:
    """The embedded model in float32: the answers and likelihoods of vLLM are those of lcbench."""
    for task, samples in (("passkey", "20"), ("pg19", "2")):
        asked = ("run", task, "--seq-len", "240", "--samples", samples, "-m", TINY, "--dtype", "float32")
        options = ("--engine", "vllm", "--engine-option", "gpu_memory_utilization=0.3")
        assert cli(*asked, *options, "-o", tmp_path / f"vllm-{task}").code == 0
        assert cli(*asked, "-o", tmp_path / f"local-{task}").code == 0
    own, served = (fields_of(tmp_path / f"{name}-passkey") for name in ("local", "vllm"))
    assert sum(a["prediction"] == b["prediction"] for a, b in zip(own, served, strict=True)) >= 19
    own, served = (fields_of(tmp_path / f"{name}-pg19") for name in ("local", "vllm"))
    for a, b in zip(own, served, strict=True):
        assert b["scores"]["nll"] == pytest.approx(a["scores"]["nll"], rel=1e-2)
