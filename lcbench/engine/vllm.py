"""vLLM in this process, on as many GPUs and machines as its own options say.

Written against the interface of vLLM 0.33, as its source says: `LLM.generate` with token ids, `SamplingParams`,
`prompt_logprobs`. For several processes with a model each (data parallel) start a server instead (docs/engines.md).
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lcbench.core.errors import EngineError, UserError, gist_of
from lcbench.engine.base import (
    CallCost,
    ContinuationScores,
    Engine,
    Host,
    ModelFacts,
    Output,
    PromptRequest,
    Source,
    TextScores,
)
from lcbench.engine.models import ModelSource
from lcbench.engine.served import served_methods
from lcbench.methods import Method
from lcbench.methods.trained_length import trained_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.attention.options import AttentionOptions

BROKEN = "vLLM's logits are NaN or infinite; run with --dtype bfloat16 or float32"
MOST = 1e-3  # of a logarithm that was rounded
OURS = {"model": "--model", "revision": "--revision", "dtype": "--dtype", "trust_remote_code": "--trust-remote-code"}


def parse_engine_options(typed: Sequence[str]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` from `name=value`; values are JSON, or else strings. Raises: UserError."""
    options: dict[str, Any] = {}
    for text in typed:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (equals and name.isidentifier()):
            raise UserError(f"--engine-option {text!r} must be name=value, as in tensor_parallel_size=4.")
        if name in OURS:
            raise UserError(f"--engine-option {name}: use {OURS[name]} of lcbench instead.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


@dataclass(frozen=True)
class VllmSource(Source):
    """A model that vLLM runs; `options` are further arguments of `vllm.LLM`, `served_as` names the method that they
    apply."""

    local: ModelSource
    options: dict[str, Any] = field(default_factory=dict)
    served_as: str | None = None

    @property
    def display_name(self) -> str | None:  # type: ignore[override]
        return self.local.display_name

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.local.name

    def check(self) -> None:
        self.local.check()
        served_methods(self.served_as, None)
        if importlib.util.find_spec("vllm") is None:
            raise UserError("--engine vllm needs vLLM: pip install vllm, on a machine with a GPU that it supports.")

    def methods(self, typed: Sequence[str] | None) -> list[Method]:
        return served_methods(self.served_as, typed)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.local.tokenizer()

    def inspect(self, tokenizer: PreTrainedTokenizerBase, attention: AttentionOptions) -> ModelFacts:
        limit = self.options.get("max_model_len")
        return ModelFacts(trained_length(self.local.config()), limit=limit if type(limit) is int else None)

    def identity(self, facts: ModelFacts) -> dict[str, Any]:
        return {
            "model": self.name,
            "model_fingerprint": self.local.checkpoint.fingerprint(self.local.config()),
            "pretraining_length": facts.trained,
            "dtype": self.local.dtype,
            "engine": "vllm",
            **({"engine_options": self.options} if self.options else {}),
        }

    def open_host(self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts, attention: AttentionOptions) -> VllmHost:
        from vllm import LLM

        arguments = {
            "model": self.local.checkpoint.location,
            "revision": self.local.revision,
            "dtype": self.local.dtype,
            "trust_remote_code": self.local.trust_remote_code,
            "disable_log_stats": False,  # they have the time to the first token
            **self.options,
        }
        try:
            return VllmHost(LLM(**arguments))
        except Exception as error:  # raised by vLLM, torch, Ray or the GPU's driver
            raise UserError(f"vLLM cannot load {self.name}: {gist_of(error)}.") from error


class VllmHost(Host):
    """A `vllm.LLM`."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    @contextmanager
    def engine(self, method: Method, seq_len: int, lengths: Sequence[int], *, shares: bool) -> Iterator[Engine]:
        yield VllmEngine(self.llm)


class VllmEngine(Engine):
    """Passes all prompts of a batch to vLLM, which schedules them and has its own prefix cache."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def together(self, requests: Iterable[PromptRequest]) -> int:
        return sum(1 for _ in requests)

    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        settings = [
            {
                "max_tokens": one.max_new_tokens,
                "stop": list(one.stop) or None,
                "stop_token_ids": sorted(one.end_tokens) or None,
                "skip_special_tokens": False,  # one of them may be the answer
                "logprobs": 0,  # only those of the chosen tokens: they show NaN
                **(asdict(one.sampling) | {"seed": one.seed} if one.sampling else {"temperature": 0.0}),
            }
            for one in requests
        ]
        answers, seconds = self._run([one.tokens for one in requests], settings)
        return [self._output(answer, seconds, len(requests)) for answer in answers]

    def _output(self, answer: Any, seconds: float, together: int) -> Output:
        (found,) = answer.outputs
        if found.cumulative_logprob is not None and not math.isfinite(found.cumulative_logprob):
            raise EngineError(BROKEN)
        if found.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended its answer with {found.finish_reason!r}")
        # vLLM leaves the string out; to have it in the text would put the spelling of end tokens there, too.
        string = found.stop_reason if isinstance(found.stop_reason, str) else ""
        reason = "stop_string" if string else found.finish_reason
        first = getattr(answer.metrics, "first_token_latency", None) or None
        cost = CallCost(
            prefill_seconds=round(first or seconds, 6),
            decode_seconds=round(seconds - first, 6) if first else 0.0,
            reused_tokens=answer.num_cached_tokens or 0,
            decoded_together=together,
            first_token_seconds=first,
        )
        return Output(found.text + string, len(found.token_ids), reason, cost)

    def continuations(self, request: PromptRequest, choices: Mapping[str, list[int]]) -> ContinuationScores:
        scores, seconds = self._scores([request.tokens + tokens for tokens in choices.values()])
        logs = {choice: sum(row[-len(tokens) :]) for (choice, tokens), row in zip(choices.items(), scores, strict=True)}
        return ContinuationScores(logs, CallCost(prefill_seconds=round(seconds, 6), way="prompt_logprobs"))

    def read(
        self, tokens: list[int], first: int, seq_len: int, on_prefill: Callable[[float], None] | None = None
    ) -> TextScores:
        (scores,), seconds = self._scores([tokens])
        nll = -np.array(scores[first - 1 :], dtype=np.float32)
        return TextScores(nll, CallCost(prefill_seconds=round(seconds, 6), way="prompt_logprobs"))

    def _scores(self, prompts: Sequence[list[int]]) -> tuple[list[list[float]], float]:
        """ln p of tokens[1:] of each prompt, and the seconds for all of them."""
        answers, seconds = self._run(
            prompts, [{"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1}] * len(prompts)
        )
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            places = zip(answer.prompt_logprobs[1:], prompt[1:], strict=True)
            rows.append([_log(entry, token) for entry, token in places])
        return rows, seconds

    def _run(self, prompts: Sequence[list[int]], settings: Sequence[dict[str, Any]]) -> tuple[list[Any], float]:
        """The outputs in the order of the prompts, and the seconds for all of them."""
        from vllm import SamplingParams

        started = time.perf_counter()
        answers = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [SamplingParams(**each) for each in settings],
            use_tqdm=False,
        )
        return answers, time.perf_counter() - started


def _log(entry: Mapping[int, Any], token: int) -> float:
    """ln p of a token, in an entry of it and of the likeliest one. Raises: EngineError for what is none."""
    own, highest = float(entry[token].logprob), max(float(one.logprob) for one in entry.values())
    if not (math.isfinite(own) and math.isfinite(highest)):
        raise EngineError(BROKEN)
    if highest > MOST:
        raise EngineError("vLLM gives something else than log-likelihoods; leave --engine-option logprobs_mode out")
    return own
