"""The two interfaces of an OpenAI-compatible server: their requests, and how their answers are parsed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.json_objects import without_halves
from lcbench.core.tokens import tokenizer_prefix
from lcbench.engine.base import PromptRequest
from lcbench.engine.endpoint.client import Client, Reply
from lcbench.engine.endpoint.errors import TransientError
from lcbench.engine.endpoint.likelihoods import WAYS, likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_REASONS = ("stop_reason", "matched_stop")  # vLLM's and SGLang's: the stop string or token, null for an end token
THOUGHTS = ("reasoning_content", "reasoning")  # of SGLang and llama.cpp; of vLLM, Ollama and OpenRouter
MOST_STOPS = 4  # stop strings in a request: OpenAI's limit; what comes behind others is cut off here


@dataclass(frozen=True)
class Dialect:
    """What a server understands: prompts as token ids, or text only, with what stands before every prompt (BOS) spelled
    out in it if the server's tokenizer does not put it there (`spelled`); fields beyond OpenAI's (`extras`); answers as
    a stream, and with it the count of tokens (`usage`)."""

    token_ids: bool = True
    spelled: bool = False
    extras: bool = True
    stream: bool = True
    usage: bool = True


@dataclass(frozen=True)
class Answer:
    """An answer with the server's own counts of tokens, where it gives them, and what the client saw of the time.
    `thought` is what the server split from it, if anything; `stopped_by` the stop string that ended it; if not
    `tells_stops`, the server does not say which, if any."""

    text: str
    thought: str | None
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
    """One of a server's two interfaces, used in one dialect."""

    path: ClassVar[str]
    dialects: ClassVar[tuple[Dialect, ...]]  # the richest first

    def __init__(self, client: Client, model: str, tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> None:
        self.client, self.model, self.tokenizer, self.dialect = client, model, tokenizer, dialect

    @property
    @abstractmethod
    def sent_as(self) -> str:
        """How prompts are sent, as recorded in a record's cost."""

    @abstractmethod
    def prompt_fields(self, tokens: list[int]) -> dict[str, Any]:
        """The prompt, as fields of a request."""

    @abstractmethod
    def said_in(self, choice: dict[str, Any]) -> tuple[str, str]:
        """The thought that the server split from a choice, and its text; or the next parts of them."""

    def ask(self, request: PromptRequest, **how: Any) -> Answer:
        """The continuation, greedy or sampled. Raises: EndpointError."""
        body = {
            "model": self.model,
            **self.prompt_fields(request.tokens),
            "max_tokens": request.max_new_tokens,
            "frequency_penalty": 0,
            "stream": self.dialect.stream,
            **_choosing(request, self.dialect),
        }
        if request.stop:
            body["stop"] = list(request.stop[:MOST_STOPS])
        if self.dialect.stream and self.dialect.usage:
            body["stream_options"] = {"include_usage": True}
        if self.dialect.extras:
            # Otherwise vLLM and SGLang take what the model's generation_config.json says, in each of these.
            body |= {"repetition_penalty": 1.0, "presence_penalty": 0}
            body["skip_special_tokens"] = False  # one of them may be the answer
            body["stop_token_ids"] = sorted(request.end_tokens)
        return self.read(self.client.post(self.path, body, self.read, **how))

    def read(self, reply: Reply) -> Answer:
        """The answer in a reply. Raises: TransientError for one that is none, or that was cut off."""
        text, thought, reason, stop_reason, told, first, chosen = "", "", None, None, False, None, False
        usage: dict[str, Any] = {}
        model = ""
        for event, seconds in zip(reply.events, reply.times, strict=True):
            choices = event.get("choices")
            if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
                raise TransientError("the server's answer has no `choices`")
            counts, model = event.get("usage"), str(event.get("model") or model)
            usage = counts if isinstance(counts, dict) and counts else usage
            for choice in choices[:1]:
                (thinks, part), chosen = self.said_in(choice), True
                first = seconds if first is None and (part or thinks) else first
                thought, text = thought + thinks, text + part
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
            without_halves(text),
            without_halves(thought) or None,
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
        if self.dialect.token_ids:
            return {"prompt": tokens}
        if self.dialect.spelled:
            return {"prompt": str(self.tokenizer.decode(tokens))}
        return {"prompt": as_text(self.tokenizer, tokens)}

    def said_in(self, choice: dict[str, Any]) -> tuple[str, str]:
        return "", _text(choice.get("text"))

    def scores(self, tokens: list[int], way: str, **how: Any) -> tuple[list[float], Reply]:
        """ln p of tokens[1:], each after all tokens before it, asked for in one of `WAYS`. Raises: EndpointError."""
        body = {"model": self.model, **self.prompt_fields(tokens), "max_tokens": 1, "temperature": 0, **WAYS[way]}
        reply = self.client.post(self.path, body, **how)
        return likelihoods(reply.events[0], way, tokens), reply


class Chat(Interface):
    """`/v1/chat/completions`: the prompt is the user's turn, and the server applies its chat template."""

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

    def said_in(self, choice: dict[str, Any]) -> tuple[str, str]:
        message = choice.get("delta") or choice.get("message") or {}
        if not isinstance(message, dict):
            return "", _text(message)
        thought = next((message[name] for name in THOUGHTS if message.get(name)), None)
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        thinks = [part for part in parts if isinstance(part, dict) and "thinking" in part]  # Mistral's
        text = "".join(_part(part) for part in parts if part not in thinks)
        return _text(thought) + "".join(map(_part, thinks)), text + _text(message.get("refusal"))


def _part(part: Any) -> str:
    """The text of one of a list of parts. Raises: TransientError for what is no text."""
    if not isinstance(part, dict):
        return _text(part)
    value = part.get("text", part.get("thinking", part))
    return "".join(map(_part, value)) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    """Raises: TransientError for what is not text."""
    if not isinstance(value, str | None):
        raise TransientError("the server answered with something that is not text")
    return value or ""


def _choosing(request: PromptRequest, dialect: Dialect) -> dict[str, Any]:
    """How the server is to choose tokens; what is beyond OpenAI's fields goes to servers that understand it, and to
    others only where it is asked for."""
    sampling = request.sampling
    if sampling is None:
        return {"temperature": 0}
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": request.seed % 2**31}
    if dialect.extras or sampling.top_k:
        drawn["top_k"] = sampling.top_k or -1  # all: llama.cpp would take 40, vLLM what the model's files say
    if dialect.extras or sampling.min_p:
        drawn["min_p"] = sampling.min_p
    return drawn


INTERFACES: dict[str, type[Interface]] = {"completions": Completions, "chat": Chat}


def as_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """The text of a prompt, without the tokens that the server's tokenizer will add before it."""
    prefix = tokenizer_prefix(tokenizer)
    own = tokens[len(prefix) :] if prefix and tokens[: len(prefix)] == prefix else tokens
    return str(tokenizer.decode(own))


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
