"""A server that takes connections and answers nothing, or a byte now and then; and one that does not tell why an answer
ended."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.thinking import GENERAL
from lcbench.engine.base import CallCost, Output, PromptRequest
from lcbench.engine.endpoint import probe, source
from lcbench.engine.endpoint.address import Address
from lcbench.engine.endpoint.client import Client, Reply
from lcbench.engine.endpoint.errors import EndpointError, SilentError
from lcbench.engine.endpoint.host import EndpointHost
from lcbench.engine.endpoint.interface import Completions
from lcbench.engine.endpoint.probe import Found
from lcbench.engine.models import ModelSource
from lcbench.methods import parse_method
from lcbench.run.measures.thought import Thinking
from tests.engine.endpoint.fake import NAME, Body, Server
from tests.engine.endpoint.runs import run
from tests.helpers import TINY, cli, fields_of

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"


@contextlib.contextmanager
def listening(*, begins: bytes, drips: bool) -> Iterator[str]:
    """The address of a server that sends `begins`, and then nothing, or a byte every few moments."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(begins)
            while not over.wait(0.05):
                if drips:
                    connection.sendall(b"x")

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            over.set()


WAYS = {
    "silent": {"begins": b"", "drips": False},
    "a header that drips": {"begins": b"HTTP/1.1 200 OK\r\nx: ", "drips": True},
    "a body that drips": {"begins": HEAD + b"{", "drips": True},
    "half a body": {"begins": HEAD + b"{", "drips": False},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_probe_gives_up(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LISTING_SECONDS", 0.3)
    monkeypatch.setattr(source, "SECONDS", 0.3)
    monkeypatch.setattr(probe, "SECONDS", 0.3)
    with listening(**WAYS[way]) as url:  # type: ignore[arg-type]
        started = time.monotonic()
        refused = cli("run", "passkey", "--seq-len", "160", "--endpoint", url, "--model", "m", "--tokenizer", TINY)
        assert time.monotonic() - started < 10
    assert refused.code == 2 and refused.error.count("\n") <= 1
    assert f"answer from {url} within 0.3 s" in refused.error and "--request-timeout" not in refused.error


@pytest.mark.parametrize(("way", "connections"), [("silent", 3), ("a body that drips", 2)])
def test_requests_have_an_end_and_silence_is_tried_once_more(way: str, connections: int) -> None:
    asked: list[str] = []
    with listening(**WAYS[way]) as url:  # type: ignore[arg-type]
        client = Client(Address.parse(url), timeout=0.2, connections=1)
        client._once = counting(asked, client._once)  # type: ignore[method-assign]
        for tries in ("(2 tries)", "pass --request-timeout"):  # the second request tries once: nobody is there
            with pytest.raises(EndpointError, match=r"within 0\.2 s") as refused:
                client.post("completions", {})
            assert tries in str(refused.value) or way != "silent"
            assert isinstance(refused.value, SilentError) == (way == "silent")
    assert len(asked) == connections


def counting(asked: list[str], once: Any) -> Any:
    def counted(method: str, path: str, *rest: Any) -> Reply:
        asked.append(path)
        return once(method, path, *rest)

    return counted


def test_one_silence_is_counted_as_a_retry(server: Server) -> None:
    """The first answer comes too late, and the second in time."""
    late = [1.5]

    def fault(number: int, body: Body) -> None:
        if body["max_tokens"] > 1 and late:
            time.sleep(late.pop())

    server.fault = fault
    arguments = ("passkey", "--seq-len", "160", "--samples", "1", "--request-timeout", "1")
    assert run(server, *arguments).code == 0
    (record,) = fields_of(Path("served"))
    assert record["cost"]["retries"] == 1


@pytest.mark.parametrize(
    ("choice", "ending", "text"),
    [
        ({}, "stop_or_string", "4821"),
        ({"stop_reason": None}, "stop", "4821"),
        ({"stop_reason": 151645}, "stop", "4821"),
        ({"stop_reason": "\n"}, "stop_string", "4821\n"),
        ({"matched_stop": "\n"}, "stop_string", "4821\n"),
        ({"matched_stop": 2}, "stop", "4821"),
        ({"finish_reason": "stop_sequence"}, "stop_sequence", "4821\n"),
        ({"finish_reason": "length"}, "length", "4821"),
    ],
)
def test_why_an_answer_ended(choice: Body, ending: str, text: str, server: Server) -> None:
    """`stop` without more is an end token or the stop string, and neither is made up."""
    tokenizer = ModelSource().tokenizer()
    interface = Completions(Client(Address.parse(server.url), 5, 1), NAME, tokenizer, Completions.dialects[-1])
    whole = {"choices": [{"text": "4821", "finish_reason": "stop", **choice}], "model": NAME}
    server.fault = lambda number, body: whole
    host = EndpointHost(Found(interface, NAME), 1, strict=False)
    with host.engine(parse_method("vanilla"), 64, [64], shares=False) as engine:
        (output,) = engine.generate([PromptRequest([5, 6], 64, 4, stop=("\n",))])
        assert (output.finish_reason, output.text) == (ending, text)
        (output,) = engine.generate([PromptRequest([5, 6], 64, 4)])
        assert output.finish_reason == choice.get("finish_reason", output.finish_reason)
        assert output.finish_reason != "stop_or_string"  # nothing but an end token could stop it


def test_whether_a_thought_was_cut_is_unknown_where_the_server_does_not_tell() -> None:
    thinking = Thinking(ModelSource().tokenizer(), GENERAL, 20)
    cuts = {
        ending: thinking.thought([5], Output(text, 4, ending, CallCost(0.0)))
        for ending, text in (("stop_or_string", "<think>a"), ("stop", "<think>a"), ("stop_string", "<think>a</think>"))
    }
    assert [one and one.cut for one in cuts.values()] == [None, True, False]


def test_a_timeout_that_is_no_number_is_refused(server: Server) -> None:
    for wrong in ("nan", "inf", "1e300", "-1"):
        refused = run(server, "passkey", "--seq-len", "160", "--request-timeout", wrong)
        assert refused.code == 2 and "request-timeout" in refused.err, wrong
