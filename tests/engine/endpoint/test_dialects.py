"""Servers differ in what they take and say; the answers and likelihoods that are measured are those of this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from lcbench.attention.options import AttentionOptions
from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_start
from lcbench.engine.base import Engine, PromptRequest
from lcbench.engine.endpoint import client as client_module
from lcbench.engine.endpoint.address import Address
from lcbench.engine.endpoint.errors import EndpointError, TransientError
from lcbench.engine.endpoint.likelihoods import likelihoods
from lcbench.engine.endpoint.source import EndpointSource
from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.models import ModelSource
from lcbench.engine.score import score_tokens
from lcbench.methods import parse_method
from tests.engine.endpoint.dialects import (
    LlamaCppPython,
    LlamaServer,
    Ollama,
    Sglang,
    Tgi,
    Thinker,
    Vllm,
    WithoutBos,
)
from tests.engine.endpoint.fake import NAME, Body, BrokenError, Server, serving, tiny
from tests.engine.endpoint.runs import PLAIN

TEXT = "The code of Mara is 4821. The code of Otto is 77. The code of Mara is"


@contextmanager
def engine_of(server: Server, api: str = "completions", measures: tuple[str, ...] = ("answer",)) -> Iterator[Engine]:
    """The engine of a server that was probed."""
    with serving(server):
        source = EndpointSource(NAME, Address.parse(server.url), ModelSource(), api)
        source.check()
        tokenizer, attention = source.tokenizer(), AttentionOptions()
        facts = source.inspect(tokenizer, attention)
        source.require(measures)
        host = source.open_host(tokenizer, facts, attention)
        with host.engine(parse_method("vanilla"), 64, [64], shares=False) as engine:
            yield engine


def own_answer(tokens: list[int], count: int, ends: frozenset[int] = frozenset()) -> list[int]:
    model, tokenizer = tiny()
    return generate(model, tokens, count, stop_tokens(model, tokenizer) | ends).tokens


@pytest.mark.parametrize(
    ("kind", "sent_as", "tells"),
    [
        (partial(Server, stream=False), "token_ids", False),
        (partial(Server, token_ids=False, only=PLAIN), "text", False),
        (Vllm, "token_ids", True),
        (Sglang, "token_ids", True),
        (LlamaServer, "token_ids", False),
        (Tgi, "text", True),
        (WithoutBos, "text", True),
    ],
)
def test_answers(kind: Callable[[], Server], sent_as: str, tells: bool) -> None:
    """Up to the budget, up to a stop string, and up to an end token: each in the server's own way."""
    server, tokenizer = kind(), tiny()[1]
    tokens = encode_start(tokenizer, TEXT)
    whole = own_answer(tokens, 8)
    text = tokenizer.decode(whole)
    stop = text[2:4]
    server.ends = frozenset({whole[5]}) - set(whole[:5])
    assert server.ends and stop not in text[:2]
    with engine_of(server) as engine:
        (budget,) = engine.generate([PromptRequest(tokens, 64, 4)])
        (stopped,) = engine.generate([PromptRequest(tokens, 64, 4, stop=(stop,))])
        (ended,) = engine.generate([PromptRequest(tokens, 64, 8)])
    assert (budget.text, budget.finish_reason) == (tokenizer.decode(whole[:4]), "length")
    assert stopped.text.partition(stop)[0] == text[:2]
    assert stopped.finish_reason == ("stop_string" if tells else "stop_or_string")
    assert (ended.text, ended.finish_reason) == (
        tokenizer.decode(whole[:5]),
        "eos_token" if kind in (Tgi, WithoutBos) else "stop",
    )
    for output in (budget, stopped, ended):
        difference = 0 if server.only is None else None  # no count of a stream without `stream_options`
        assert (output.cost.sent_as, output.cost.prompt_difference) == (sent_as, difference)


def test_a_prompt_in_a_template_and_cut_shows_in_the_counts() -> None:
    tokens = encode_start(tiny()[1], TEXT)
    with engine_of(Ollama()) as engine:
        (short,) = engine.generate([PromptRequest(tokens, 64, 4)])
        (long,) = engine.generate([PromptRequest(tokens * 3, 64, 4)])
    differences = short.cost.prompt_difference, long.cost.prompt_difference
    assert None not in differences and short.cost.sent_as == "text"
    assert differences[0] > 0 > differences[1]  # type: ignore[operator]


@pytest.mark.parametrize("kind", [Vllm, Sglang])
def test_likelihoods(kind: type[Server]) -> None:
    model, tokenizer = tiny()
    tokens = encode_start(tokenizer, TEXT)
    with engine_of(kind(), measures=("choice", "likelihood")) as engine:
        read = engine.read(tokens, 3, 64)
        labels = {name: tokenizer(name, add_special_tokens=False).input_ids for name in (" 4821", " 77")}
        found = engine.continuations(PromptRequest(tokens, 64, 4), labels)
    np.testing.assert_allclose(read.nll, score_tokens(model, tokens, 3).nll, rtol=1e-5)
    for name, label in labels.items():
        own = -float(score_tokens(model, tokens + label, len(tokens)).nll.sum())
        assert found.logs[name] == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("kind", [LlamaServer, Tgi, LlamaCppPython])
def test_likelihoods_that_are_not_there_or_of_other_tokens_are_none(kind: type[Server]) -> None:
    with (
        pytest.raises(UserError, match="perplexity needs log-likelihoods"),
        engine_of(kind(), measures=("likelihood",)),
    ):
        pass


ENTRIES = [None, {"6": {"logprob": -9.0}, "7": {"logprob": -0.1}}, {"7": {"logprob": -1.0}}]


