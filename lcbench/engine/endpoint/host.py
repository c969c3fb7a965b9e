"""The engine of an endpoint: one request per call, several calls at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from lcbench.engine.base import (
    UNKNOWN_STOP,
    CallCost,
    ContinuationScores,
    Engine,
    Host,
    Output,
    PromptRequest,
    TextScores,
)
from lcbench.engine.endpoint.client import Reply
from lcbench.engine.endpoint.errors import EndpointError
from lcbench.engine.endpoint.interface import Answer, Completions
from lcbench.engine.endpoint.probe import Found
from lcbench.methods import Method

ENDINGS = ("stop", "stop_string", "length", "eos", "eos_token", "stop_sequence")  # finish reasons of a complete answer
STRINGS = ("stop_string", "stop_sequence")  # finish reasons of an answer that a stop string ended


class EndpointHost(Host):
    """A server that answered the probe. If `strict`, a prompt fails whose tokens it counts differently, or whose answer
    it cuts short."""

    def __init__(self, found: Found, concurrency: int, *, strict: bool) -> None:
        self.found, self.concurrency, self.strict = found, concurrency, strict

    @contextmanager
    def engine(self, method: Method, seq_len: int, lengths: Sequence[int], *, shares: bool) -> Iterator[Engine]:
        yield EndpointEngine(self)


class EndpointEngine(Engine):
    """Sends one prompt per call; the server batches concurrent requests."""

    def __init__(self, host: EndpointHost) -> None:
        self._found, self._interface, self._strict = host.found, host.found.interface, host.strict
        self.concurrency = host.concurrency

    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        return [self._generate(request) for request in requests]

    def _generate(self, request: PromptRequest) -> Output:
        answer = self._interface.ask(request)
        if answer.model != self._found.model:
            raise EndpointError(f"answered by the model {answer.model!r}, where {self._found.model!r} answered before")
        tokens = self._tokens(answer, request)
        counted = answer.prompt_tokens
        difference = None if counted is None else counted - len(request.tokens)
        if self._strict:
            self._require_whole(request, answer, tokens, difference)
        first = answer.first_token_seconds
        cost = CallCost(
            prefill_seconds=round(answer.seconds if first is None else first, 6),
            decode_seconds=0.0 if first is None else round(answer.seconds - first, 6),
            reused_tokens=min(answer.cached_tokens or 0, len(request.tokens)),
            sent_as=self._interface.sent_as,
            prompt_difference=difference,
            first_token_seconds=None if first is None else round(first, 6),
            retries=answer.retries,
        )
        text = _with_stop(replace(answer, text=self._without_end(answer, request)), request.stop)
        return Output(text, tokens, _ending(answer, request), cost, answer.thought)

    def _without_end(self, answer: Answer, request: PromptRequest) -> str:
        """The text without the end token behind it, which TGI writes out in streams."""
        tokenizer = self._interface.tokenizer
        for token in {tokenizer.eos_token_id, *request.end_tokens} - {None}:
            end = str(tokenizer.decode([token]))
            if end.strip() and answer.finish_reason != "length" and answer.text.endswith(end):
                return answer.text.removesuffix(end)
        return answer.text

    def _tokens(self, answer: Answer, request: PromptRequest) -> int:
        """The number of tokens of the answer, as the server counts them, or else counted in its text."""
        if answer.output_tokens is not None:
            return answer.output_tokens
        if answer.finish_reason == "length":
            return request.max_new_tokens
        return len(self._interface.tokenizer(answer.text, add_special_tokens=False, verbose=False).input_ids)

    def _require_whole(self, request: PromptRequest, answer: Answer, tokens: int, difference: int | None) -> None:
        """Raises: EndpointError for a prompt that was truncated, or sent as token ids and counted differently; and for
        an answer that ended neither by itself nor at its budget."""
        chat = self._interface.sent_as == "chat"
        if difference is not None and (difference < 0 or (difference and not chat)):
            raise EndpointError(f"the server counted {answer.prompt_tokens} tokens of {len(request.tokens)} sent")
        if answer.finish_reason not in ENDINGS:
            raise EndpointError(f"the server ended its answer with {answer.finish_reason!r}")
        if answer.finish_reason == "length" and tokens < request.max_new_tokens:
            raise EndpointError(f"the server ended its answer after {tokens} of {request.max_new_tokens} tokens")

    def continuations(self, request: PromptRequest, choices: Mapping[str, list[int]]) -> ContinuationScores:
        logs, costs = {}, []
        for choice, tokens in choices.items():
            scores, reply = self._scores(request.tokens + tokens)
            logs[choice] = sum(scores[-len(tokens) :])
            costs.append(self._cost(reply))
        return ContinuationScores(logs, CallCost.total(costs))

    def read(
        self, tokens: list[int], first: int, seq_len: int, on_prefill: Callable[[float], None] | None = None
    ) -> TextScores:
        scores, reply = self._scores(tokens)
        return TextScores(-np.array(scores[first - 1 :], dtype=np.float32), self._cost(reply))

    def _scores(self, tokens: list[int]) -> tuple[list[float], Reply]:
        assert isinstance(self._interface, Completions) and self._found.way is not None, "refused before the run"
        return self._interface.scores(tokens, self._found.way)

    def _cost(self, reply: Reply) -> CallCost:
        return CallCost(
            prefill_seconds=round(reply.seconds, 6),
            sent_as=self._interface.sent_as,
            retries=reply.retries,
            way=self._found.way,
        )


def _with_stop(answer: Answer, stops: Sequence[str]) -> str:
    """The text including its stop string, which servers leave out, if they report which one it was."""
    only = stops[0] if answer.finish_reason in STRINGS and len(stops) == 1 else ""
    stop = answer.stopped_by or only
    return answer.text if stop in answer.text else answer.text + stop


def _ending(answer: Answer, request: PromptRequest) -> str | None:
    """Why the answer ended. Servers report `stop` both for an end token and for a stop string, which they leave out of
    the text: unless they also report which, it is unknown."""
    if any(stop in answer.text for stop in request.stop):
        return "stop_string"
    return (
        UNKNOWN_STOP
        if answer.finish_reason == "stop" and request.stop and not answer.tells_stops
        else answer.finish_reason
    )
