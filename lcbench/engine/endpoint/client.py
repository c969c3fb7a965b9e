"""Requests to an endpoint: streamed answers, readable errors, and retries with back-off.

If the server is busy or fails (429, 5xx, a lost connection, something that is not JSON), a request is tried up to TRIES
times; if nothing arrives before its timeout, SILENT_TRIES times; if the server refuses it or answers too slowly, once.
After a server could not be reached in all tries, later requests try once, so that a run whose server died ends in
seconds.

A request runs in a thread of its own, which is abandoned at its timeout: the timeouts of the HTTP library start again
with every byte that arrives.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lcbench.core.errors import UserError, gist_of, printable, shortened
from lcbench.engine.endpoint.address import Address, api_key
from lcbench.engine.endpoint.errors import (
    BusyError,
    EndpointError,
    RefusedError,
    SilentError,
    TransientError,
    UnreachableError,
)
from lcbench.engine.endpoint.events import lines

TRIES = 6
SILENT_TRIES = 2  # tries of a request without any answer: each takes the whole timeout
FIRST_WAIT = 0.5  # seconds before the second try, doubled with each further one
LONGEST_WAIT = 30.0  # seconds, also where the server asks for more
CONNECT_SECONDS = 10.0
BUSY = (408, 425, 429, 502, 503, 504, 529)  # of the load, not of the request; besides them 5xx is worth another try
LARGEST = 2**30  # bytes of an answer
SHOWN = 300  # characters of a server's message


@dataclass
class Reply:
    """The response: JSON objects, one or a stream, with the seconds after which each arrived, and the number of
    retries. `complete` unless a stream ended without its end marker."""

    events: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    retries: int = 0
    complete: bool = True


@dataclass
class _Exchange:
    """A request in progress, for at most `limit` seconds. `answered`: the answer has begun to arrive."""

    limit: float
    answered: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def is_over(self) -> bool:
        return time.perf_counter() - self.started > self.limit


class Client:
    """Connections to one endpoint; thread-safe. `timeout` is the longest time of one request, in seconds."""

    def __init__(self, address: Address, timeout: float, connections: int) -> None:
        httpx = http_library()
        self.address, self.timeout = address, timeout
        key = api_key()
        user = (address.user or "", address.password or "") if address.user or address.password else None
        try:
            self._http = httpx.Client(
                headers={"Authorization": f"Bearer {key}"} if key and user is None else {},
                auth=user,
                params=address.query,
                verify=_no_certificates() if _is_plain(address) else True,
                timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections + 1),
            )
        except (ValueError, ImportError, OSError) as error:  # a proxy or certificates that cannot be used
            raise UserError(
                f"cannot connect to {address.base} with the proxies and certificates that the environment sets "
                f"(HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE): {gist_of(error)}."
            ) from error
        self._unreachable = threading.Event()

    def get(self, path: str, *, tries: int | None = None, within: float | None = None) -> dict[str, Any]:
        """`tries` are at most so many (default TRIES, and always TRIES of a server that is busy or still loads its
        model); `within` are the most seconds of each, if fewer than those of all requests. Raises: EndpointError."""
        return self._repeated(lambda: self._once("GET", path, None, within), tries).events[0]

    def post(
        self,
        path: str,
        body: dict[str, Any],
        accept: Callable[[Reply], object] | None = None,
        *,
        tries: int | None = None,
        within: float | None = None,
    ) -> Reply:
        """The reply to a request, repeated if need be; `accept` may raise a TransientError for one that makes no sense.
        `tries` and `within` as in `get`.

        Raises: EndpointError.
        """

        def once() -> Reply:
            reply = self._once("POST", path, body, within)
            if accept:
                accept(reply)
            return reply

        return self._repeated(once, tries)

    def _repeated(self, once: Callable[[], Reply], tries: int | None) -> Reply:
        wait, tries = FIRST_WAIT, TRIES if tries is None else tries
        for retries in range(TRIES):
            try:
                reply = once()
            except TransientError as error:
                unreachable = isinstance(error, UnreachableError)
                most = TRIES if isinstance(error, BusyError) else tries
                most = min(most, SILENT_TRIES) if isinstance(error, SilentError) else most
                if retries + 1 >= most or (unreachable and self._unreachable.is_set()):
                    if unreachable:
                        self._unreachable.set()
                    raise type(error)(f"{error} ({retries + 1} tries)" if retries else str(error)) from error
                time.sleep(min(max(wait, error.wait or 0.0), LONGEST_WAIT))
                wait *= 2
            else:
                self._unreachable.clear()
                reply.retries = retries
                return reply
        raise AssertionError("there is at least one try")

    def _once(self, method: str, path: str, body: dict[str, Any] | None, within: float | None) -> Reply:
        limit = self.timeout if within is None else min(within, self.timeout)
        exchange = _Exchange(limit)
        found: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                found.put(self._exchanged(exchange, method, path, body))
            except Exception as error:  # raised again where it is waited for
                found.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            reply = found.get(timeout=limit)
        except queue.Empty:
            raise self._too_slow(exchange) from None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _exchanged(self, exchange: _Exchange, method: str, path: str, body: dict[str, Any] | None) -> Reply:
        httpx = http_library()
        started = exchange.started
        timeout = httpx.Timeout(exchange.limit, connect=min(CONNECT_SECONDS, exchange.limit))
        try:
            with self._http.stream(method, f"{self.address.base}/{path}", json=body, timeout=timeout) as response:
                exchange.answered = True
                if response.status_code != 200:
                    raise self._refused(response, _decoded(b"".join(self._parts(response, exchange)), response))
                reply = Reply()
                for event in self._events(response, reply, exchange):
                    reply.events.append(event)
                    reply.times.append(time.perf_counter() - started)
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise UnreachableError(f"no connection to {self.address.base} within {CONNECT_SECONDS:g} s") from None
            raise self._too_slow(exchange) from None
        except httpx.TransportError as error:
            raise UnreachableError(self._clean(f"no connection to {self.address.base}: {_gist(error)}")) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise EndpointError(self._clean(f"--endpoint is not a URL: {_gist(error)}")) from None
        except httpx.HTTPError as error:
            raise TransientError(self._clean(_gist(error))) from None
        reply.seconds = time.perf_counter() - started
        return reply

    def _events(self, response: Any, reply: Reply, exchange: _Exchange) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream of server-sent events, or the one of a plain response."""
        parts = self._parts(response, exchange)
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            yield self._answer(self._json(_decoded(b"".join(parts), response), response))
            return
        reply.complete = False
        data = ""  # of an event whose JSON is incomplete: it may take several lines
        for line in lines(parts):
            if line.startswith("data:"):
                data += line.removeprefix("data:").strip() + "\n"
            if data.strip() == "[DONE]":
                reply.complete = True
                return
            if data and (event := _object(data) if line else self._json(data, response)):
                data = ""
                yield self._answer(event)
        if data:
            self._json(data, response)

    def _answer(self, event: dict[str, Any]) -> dict[str, Any]:
        """Raises: TransientError for an error in the place of an answer, or of a choice (OpenRouter's)."""
        choices = event.get("choices")
        for one in [event, *(choices if isinstance(choices, list) else [])]:
            if isinstance(one, dict) and (one.get("error") or one.get("object") == "error"):
                raise TransientError(self._clean(f"the server broke off its answer: {_message(one)}"))
        return event

    def _parts(self, response: Any, exchange: _Exchange) -> Iterator[bytes]:
        """The bytes of a response as they arrive. Raises: EndpointError for one without end."""
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if exchange.is_over:
                raise self._too_slow(exchange)
            if size > LARGEST:
                raise EndpointError(f"{self.address.base} answers with more than {LARGEST >> 20} MB")
            yield part

    def _json(self, text: str, response: Any) -> dict[str, Any]:
        content = _object(text)
        if content is not None:
            return content
        page = "html" in response.headers.get("content-type", "") or text.lstrip()[:1] == "<"
        what = "a web page" if page else "something that is not a JSON object"
        raise TransientError(f"{self.address.base} answered with {what}")

    def _refused(self, response: Any, text: str) -> EndpointError:
        status, elsewhere = response.status_code, response.headers.get("location")
        content = _object(text)
        said = "" if content is None else _message(content)
        if response.has_redirect_location:  # not followed: the key is for this server only
            said = f"it redirects to {elsewhere.partition('?')[0]}"
        message = self._clean(f"HTTP {status} from {self.address.base}{f': {said}' if said else ''}")
        wait = _wait(response.headers.get("retry-after", ""))
        if status in BUSY:
            return BusyError(message, wait)
        if status >= 500:
            return TransientError(message, wait)
        return RefusedError(message, status)

    def _too_slow(self, exchange: _Exchange) -> EndpointError:
        advice = "; pass --request-timeout" if exchange.limit == self.timeout else ""
        if exchange.answered:
            return EndpointError(f"no complete answer from {self.address.base} within {exchange.limit:g} s{advice}")
        return SilentError(f"no answer from {self.address.base} within {exchange.limit:g} s{advice}")

    def _clean(self, text: str) -> str:
        return shortened(printable(" ".join(self.address.without_secrets(text).split())), SHOWN)


