"""Records as a run writes them, small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lcbench.results.manifest import RunIdentity
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import TableRow, summarise_runs
from lcbench.results.schema import Record
from tests.helpers import Fields


def record(method: str = "vanilla", seq_len: int = 256, sample: int = 0, score: float = 1.0, **fields: Any) -> Fields:
    return {
        "id": f"passkey/{method}/{seq_len}/uniform/{sample}",
        "task": "passkey",
        "method": method,
        "method_options": {},
        "model": "lcbench-tiny",
        "seq_len": seq_len,
        "cell_depth": None,
        "depth": None,
        "sample": sample,
        "seed": 1000 * seq_len + sample,
        "prompt_sha256": f"{seq_len}-{sample}",
        "prompt_tokens": seq_len - 6,
        "max_new_tokens": 6,
        "output_tokens": 6,
        "references": [str(sample)],
        "prediction": str(sample),
        "scores": {"exact_match": score},
        "metric": "exact_match",
        "error": None,
        "cost": {"prefill_seconds": 0.5, "decode_seconds": 0.25, "peak_memory_bytes": 300 * 2**20 + sample},
        **fields,
    }


def failure(method: str, seq_len: int, reason: str = "out of memory", sample: int = 0, **fields: Any) -> Fields:
    whole = record(method, seq_len, sample)
    for key in ("output_tokens", "prediction", "scores", "metric", "cost"):
        del whole[key]
    return whole | {"error": reason} | fields


def likelihood(
    method: str = "vanilla",
    book: int = 0,
    nll: float = 2.0,
    tokens: int = 250,
    bytes: int = 1000,
    words: int = 200,
    averaging: str = "tokens",
) -> Fields:
    """A book's: `nll` nats per token."""
    bits = nll * tokens / math.log(2)
    return record(
        method,
        sample=book,
        task="pg19",
        metric="nll",
        scores={
            "nll": nll,
            "perplexity": math.exp(min(nll, 700)),
            "bits_per_byte": bits / bytes,
            "bits_per_word": bits / (words or 1),
        },
        nll={
            "file": "nll/x.npz",
            "averaging": averaging,
            "tokens": tokens,
            "bytes": bytes,
            "words": words,
            "buckets": [],
        },
    )


def typed(records: Iterable[Fields]) -> list[Record]:
    return [Record.from_json(each) for each in records]


def summarise(records: Iterable[Fields], **identity: Any) -> list[TableRow]:
    return summarise_runs([Run("", RunIdentity(**identity), typed(records))])
