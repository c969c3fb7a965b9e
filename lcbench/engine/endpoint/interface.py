"""The two interfaces of an OpenAI-compatible server: what is sent to each, and how its answer reads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.json_objects import without_halves
from lcbench.core.thinking import GENERAL, markers_of
from lcbench.core.tokens import tokenizer_prefix
from lcbench.engine.base import PromptRequest
from lcbench.engine.endpoint.client import Client, Reply
from lcbench.engine.endpoint.errors import EndpointError, TransientError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_REASONS = ("stop_reason", "matched_stop")  # vLLM's and SGLang's: the stop string or token, null for an end token
THOUGHTS = ("reasoning_content", "reasoning")  # fields of a message
MOST_STOPS = 4  # stop strings in a request: OpenAI's limit; what comes behind others is cut off here


@dataclass(frozen=True)
class Dialect:
    """What a server understands: prompts as token ids, or text only; fields beyond OpenAI's (`extras`); answers as a
    stream, and with it the count of tokens (`usage`)."""

    token_ids: bool = True
    extras: bool = True
    stream: bool = True
    usage: bool = True


@dataclass(frozen=True)
class Answer:
    """An answer with the server's own counts of tokens, where it gives them, and what the client saw of the time.
    `stopped_by` is the stop string that ended it; if not `tells_stops`, the server does not say which, if any."""

    text: str
    finish_reason: str | None
    stopped_by: str | None
    tells_stops: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    model: str
    seconds: float
    first_token_seconds: float | None
    retries: int


class Interface(ABC):
    """One of a server's two interfaces, asked in one dialect."""

    path: ClassVar[str]
    dialects: ClassVar[tuple[Dialect, ...]]  # the richest first

    def __init__(self, client: Client, model: str, tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> None:
        self.client, self.model, self.tokenizer, self.dialect = client, model, tokenizer, dialect

    @property
    @abstractmethod
    def sent_as(self) -> str:
        """How prompts are sent, as in a record's cost."""

    @abstractmethod
    def prompt_fields(self, tokens: list[int]) -> dict[str, Any]:
        """The prompt, as fields of a request."""

    @abstractmethod
    def text_of(self, choice: dict[str, Any]) -> str:
        """The text of a choice, or of the next part of it."""

    def thought_of(self, choice: dict[str, Any]) -> str:
        """The thought in a choice, or the next part of it, where the server tells it apart from the text."""
        return ""

    def ask(self, request: PromptRequest, **how: Any) -> Answer:
        """The continuation, greedy or drawn. Raises: EndpointError."""
        body = {
            "model": self.model,
            **self.prompt_fields(request.tokens),
            "max_tokens": request.max_new_tokens,
            "frequency_penalty": 0,
            "stream": self.dialect.stream,
            **_choosing(request),
        }
        if request.stop:
            body["stop"] = list(request.stop[:MOST_STOPS])
        if self.dialect.stream and self.dialect.usage:
            body["stream_options"] = {"include_usage": True}
        if self.dialect.extras:
            body["repetition_penalty"] = 1.0  # which vLLM takes from the model's generation_config.json otherwise
            body["skip_special_tokens"] = False  # one of them may be the answer
            body["stop_token_ids"] = sorted(request.end_tokens)
        return self.read(self.client.post(self.path, body, self.read, **how))

    def read(self, reply: Reply) -> Answer:
        """The answer in a reply. Raises: TransientError for one that is none, or that was cut off."""
        thought, text, reason, stop_reason, told, first, chosen = "", "", None, None, False, None, False
        usage: dict[str, Any] = {}
        model = ""
        for event, seconds in zip(reply.events, reply.times, strict=True):
            choices = event.get("choices")
            if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
                raise TransientError("the server's answer has no `choices`")
            counts, model = event.get("usage"), str(event.get("model") or model)
            usage = counts if isinstance(counts, dict) and counts else usage
            for choice in choices[:1]:
                part, more, chosen = self.text_of(choice), self.thought_of(choice), True
                first = seconds if first is None and (part or more) else first
                text, thought = text + part, thought + more
                ended = choice.get("finish_reason")
                reason = str(ended) if ended else reason
                for name in STOP_REASONS:
                    if name in choice:
                        told, stop_reason = True, choice[name]
        if not reply.complete and reason is None:
            raise TransientError("the server broke off its answer")
        if not chosen:
            raise TransientError("the server's `choices` are empty")
        if reason == "stop" and isinstance(stop_reason, str):
            reason = "stop_string"
        streamed = self.dialect.stream and len(reply.events) > 1
        return Answer(
            without_halves(self._whole(thought, text, reason)),
            reason,
            stop_reason if isinstance(stop_reason, str) else None,
            told,
            _count(usage, "prompt_tokens"),
            _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            _count(usage, "completion_tokens"),
            model,
            reply.seconds,
            (first if first is not None else reply.seconds) if streamed else None,
            reply.retries,
        )

    def _whole(self, thought: str, text: str, reason: str | None) -> str:
        """The output as the model wrote it: with a thought that the server took out of it, whose end it has unless the
        budget was used up before."""
        if not thought:
            return text
        markers = markers_of(self.tokenizer) or GENERAL
        return markers.begin + thought + ("" if not text and reason == "length" else markers.close + text)


class Completions(Interface):
    """`/v1/completions`: a prompt as it is."""

    path = "completions"
    dialects = (
        Dialect(),
        Dialect(extras=False),
        Dialect(extras=False, usage=False),
        Dialect(token_ids=False, extras=False),
        Dialect(token_ids=False, extras=False, usage=False),
        Dialect(token_ids=False, extras=False, usage=False, stream=False),
    )

    @property
    def sent_as(self) -> str:
        return "token_ids" if self.dialect.token_ids else "text"

    def prompt_fields(self, tokens: list[int]) -> dict[str, Any]:
        return {"prompt": tokens if self.dialect.token_ids else as_text(self.tokenizer, tokens)}

    def text_of(self, choice: dict[str, Any]) -> str:
        return _text(choice.get("text"))

    def scores(self, tokens: list[int], way: str, **how: Any) -> tuple[list[float], Reply]:
        """ln p of tokens[1:], each after all tokens before it, asked in one of `SCORES`. Raises: EndpointError."""
        fields = {"prompt_logprobs": 1} if way == "prompt_logprobs" else {"echo": True, "logprobs": 1}
        body = {"model": self.model, **self.prompt_fields(tokens), "max_tokens": 1, "temperature": 0, **fields}
        reply = self.client.post(self.path, body, **how)
        try:
            choice = reply.events[0]["choices"][0]
            logs = by_token(choice["prompt_logprobs"], tokens) if way == "prompt_logprobs" else echoed(choice, tokens)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointError("the server's answer has no log-likelihoods of the prompt") from None
        if wrong := [log for log in logs if not (isinstance(log, int | float) and math.isfinite(log) and log <= 1e-3)]:
            raise EndpointError(f"the server gave {wrong[0]} as the logarithm of a probability")
        return [float(log) for log in logs], reply


SCORES = ("prompt_logprobs", "echo")  # ways to the log-likelihoods of a prompt: vLLM's own, OpenAI's old one


def by_token(entries: Sequence[dict[str, Any] | None], tokens: list[int]) -> list[Any]:
    """The log-likelihoods in vLLM's `prompt_logprobs`: for each position, those of some tokens, by id."""
    if len(entries) != len(tokens):
        raise EndpointError(f"the server scored {len(entries)} tokens of a prompt of {len(tokens)}")
    return [
        entry[str(token)]["logprob"] for entry, token in zip(entries[1:], tokens[1:], strict=True) if entry is not None
    ]


def echoed(choice: dict[str, Any], tokens: list[int]) -> list[Any]:
    """The log-likelihoods of an echoed prompt, behind which stands one generated token, or none."""
    logs = choice["logprobs"]["token_logprobs"]
    if len(logs) not in (len(tokens), len(tokens) + 1):
        raise EndpointError(f"the server scored {len(logs)} tokens of a prompt of {len(tokens)}")
    return list(logs[1 : len(tokens)])


class Chat(Interface):
    """`/v1/chat/completions`: the prompt is the user's turn, and the server puts its template around it."""

    path = "chat/completions"
    dialects = (
        Dialect(token_ids=False),
        Dialect(token_ids=False, extras=False),
        Dialect(token_ids=False, extras=False, usage=False),
        Dialect(token_ids=False, extras=False, usage=False, stream=False),
    )

    @property
    def sent_as(self) -> str:
        return "chat"

    def prompt_fields(self, tokens: list[int]) -> dict[str, Any]:
        prefix = tokenizer_prefix(self.tokenizer) or [self.tokenizer.bos_token_id]
        own = tokens[len(prefix) :] if tokens[: len(prefix)] == prefix else tokens
        return {"messages": [{"role": "user", "content": str(self.tokenizer.decode(own))}]}

    def text_of(self, choice: dict[str, Any]) -> str:
        message = choice.get("delta") or choice.get("message") or {}
        return _text(message.get("content") if isinstance(message, dict) else message)

    def thought_of(self, choice: dict[str, Any]) -> str:
        """`reasoning_content` of vLLM, SGLang, llama.cpp and DeepSeek, or `reasoning`, its newer name."""
        message = choice.get("delta") or choice.get("message")
        found = [message.get(name) for name in THOUGHTS] if isinstance(message, dict) else []
        return next((value for value in found if value and isinstance(value, str)), "")


def _text(value: Any) -> str:
    """Raises: TransientError for what is not text."""
    if not isinstance(value, str | None):
        raise TransientError("the server answered with something that is not text")
    return value or ""


def _choosing(request: PromptRequest) -> dict[str, Any]:
    """How the server is to choose tokens; what is beyond OpenAI's fields is sent only where it is asked for."""
    sampling = request.sampling
    if sampling is None:
        return {"temperature": 0}
    cuts = {"top_k": sampling.top_k, "min_p": sampling.min_p}
    drawn = {name: value for name, value in cuts.items() if value}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": request.seed % 2**31, **drawn}


INTERFACES: dict[str, type[Interface]] = {"completions": Completions, "chat": Chat}


def as_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """The text of a prompt, without what the server's tokenizer will put before it itself."""
    prefix = tokenizer_prefix(tokenizer)
    own = tokens[len(prefix) :] if prefix and tokens[: len(prefix)] == prefix else tokens
    return str(tokenizer.decode(own))


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