def http_library() -> Any:
    """httpx, or its successor httpx2 with the same interface: whichever huggingface_hub installed."""
    for name in ("httpx2", "httpx"):
        if importlib.util.find_spec(name):
            return importlib.import_module(name)
    raise UserError("--endpoint needs httpx2, which comes with huggingface_hub: pip install httpx2.")


def _is_plain(address: Address) -> bool:
    """Whether no connection to an address is encrypted: plain HTTP without a proxy (redirects are not followed)."""
    from urllib.request import getproxies  # the HTTP library has imported it

    return address.base.startswith("http://") and not getproxies().keys() - {"no"}


def _no_certificates() -> ssl.SSLContext:
    """A context without certificates: reading the system's takes longer than many requests."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _decoded(content: bytes, response: Any) -> str:
    """The text of a response. JSON is UTF-8, whatever the header says, and may have a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode(response.encoding or "utf-8", errors="replace")


def _object(text: str) -> dict[str, Any] | None:
    """The object of a JSON text; None for anything else, or where it is nested too deeply."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _wait(asked: str) -> float | None:
    """The seconds of a `Retry-After`, which may be a number or a date (RFC 9110, 10.2.3); None for anything else."""
    try:
        return float(asked)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # a date without a zone
        return None


def _message(content: Any) -> str:
    """A server's error message, in any of the forms that servers use."""
    for key in ("error", "message", "detail"):
        if isinstance(content, dict) and content.get(key):
            return _message(content[key])
    return content if isinstance(content, str) else json.dumps(content)


def _gist(error: Exception) -> str:
    return str(error) or type(error).__name__
