"""Runs against a server of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engine.endpoint.fake import NAME, Server
from tests.helpers import TINY, Outcome, cli, fields_of

KEY = "sk-very-secret"
PLAIN = frozenset({"model", "prompt", "max_tokens", "temperature", "frequency_penalty", "stream", "stop"})
PASSKEY = ("passkey", "--seq-len", "160,256", "--samples", "3")


def run(server: Server, *arguments: str | Path, output: str = "served", model: str = NAME) -> Outcome:
    return cli(
        "run", *(arguments or PASSKEY), "--endpoint", server.url, "--model", model, "--tokenizer", TINY, "-o", output
    )


def answers(folder: str) -> dict[str, Any]:
    """What was asked and answered, by task, cell and sample: the method has another name at a server."""
    return {
        "/".join(record["id"].split("/")[:1] + record["id"].split("/")[2:]): (
            record["prompt_sha256"],
            record["prediction"],
            record["scores"],
        )
        for record in fields_of(Path(folder))
    }
