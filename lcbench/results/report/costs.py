"""The cost of a table row's samples: rates, CPU time, and latencies of a served model as seen by the client."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from lcbench.results.schema import Cost, Record

# Finish reasons of a complete answer.
ENDINGS = ("stop", "stop_string", "stop_or_string", "length", "eos", "eos_token", "stop_sequence")


def rate(samples: Sequence[tuple[int, float]]) -> tuple[float | None, float | None]:
    """Tokens per second over samples, given as (tokens, seconds), and the standard deviation of the samples' own rates
    from it; each None if unknown."""
    timed = [(tokens, seconds) for tokens, seconds in samples if seconds]
    total = sum(seconds for _, seconds in timed)
    if not timed:
        return None, None
    mean = sum(tokens for tokens, _ in timed) / total
    variance = sum(seconds * (tokens / seconds - mean) ** 2 for tokens, seconds in timed) / total
    return mean, math.sqrt(variance * len(timed) / (len(timed) - 1)) if len(timed) > 1 else None


def cores(costs: Sequence[Cost]) -> float | None:
    """CPU seconds per second, over the samples that have them."""
    pairs = [(cost.cpu_seconds, cost.prefill_seconds + cost.decode_seconds) for cost in costs]
    known = [(cpu, seconds) for cpu, seconds in pairs if cpu is not None and seconds]
    return sum(cpu for cpu, _ in known) / sum(seconds for _, seconds in known) if known else None


def served(records: list[Record]) -> dict[str, Any]:
    """Fields of a row for a served model, as seen by the client; empty for a model in this process."""
    costs = [record.measured.cost for record in records]
    if all(cost.retries is None and cost.first_token_seconds is None for cost in costs):
        return {}
    first = [cost.first_token_seconds for cost in costs if cost.first_token_seconds is not None]
    counted = [cost.prompt_difference for cost in costs if cost.prompt_difference]
    seconds = sum(cost.decode_seconds for cost in costs)
    behind = sum(max(record.measured.answer.output_tokens - 1, 0) for record in records)
    endings = Counter(filter(None, map(_ended_by_server, records)))
    return {
        "first_token_seconds": median(first) if first else None,
        "decode_tokens_per_second": behind / seconds if seconds and behind else None,
        "retries": sum(cost.retries or 0 for cost in costs),
        "uncounted": sum(map(_is_uncounted, costs)),
        "counted_otherwise": len(counted),
        "counted_least": min(counted, default=0),
        "counted_most": max(counted, default=0),
        "ended_by_server": ", ".join(f"{count} {how}" for how, count in endings.most_common()),
    }


def _is_uncounted(cost: Cost) -> bool:
    """Whether a server did not say how many tokens it read of a prompt that it answered."""
    return cost.retries is not None and cost.prompt_difference is None and not cost.way


def _ended_by_server(record: Record) -> str:
    """Why a server ended an answer that was neither finished nor at its budget; empty for one that was."""
    answer = record.measured.answer
    if answer.finish_reason == "length" and answer.output_tokens < record.prompt.max_new_tokens:
        return "ended by the server before their budget"
    whole = answer.finish_reason in ENDINGS or not answer.output_tokens
    return "" if whole else f"ended by the server ({answer.finish_reason})"
