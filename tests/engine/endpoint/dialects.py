"""Servers in the dialects of those that people run: what each takes, leaves out, adds, and how it says so.

vLLM 0.33, SGLang 0.5.23, llama.cpp b11434, text-generation-inference 3.3, `transformers serve` 5.23, Ollama and
llama-cpp-python 0.3.36 as their sources say, OpenRouter as its documents do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tests.engine.endpoint.fake import Body, BrokenError, Server, event, tiny


class Vllm(Server):
    """Takes what a request leaves out from the model's generation_config.json; a stream has no log-likelihoods of a
    prompt; each of them comes with the likeliest token's, behind its own whatever its rank; tells what stopped."""

    defaults: tuple[str, ...] = ("repetition_penalty", "presence_penalty", "frequency_penalty")

    def answer(self, path: str, body: Body) -> Body:
        if body.get("prompt_logprobs") and body.get("stream"):
            raise BrokenError(400, json.dumps({"error": {"message": "not available when `stream=True`", "code": 400}}))
        answer = super().answer(path, body)
        penalised = any(name not in body for name in self.defaults) and "text" in answer
        return answer | ({"text": answer["text"][::-1]} if penalised else {})

    def scored(self, body: Body, tokens: list[int]) -> Body:
        if not body.get("prompt_logprobs"):
            return {"model": body["model"], "choices": [{"text": "x", "finish_reason": "length"}]}
        logs_TV = tiny()[0](torch.tensor([tokens])).logits[0].log_softmax(-1)
        entries: list[Any] = [None]
        for token, log, logs_V in zip(tokens[1:], self.logs(tokens), logs_TV[:-1], strict=True):
            own = {str(token): {"logprob": log, "rank": int((logs_V > log).sum()) + 1, "decoded_token": "x"}}
            entries.append(own | {str(int(logs_V.argmax())): {"logprob": float(logs_V.max()), "rank": 1}})
        choice = {"text": "x", "finish_reason": "length", "logprobs": None, "prompt_logprobs": entries}
        return {"model": body["model"], "choices": [choice], "usage": counts(tokens)}

    def choice(self, path: str, answer: Body, text: str, *, last: bool, whole: bool) -> Body:
        given = super().choice(path, answer, text, last=last, whole=whole)
        return given | {"logprobs": None, "stop_reason": answer["stop"] if last else None}


class Sglang(Server):
    """Knows no `prompt_logprobs`, and answers as if they were not there; `matched_stop` is the stop string, or the end
    token."""

    def scored(self, body: Body, tokens: list[int]) -> Body:
        choice: Body = {"text": "x", "finish_reason": "length", "matched_stop": None, "logprobs": None}
        if body.get("echo") and body.get("logprobs"):
            choice["logprobs"] = {"token_logprobs": [None, *self.logs(tokens), -1.0], "top_logprobs": []}
        return {"model": body["model"], "choices": [choice], "usage": counts(tokens)}

    def choice(self, path: str, answer: Body, text: str, *, last: bool, whole: bool) -> Body:
        given = super().choice(path, answer, text, last=last, whole=whole)
        ended = answer["stop"] or (tiny()[1].eos_token_id if answer["finish_reason"] == "stop" else None)
        return given | {"matched_stop": ended if last else None}


class LlamaServer(Server):
    """Says 500 to `echo`; its counts stand beside the last choice, asked for or not."""

    def scored(self, body: Body, tokens: list[int]) -> Body:
        if body.get("echo"):
            raise BrokenError(500, json.dumps({"error": {"code": 500, "message": "Only no echo is supported"}}))
        return {"model": body["model"], "choices": [{"text": "x", "finish_reason": "length", "logprobs": None}]}

    def events(self, path: str, body: Body, answer: Body) -> Iterator[str]:
        yield event(
            {"model": answer["model"], "choices": [self.choice(path, answer, answer["text"], last=False, whole=False)]}
        )
        last = {"model": answer["model"], "choices": [self.choice(path, answer, "", last=True, whole=False)]}
        yield event(last | {"usage": answer["usage"] | {"prompt_tokens_details": {"cached_tokens": 3}}})
        yield "data: [DONE]\n\n"


class Tgi(Server):
    """Takes text only; keeps the stop string, and in streams spells the end token out; no space behind `data:`."""

    token_ids = False

    def tokens_of(self, path: str, body: Body) -> list[int]:
        if isinstance(body.get("prompt"), list):
            raise BrokenError(422, "Failed to deserialize the JSON body into the target type", "text/plain")
        return super().tokens_of(path, body)

    def events(self, path: str, body: Body, answer: Body) -> Iterator[str]:
        end = "" if answer["finish_reason"] == "length" else answer["stop"] or tiny()[1].eos_token
        reason = {"length": "length"}.get(answer["finish_reason"], "stop_sequence" if answer["stop"] else "eos_token")
        texts = ((answer["text"], "", {}), (end, reason, {"usage": answer["usage"]}))
        for text, ended, more in texts:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": ended}
            yield event({"model": answer["model"], "choices": [choice], **more}).replace("data: ", "data:")
        yield "data:[DONE]\n\n"

    def scored(self, body: Body, tokens: list[int]) -> Body:
        return {"model": body["model"], "choices": [{"text": "x", "finish_reason": "length", "logprobs": None}]}


class WithoutBos(Tgi):
    """A server whose tokenizer puts no BOS before a text, such as `transformers serve` with some checkpoints; one that
    the text spells out is one."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text)[1:]


class LlamaCppPython(Tgi):
    """Scores an echoed text without its BOS, which it counts all the same."""

    def scored(self, body: Body, tokens: list[int]) -> Body:
        logs = [None, *self.logs(tokens)[1:], -1.0]
        choice = {"text": "x", "finish_reason": "length", "logprobs": {"token_logprobs": logs}}
        return {"model": body["model"], "choices": [choice], "usage": counts(tokens)}


@dataclass
class Ollama(Tgi):
    """Puts a template around every text, and cuts a prompt that is too long in its middle."""

    context: int = 64

    def tokens_of(self, path: str, body: Body) -> list[int]:
        if isinstance(body.get("prompt"), list):
            raise BrokenError(400, json.dumps({"error": {"message": "json: cannot unmarshal array"}}))
        tokens = self.encode(f"<user>{body['prompt']}</user>")
        return tokens if len(tokens) < self.context else tokens[:4] + tokens[-self.context // 2 :]


@dataclass
class Thinker(Server):
    """Chat of a thinking model: the server splits its thought from the answer, under one of several names. `message`
    are the parts of the answer, each a delta where a stream is asked for."""

    said: tuple[Body, ...] = ()
    comments: str = ": OPENROUTER PROCESSING\n\n"

    def whole(self, path: str, answer: Body) -> Body:
        return super().whole(path, answer) | {"choices": [{"message": self.said[0], "finish_reason": "stop"}]}

    def events(self, path: str, body: Body, answer: Body) -> Iterator[str]:
        for part in ({"role": "assistant", "content": None}, *self.said):
            yield self.comments + event({"model": answer["model"], "choices": [{"delta": part, "finish_reason": None}]})
        yield event({"model": answer["model"], "choices": [{"delta": {}, "finish_reason": "stop"}]})
        yield event({"model": answer["model"], "choices": [], "usage": answer["usage"]}) + "data: [DONE]\n\n"


def counts(tokens: list[int]) -> Body:
    """What a server counts of a prompt that it scored."""
    return {"prompt_tokens": len(tokens), "completion_tokens": 1}
