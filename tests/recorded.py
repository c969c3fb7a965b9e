"""A run of small records, written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcbench.results.records import RecordTail, RunWriter, read_records
from lcbench.results.schema import Record
from tests.results.report import samples

IDENTITY = {"model": "m", "seed": 0, "jobs": [["passkey", "vanilla", "256/uniform", 2]]}
SESSION = {"started_at": "2026-01-01T00:00:00+00:00"}


def record(number: int, error: str | None = None, **fields: Any) -> Record:
    whole = samples.record(sample=number) if error is None else samples.failure("vanilla", 256, error, number)
    return Record.from_json(whole | {"id": f"r{number}", "text": "déjà vu\n", **fields})


def writer(folder: Path, **identity: Any) -> RunWriter:
    return RunWriter(folder, {**IDENTITY, **identity}, SESSION)


def write(folder: Path, *records: Record) -> None:
    with writer(folder) as run:
        for each in records:
            run.append(each)


def ids(folder: Path) -> list[str]:
    """Of its records, if there are any yet."""
    return [each.identity.id for each in read_records(folder)] if RecordTail(folder).news() else []
