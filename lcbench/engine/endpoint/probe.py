"""What a server can do, asked once with a short prompt before a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError, shortened
from lcbench.core.tokens import encode_start
from lcbench.engine.base import PromptRequest
from lcbench.engine.endpoint.address import KEYS
from lcbench.engine.endpoint.client import Client
from lcbench.engine.endpoint.errors import BusyError, EndpointError, RefusedError, TransientError, UnreachableError
from lcbench.engine.endpoint.interface import INTERFACES, Completions, Interface
from lcbench.engine.endpoint.likelihoods import WAYS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_URL = 200  # characters that are shown
PROMPT = "The capital of France is"
SECONDS = 120.0  # for the answer to it: a server may load its model only now
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
DENIED, MISSING = (401, 403), (404, 405)


@dataclass
class Found:
    """The interface that a server answered, the name that it gave its model, and its way to log-likelihoods of a
    prompt;
    None: not tried, or none."""

    interface: Interface
    model: str
    way: str | None = None


def dialect_of(client: Client, api: str, model: str, tokenizer: PreTrainedTokenizerBase) -> Found:
    """The richest dialect that the server supports.

    Token ids count as supported only if the server's count of them, if it reports one, is right.

    Token ids count as understood only if the server's count of them, where it gives one, is right. A server that is
    busy says nothing of what it understands.
    Raises: EndpointError of the simplest dialect, if that is refused, too; BusyError.
    """
    tokens = encode_start(tokenizer, PROMPT)
    request = PromptRequest(tokens, len(tokens) + 1, 1)
    refusal: EndpointError | None = None
    for dialect in INTERFACES[api].dialects:
        interface = INTERFACES[api](client, model, tokenizer, dialect)
        try:
            answer = interface.ask(request, tries=1, within=SECONDS)
        except (UnreachableError, BusyError):
            raise
        except RefusedError as error:
            if error.status in (*DENIED, *MISSING):
                raise
            refusal = error
        except TransientError as error:  # some servers answer 500 to a prompt that is not text
            refusal = error
        else:
            if answer.prompt_tokens in (None, len(tokens)):
                return Found(interface, answer.model)
            if not dialect.token_ids:
                return _with_prefix(interface, request) or Found(interface, answer.model)
    assert refusal is not None, "the last dialects send text"
    raise refusal


def _with_prefix(interface: Interface, request: PromptRequest) -> Found | None:
    """The interface with BOS spelled out in texts, if the server's count of tokens is right then."""
    if not isinstance(interface, Completions):
        return None
    dialect = replace(interface.dialect, spelled=True)
    spelled = Completions(interface.client, interface.model, interface.tokenizer, dialect)
    try:
        answer = spelled.ask(request, tries=1, within=SECONDS)
    except (UnreachableError, BusyError):
        raise
    except EndpointError:
        return None
    return Found(spelled, answer.model) if answer.prompt_tokens == len(request.tokens) else None


def scores_of(found: Found) -> str | None:
    """How the server gives the log-likelihoods of a prompt, or None. Raises: EndpointError if it cannot be reached, or
    is busy."""
    if not isinstance(found.interface, Completions):
        return None
    tokens = encode_start(found.interface.tokenizer, PROMPT)
    for way in WAYS:
        try:
            found.interface.scores(tokens, way, tries=1, within=SECONDS)
        except (UnreachableError, BusyError):
            raise
        except EndpointError:
            continue
        return way
    return None


@contextmanager
def in_a_sentence(client: Client) -> Iterator[None]:
    """Turn errors of the probe, which the user can fix before a run, into a UserError with the way out."""
    base = shortened(client.address.base, LONGEST_URL)
    try:
        yield
    except UnreachableError as error:
        proxies = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
        beside = f" ({', '.join(proxies)} is set: hosts in NO_PROXY are asked without it)" if proxies else ""
        raise UserError(f"{error}; is the server running, and is --endpoint its address{beside}?") from error
    except BusyError as error:
        raise UserError(
            f"{error}; the server is busy, or still loads its model: the same command will do once it is ready."
        ) from error
    except RefusedError as error:
        if error.status in DENIED:
            raise UserError(f"{error}; the server wants a key: set {KEYS[0]}, or {KEYS[1]}.") from error
        if error.status in MISSING:
            raise UserError(
                f"{error}; the address of an API usually ends in /v1, and a server without /completions needs "
                "--endpoint-api chat."
            ) from error
        raise UserError(f"{error}; {base} does not answer even a short prompt.") from error
    except EndpointError as error:
        raise UserError(f"{error}; is {base} the address of an API, up to its /v1?") from error
