"""vLLM as an engine: on a stand-in of its interface here; on a machine that has it, with `pytest -m gpu` of this
file."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from lcbench.core.errors import EngineError
from lcbench.core.tokens import encode_start
from lcbench.engine import vllm as engine
from lcbench.engine.base import PromptRequest
from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.models import ModelSource
from tests.helpers import TINY, cli, fields_of

PASSKEY = ("passkey", "--seq-len", "160", "--samples", "2")


@dataclass
class SamplingParams:
    """Fields of vLLM 0.33's own."""

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
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class Metrics:
    first_token_latency: float


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
    """Answers with the embedded model, in the shapes of vLLM 0.33."""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    disable_log_stats: bool = True
    logprobs_mode: str = "raw_logprobs"
    calls: list[int] = field(default_factory=list)
    log: ClassVar[float] = -0.5
    ending: ClassVar[str | None] = None

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
            logits = self._model(torch.tensor([tokens])).logits[0]
            logs = logits if self.logprobs_mode == "raw_logits" else logits.log_softmax(-1)
            own = [self._entry(logs[n], token, params.prompt_logprobs) for n, token in enumerate(tokens[1:])]
            return RequestOutput([CompletionOutput("x", [0], None, "length")], [None, *own])
        end = self._tokenizer.eos_token_id
        found = generate(self._model, tokens, params.max_tokens, stop_tokens(self._model, self._tokenizer))
        ids = found.tokens + [end] * (found.finish_reason == "stop")
        # The token that ends an answer is spelled out with the stop string, or left out with it.
        shown = ids if params.include_stop_str_in_output else found.tokens
        text = self._tokenizer.decode(shown, skip_special_tokens=params.skip_special_tokens)
        stop = next((stop for stop in params.stop or () if stop in text), None)
        text = text[: text.find(stop) + len(stop) * params.include_stop_str_in_output] if stop else text
        reason = self.ending or ("stop" if stop else found.finish_reason)
        metrics = None if self.disable_log_stats else Metrics(1e-3)
        return RequestOutput([CompletionOutput(text, ids, self.log, reason, stop)], None, metrics, 0)

    def _entry(self, logs_V: torch.Tensor, token: int, others: int) -> dict[int, Logprob]:
        """The token first, whatever its rank, then the likeliest ones."""
        rank = int((logs_V > logs_V[token]).sum()) + 1
        likeliest = {int(n): Logprob(float(logs_V[n]), k + 1) for k, n in enumerate(logs_V.topk(others).indices)}
        return {token: Logprob(float(logs_V[token]), rank)} | likeliest


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
    assert all(record["cost"]["first_token_seconds"] == 1e-3 for record in fields_of(Path("vllm")))
    identity = json.loads(Path("vllm/run.json").read_text())["identity"]
    assert identity["engine"] == "vllm" and identity["engine_options"] == {"tensor_parallel_size": 2}
    assert {record["method"] for record in fields_of(Path("vllm"))} == {"served:plain"}


def test_likelihoods(standin: ModuleType) -> None:
    assert cli("run", "pg19", "--seq-len", "200", "--samples", "2", "--engine", "vllm", "-o", "vllm").code == 0
    assert cli("run", "pg19", "--seq-len", "200", "--samples", "2", "--dtype", "float64", "-o", "local").code == 0
    same("vllm", "local")
    assert fields_of(Path("vllm"))[0]["cost"]["pass"] == "prompt_logprobs"


@pytest.mark.parametrize(
    ("standin_field", "value", "said"),
    [
        ("log", float("nan"), "vLLM's logits are NaN or infinite"),
        ("ending", "abort", "vLLM ended its answer with 'abort'"),
    ],
)
def test_what_is_no_answer_fails_the_sample(
    standin_field: str, value: object, said: str, standin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LLM, standin_field, value)
    (request,) = [PromptRequest([0, 5, 6], 64, 2)]
    with pytest.raises(EngineError, match=said):
        engine.VllmEngine(LLM("tiny")).generate([request])


def test_an_end_token_is_no_part_of_the_answer_and_a_stop_string_is(standin: ModuleType) -> None:
    """The model copies what it saw, and then ends."""
    llm = LLM("tiny")
    tokens = encode_start(ModelSource().tokenizer(), "The code of Mara is 4821. The code of Mara is")
    (whole,) = engine.VllmEngine(llm).generate([PromptRequest(tokens, 64, 24)])
    (stopped,) = engine.VllmEngine(llm).generate([PromptRequest(tokens, 64, 24, stop=(whole.text[2:4],))])
    assert stopped.text == whole.text[:4] and stopped.finish_reason == "stop_string"
    llm._tokenizer = copy.deepcopy(llm._tokenizer)
    llm._tokenizer.eos_token_id = generate(llm._model, tokens, 4, frozenset()).tokens[3]
    (ended,) = engine.VllmEngine(llm).generate([PromptRequest(tokens, 64, 24)])
    assert ended.finish_reason == "stop" and ended.tokens == 4
    assert ended.text == llm._tokenizer.decode(generate(llm._model, tokens, 3, frozenset()).tokens)


def test_logits_in_the_place_of_likelihoods_are_none(standin: ModuleType) -> None:
    with pytest.raises(EngineError, match="leave --engine-option logprobs_mode out"):
        engine.VllmEngine(LLM("tiny", logprobs_mode="raw_logits")).read([0, 5, 6], 1, 64)


def test_options(standin: ModuleType) -> None:
    assert engine.parse_engine_options(["a=1", "b-c=x", 'd={"e": 2}']) == {"a": 1, "b_c": "x", "d": {"e": 2}}
    run = ("run", "passkey", "--seq-len", "160", "--engine", "vllm")
    for arguments, said in (
        (("--engine-option", "tensor_parallel_size"), "must be name=value"),
        (("--engine-option", "dtype=half"), "use --dtype of lcbench"),
        (("--method", "dca"), "leave it out with --engine vllm"),
        (("--engine-option", "max_model_len=128"), "at most 128 tokens"),
        (("--engine-option", "tensor_parallel_size=9"), "vLLM cannot load lcbench-tiny: World size (9) is larger"),
        (("--endpoint", "http://localhost:1/v1"), "pass only one of them"),
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
