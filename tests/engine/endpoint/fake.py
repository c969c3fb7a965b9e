"""A fake OpenAI-compatible server of the standard library: it answers with a real model, or with faults."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.models import ModelSource

NAME = "tiny"
Body = dict[str, Any]


@cache
def tiny() -> tuple[Any, Any]:
    """The embedded model and its tokenizer."""
    source = ModelSource(dtype="float64")
    return source.model(), source.tokenizer()


class BrokenError(Exception):
    """A response other than an answer: status, content type and text."""

    def __init__(self, status: int, text: str = "", kind: str = "application/json", **headers: str) -> None:
        self.status, self.text, self.kind, self.headers = status, text, kind, headers


def event(content: Body) -> str:
    """One of a stream of server-sent events."""
    return f"data: {json.dumps(content)}\n\n"


@dataclass
class Server:
    """`fault` may raise BrokenError for a request, given its number and body, or return changes of the answer.
    `ends` are tokens that end an answer, besides the model's; `asked` are the bodies of all requests, `headers` those
    of the last."""

    token_ids: bool = True
    ends: frozenset[int] = frozenset()
    stream: bool = True
    scores: tuple[str, ...] = ("prompt_logprobs", "echo")
    only: frozenset[str] | None = None  # fields of a request that the server knows; others are refused
    models: list[Body] = field(default_factory=lambda: [{"id": NAME, "max_model_len": 4096}])
    apis: tuple[str, ...] = ("completions", "chat/completions")
    fault: Callable[[int, Body], Body | None] = lambda number, body: None
    loading: int = 0  # requests for the list of models until it is there
    slow: float = 0.0
    asked: list[Body] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0
    busy: int = 0
    most_busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _compute: threading.Lock = field(default_factory=threading.Lock)
    _counts: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def tokens_of(self, path: str, body: Body) -> list[int]:
        """The prompt of a request, as this server reads it."""
        if path == "chat/completions":
            (message,) = body["messages"]
            return self.encode(f"<user>{message['content']}<assistant>")
        if isinstance(body["prompt"], str):
            return self.encode(body["prompt"])
        if not self.token_ids:
            raise BrokenError(400, json.dumps({"error": {"message": "prompt must be a string"}}))
        return list(body["prompt"])

    def encode(self, text: str) -> list[int]:
        """A text as tokens, with a BOS before it."""
        return list(tiny()[1](text).input_ids)

    def answer(self, path: str, body: Body) -> Body:
        """The whole answer; sent in parts where a stream is asked for."""
        if self.only is not None and set(body) - self.only:
            raise BrokenError(422, json.dumps({"detail": f"unexpected fields {sorted(set(body) - self.only)}"}))
        model, tokenizer = tiny()
        tokens = self.tokens_of(path, body)
        with self._compute, torch.no_grad():
            if body.get("prompt_logprobs") is not None or body.get("echo"):
                return self.scored(body, tokens)
            ends = stop_tokens(model, tokenizer).union(self.ends)
            found = generate(model, tokens, body["max_tokens"], ends)
        text = tokenizer.decode(found.tokens)
        stops = [stop for stop in body.get("stop") or () if stop in text]
        first = min(stops, key=text.find, default=None)
        text = text if first is None else text[: text.find(first)]
        usage = {"prompt_tokens": len(tokens), "completion_tokens": len(found.tokens)}
        reason = "stop" if stops else found.finish_reason
        return {"model": body["model"], "text": text, "finish_reason": reason, "stop": first, "usage": usage}

    def scored(self, body: Body, tokens: list[int]) -> Body:
        """The answer with log-likelihoods of the prompt."""
        own = self.logs(tokens)
        choice: Body = {"text": "x", "finish_reason": "length"}
        if body.get("echo") and "echo" in self.scores:
            choice["logprobs"] = {"token_logprobs": [None, *own, -1.0]}
        elif body.get("prompt_logprobs") is not None and "prompt_logprobs" in self.scores:
            entries = [{str(token): {"logprob": log}} for token, log in zip(tokens[1:], own, strict=True)]
            choice["prompt_logprobs"] = [None, *entries]
        return {"model": body["model"], "choices": [choice]}

    def logs(self, tokens: list[int]) -> list[float]:
        """ln p of tokens[1:]."""
        logs_TV = tiny()[0](torch.tensor([tokens])).logits[0].log_softmax(-1)
        return [float(logs_TV[place - 1, token]) for place, token in enumerate(tokens) if place]

    def choice(self, path: str, answer: Body, text: str, *, last: bool, whole: bool) -> Body:
        """A choice, or a part of one that is sent as a stream."""
        chat = {"message" if whole else "delta": {"content": text}}
        said = chat if path.startswith("chat") else {"text": text}
        return {"index": 0, **said, "finish_reason": answer["finish_reason"] if last and "cut" not in answer else None}

    def whole(self, path: str, answer: Body) -> Body:
        """An answer that is no stream."""
        choice = self.choice(path, answer, answer["text"], last=True, whole=True)
        return {"model": answer["model"], "choices": [choice], "usage": answer["usage"]}

    def events(self, path: str, body: Body, answer: Body) -> Iterator[str]:
        """An answer as a stream, as it is sent."""
        text = answer["text"]
        parts = [text[:3], text[3:]] if text else [""]
        for n, part in enumerate(parts):
            choice = self.choice(path, answer, part, last=n + 1 == len(parts), whole=False)
            yield event({"model": answer["model"], "choices": [choice]})
        if "cut" in answer:
            return
        if body.get("stream_options"):
            yield event({"model": answer["model"], "choices": [], "usage": answer["usage"]})
        yield ": a comment\n\ndata: [DONE]\n\n"

    def enter(self) -> int:
        with self._lock:
            self._counts["requests"] += 1
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            return self._counts["requests"]

    def leave(self) -> None:
        with self._lock:
            self.busy -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection each
    served: Server

    def do_GET(self) -> None:
        if self.served.loading:
            self.served.loading -= 1
            self._send(503, json.dumps({"error": {"code": 503, "message": "Loading model"}}))
        elif self.path.partition("?")[0] == "/v1/models":
            self._send(200, json.dumps({"object": "list", "data": self.served.models}))
        else:
            self._send(404, json.dumps({"detail": "Not Found"}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0].removeprefix("/v1/")
        if path not in self.served.apis:
            self._send(404, json.dumps({"detail": "Not Found"}))
            return
        number = self.served.enter()
        try:
            self.served.asked.append(body)
            self.served.headers = dict(self.headers)
            changes = self.served.fault(number, body) or {}
            time.sleep(self.served.slow)
            answer = self.served.answer(path, body) | changes
        except BrokenError as broken:
            self._send(broken.status, broken.text, broken.kind, broken.headers)
            return
        finally:
            self.served.leave()
        if "choices" in answer or not (body.get("stream") and self.served.stream):
            whole = answer if "choices" in answer else self.served.whole(path, answer)
            self._send(200, json.dumps(whole))
        else:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.end_headers()
            for sent in self.served.events(path, body, answer):
                self.wfile.write(sent.encode())

    def _send(
        self, status: int, text: str, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in ({"content-type": kind, "content-length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server, at a free port of this machine."""
    handler = type("OwnHandler", (Handler,), {"served": server})
    with ThreadingHTTPServer(("127.0.0.1", server.port), handler) as http:
        http.daemon_threads = False  # joined at the end, as torch wants it
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
