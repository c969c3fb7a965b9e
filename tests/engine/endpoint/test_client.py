"""The client alone: bytes that servers send in odd ways, addresses, keys, and what the environment says of proxies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lcbench.core.errors import UserError
from lcbench.core.provenance import without_credentials
from lcbench.engine.endpoint import client as client_module
from lcbench.engine.endpoint.address import Address
from lcbench.engine.endpoint.client import Client, Reply
from lcbench.engine.endpoint.errors import EndpointError, TransientError
from lcbench.engine.endpoint.events import lines
from lcbench.engine.endpoint.interface import Completions, Dialect
from lcbench.engine.endpoint.probe import in_a_sentence
from tests.engine.endpoint.fake import BrokenError, Server

STREAM = "text/event-stream"
ODD = "é a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"  # ends of lines to Unicode, and to no server


def event(text: str) -> str:
    return json.dumps({"choices": [{"text": text}]}, ensure_ascii=False).replace("\\f", "\f").replace("\\u000b", "\v")


def post(server: Server, broken: BrokenError, **how: int) -> Reply:
    def fault(number: int, body: object) -> None:
        raise broken

    server.fault = fault
    return Client(Address.parse(server.url), 5, 1).post("completions", {"prompt": "a", "max_tokens": 1}, **how)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 1000])
def test_lines_of_a_stream(end: str, size: int) -> None:
    sent = ["data: " + ODD, "", ": a comment", "data:x", ""]
    data = b"\xef\xbb\xbf" + "".join(line + end for line in sent).encode()
    assert list(lines(data[at : at + size] for at in range(0, len(data), size))) == sent
    assert list(lines([b"data: cut"])) == ["data: cut"]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (STREAM, f"data: {event('a')}\n\ndata: {event('b' + chr(0x2028))}\n\ndata: [DONE]\n\n"),
        ("Text/Event-Stream; charset=iso-8859-1", f"data:{event('aé')}\ndata:{event('b')}\ndata:[DONE]\n"),
        (STREAM, '\ufeffdata: {"choices":\ndata: [{"text": "ab"}]}\n\ndata: [DONE]\n\n'),
        ("application/json; charset=iso-8859-1", "\ufeff" + event("aéb")),
    ],
)
def test_answers_that_are_sent_in_odd_ways(kind: str, sent: str, server: Server) -> None:
    reply = post(server, BrokenError(200, sent, kind), tries=1)
    text = "".join(one["choices"][0]["text"] for one in reply.events)
    assert reply.complete and text.replace("é", "").replace("\u2028", "") == "ab"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (BrokenError(200, '{"a":' * 100_000), "not a JSON object"),
        (BrokenError(200, '{"error": {"message": "no such model"}}'), "broke off its answer: no such model"),
        (BrokenError(200, 'data: {"choices":\n\n', STREAM), "not a JSON object"),
        (BrokenError(400, '{"error":' * 100_000), "HTTP 400"),
        (BrokenError(307, location="https://user:x@other.example/v1/completions?key=1"), "it redirects to https://"),
    ],
)
def test_what_is_no_answer(broken: BrokenError, why: str, server: Server) -> None:
    with pytest.raises(EndpointError, match=why):
        post(server, broken, tries=1)
    assert len(server.asked) == 1, "a redirect is not followed: a key is for this server"


@pytest.mark.parametrize("events", [[{"choices": []}], [{"choices": []}, {"choices": [], "usage": {}}]])
def test_no_choice_is_no_empty_answer(events: list[dict[str, object]]) -> None:
    interface = Completions(Client(Address.parse("http://localhost:1/v1"), 5, 1), "m", None, Dialect())  # type: ignore[arg-type]
    with pytest.raises(TransientError, match="`choices` are empty"):
        interface.read(Reply(events, [0.1] * len(events)))


def test_halves_of_characters_become_whole_or_are_replaced() -> None:
    interface = Completions(Client(Address.parse("http://localhost:1/v1"), 5, 1), "m", None, Dialect())  # type: ignore[arg-type]
    parts = [{"choices": [{"text": text, "finish_reason": 3}]} for text in ("a\ud83d", "\ude00", "\ud800b")]
    answer = interface.read(Reply(parts, [0.1] * 3))
    assert (answer.text, answer.finish_reason) == ("a\U0001f600\ufffdb", "3")


def test_when_a_server_asks_to_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds, as a date, or in a way that nobody understands."""
    waited: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", waited.append)
    monkeypatch.setattr(client_module, "TRIES", 2)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    for asked in ("2", "0.5", date, "9" * 400, "-3", "soon", "nan", "Wed, 21 Oct 2015"):
        with pytest.raises(TransientError):
            post(server, BrokenError(429, "", **{"retry-after": asked}))
    assert waited[:2] == [2.0, 0.5] and 15 < waited[2] <= 20 and waited[3] == client_module.LONGEST_WAIT
    assert waited[4:] == [client_module.FIRST_WAIT] * 4


def test_keys_and_addresses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address.parse("http://anna:p%40ss%2Fw@localhost/v1?empty=&flag&k=1")
    assert (address.user, address.password) == ("anna", "p@ss/w")
    assert address.query == (("empty", ""), ("flag", ""), ("k", "1"))
    for url in ("HTTP://anna:secret@localhost/v1", "http://anna:sec@ret@localhost/v1?key=secret"):
        assert without_credentials(f"--endpoint={url}").lower() == "--endpoint=http://localhost/v1"
    for key in ("sk-a\nb", "ключ", "sk-\x01"):
        monkeypatch.setenv("LCBENCH_API_KEY", key)
        with pytest.raises(UserError, match=r"^LCBENCH_API_KEY is not a valid key: it has characters") as error:
            post(server, BrokenError(200, "{}"))
        assert key not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("HTTP_PROXY", "ftp://x:1"), ("SSL_CERT_FILE", "/nowhere.pem")])
def test_an_environment_that_cannot_be_used_is_one_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"proxies and certificates that the environment sets \(HTTP_PROXY"):
        Client(Address.parse("https://localhost:1/v1"), 5, 1)


def test_certificates_are_read_only_where_something_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    Client(Address.parse("http://localhost:1/v1"), 5, 1)
    monkeypatch.setenv("HTTP_PROXY", "https://127.0.0.1:9")
    with pytest.raises(UserError, match="certificates"):
        Client(Address.parse("http://localhost:1/v1"), 5, 1)


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = Client(Address.parse("http://nowhere.invalid/v1"), 5, 1)
    said = r"\(HTTP_PROXY is set: hosts in NO_PROXY are asked without it\)\?$"
    with pytest.raises(UserError, match=said), in_a_sentence(client):
        client.get("models", tries=1)
