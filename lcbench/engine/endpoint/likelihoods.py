"""The log-likelihoods of a prompt in a server's answer: read where they are surely those of the tokens that were sent.

Servers that tokenize a text themselves may put a BOS before it, or leave it out of what they score (llama-cpp-python),
and then every number stands one place beside its token. So counts must agree, and what cannot be told is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lcbench.engine.endpoint.errors import EndpointError

LEAST = -9999.0  # what vLLM writes for the logarithm of 0, which JSON does not have
MOST = 1e-3  # of a logarithm that was rounded


def likelihoods(answer: dict[str, Any], way: str, tokens: list[int]) -> list[float]:
    """ln p of tokens[1:], each after all tokens before it, in an answer to a prompt and at most one token behind it,
    asked for in one of `WAYS`. Raises: EndpointError."""
    usage = answer.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    if counts.get("prompt_tokens") not in (None, len(tokens)):
        raise EndpointError(f"the server scored {counts['prompt_tokens']} tokens of a prompt of {len(tokens)}")
    try:
        logs = READERS[way](answer["choices"][0], tokens, counts.get("completion_tokens"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EndpointError("the server's answer has no log-likelihoods of the prompt") from None
    for log in logs:
        if not (isinstance(log, int | float) and math.isfinite(log) and LEAST < log <= MOST):
            raise EndpointError(f"the server gave {log} as the logarithm of a probability")
    return [float(log) for log in logs]


def _by_token(choice: dict[str, Any], tokens: list[int], behind: int | None) -> list[Any]:
    """In vLLM's `prompt_logprobs`: for each position a mapping from the token there and the likeliest one; null for the
    first position."""
    entries = choice["prompt_logprobs"]
    if len(entries) != len(tokens):
        raise EndpointError(f"the server scored {len(entries)} tokens of a prompt of {len(tokens)}")
    found = []
    for entry, token in zip(entries[1:], tokens[1:], strict=True):
        own, highest = entry[str(token)]["logprob"], max(one["logprob"] for one in entry.values())
        found.append(highest if highest > MOST else own)  # logits in the place of logarithms: --logprobs-mode
    return found


def _echoed(choice: dict[str, Any], tokens: list[int], behind: int | None) -> list[Any]:
    """In OpenAI's `token_logprobs`: of the prompt, null for its first token, and of the token that was generated behind
    it, if one was."""
    logs = choice["logprobs"]["token_logprobs"]
    if logs[0] is not None or len(logs) - len(tokens) not in ((0, 1) if behind == 0 else (1,)):
        raise EndpointError(f"the server scored {len(logs)} tokens of a prompt of {len(tokens)} and one behind it")
    return list(logs[1 : len(tokens)])


WAYS = {"prompt_logprobs": {"prompt_logprobs": 1}, "echo": {"echo": True, "logprobs": 1}}  # fields of a request
READERS: dict[str, Callable[[dict[str, Any], list[int], int | None], list[Any]]] = {
    "prompt_logprobs": _by_token,
    "echo": _echoed,
}