@pytest.mark.parametrize(
    ("way", "choice", "usage", "said"),
    [
        ("prompt_logprobs", {"prompt_logprobs": ENTRIES}, {"prompt_tokens": 4}, "scored 4 tokens of a prompt of 3"),
        ("prompt_logprobs", {"prompt_logprobs": [*ENTRIES[:2], None]}, {}, "no log-likelihoods"),
        ("prompt_logprobs", {"prompt_logprobs": [*ENTRIES[:2], {"8": {"logprob": -1.0}}]}, {}, "no log-likelihoods"),
        ("prompt_logprobs", {"prompt_logprobs": [*ENTRIES[:2], {"7": {"logprob": -9999.0}}]}, {}, "gave -9999.0"),
        (
            "prompt_logprobs",
            {"prompt_logprobs": [*ENTRIES[:2], {"7": {"logprob": -1}, "8": {"logprob": 9}}]},
            {},
            "gave 9",
        ),
        ("echo", {"logprobs": {"token_logprobs": [None, -1.0, -2.0]}}, {"completion_tokens": 1}, "and one behind it"),
        ("echo", {"logprobs": {"token_logprobs": [None, -1.0, -2.0]}}, {}, "and one behind it"),
        ("echo", {"logprobs": {"token_logprobs": [-1.0, -1.0, -2.0, -0.5]}}, {}, "and one behind it"),
        ("echo", {"logprobs": {"token_logprobs": [None, -1.0, None, -0.5]}}, {}, "gave None"),
        ("echo", {"logprobs": {"token_logprobs": []}}, {}, "no log-likelihoods"),
        ("echo", {"logprobs": None}, {}, "no log-likelihoods"),
    ],
)
def test_what_is_no_likelihood_of_the_prompt(way: str, choice: Body, usage: Body, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        likelihoods({"choices": [choice], "usage": usage}, way, [5, 6, 7])


def test_likelihoods_of_the_prompt() -> None:
    """The own token need not be the likeliest, nor stand first; an end token may follow without being scored."""
    tokens = [5, 6, 7]
    assert likelihoods({"choices": [{"prompt_logprobs": ENTRIES}]}, "prompt_logprobs", tokens) == [-9.0, -1.0]
    for behind in ([-0.5], []):
        logs = {"token_logprobs": [None, -9.0, -1.0, *behind]}
        usage = {"prompt_tokens": 3, "completion_tokens": len(behind)}
        assert likelihoods({"choices": [{"logprobs": logs}], "usage": usage}, "echo", tokens) == [-9.0, -1.0]


PARTS: dict[str, tuple[tuple[Body, ...], tuple[str, str | None]]] = {
    "vLLM, Ollama, OpenRouter": (
        ({"reasoning": "Is "}, {"reasoning": "it?"}, {"content": "48"}, {"content": "21"}),
        ("4821", "Is it?"),
    ),
    "SGLang, llama.cpp": (({"reasoning_content": "Is it?", "content": None}, {"content": "4821"}), ("4821", "Is it?")),
    "both names": (({"reasoning_content": "Is it?", "reasoning": "Is it?", "content": "4821"},), ("4821", "Is it?")),
    "Mistral": (
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Is it?"}]}]},
            {"content": [{"type": "text", "text": "4821"}]},
        ),
        ("4821", "Is it?"),
    ),
    "the budget ended in the thought": (({"reasoning": "Is it?", "content": None},), ("", "Is it?")),
    "a refusal": (({"content": None, "refusal": "I cannot."},), ("I cannot.", None)),
    "a tool": (({"content": None, "tool_calls": [{"function": {"name": "f"}}]},), ("", None)),
}


@pytest.mark.parametrize("name", PARTS)
def test_thoughts_that_a_server_splits_from_an_answer(name: str) -> None:
    said, expected = PARTS[name]
    with engine_of(Thinker(said=said), "chat") as engine:
        (output,) = engine.generate([PromptRequest([0, 5, 6], 64, 4)])
    assert (output.text, output.thought) == expected
    assert output.cost.first_token_seconds is not None


def test_a_server_that_still_loads_its_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And if that takes too long, the sentence says so; a server that is busy at the probe is asked in the same dialect
    once more."""
    busy = [BrokenError(429, json.dumps({"error": {"message": "slow down"}})), BrokenError(503)]

    def fault(number: int, body: Body) -> None:
        if busy:
            raise busy.pop()

    server = LlamaServer(loading=2, fault=fault)
    with engine_of(server):
        assert {str(type(body["prompt"])) for body in server.asked} == {"<class 'list'>"}
        assert all("skip_special_tokens" in body for body in server.asked)
    monkeypatch.setattr(client_module, "TRIES", 2)
    with (
        pytest.raises(UserError, match=r"503 .*Loading model \(2 tries\); the server is busy, or still loads"),
        engine_of(LlamaServer(loading=99)),
    ):
        pass


@pytest.mark.parametrize(
    "error", [{"error": {"code": 502, "message": "no provider"}}, {"object": "error", "message": "no provider"}]
)
@pytest.mark.parametrize("inside", [True, False])
def test_an_error_in_the_place_of_an_answer(error: Body, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HTTP 200, for the answer or for its choice."""
    monkeypatch.setattr(client_module, "TRIES", 1)
    server = Server()
    with engine_of(server) as engine:
        choice: Any = {"text": "48", "finish_reason": "error", **error}
        server.fault = lambda number, body: {"choices": [choice]} if inside else {"choices": [], **error}
        with pytest.raises(TransientError, match="broke off its answer: no provider"):
            engine.generate([PromptRequest([0, 5, 6], 64, 4)])
