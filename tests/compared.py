"""Records of made-up runs, whole cells of them, and the folders they lie in: what is compared, exported, rescored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcbench.results.records import RunWriter
from tests.helpers import Fields
from tests.results.report import samples


def record(
    sample: int = 0, score: float = 1.0, *, task: str = "passkey", method: str = "vanilla", seq_len: int = 256,
    depth: float | None = None, **fields: Any,
) -> Fields:  # fmt: skip
    named = {
        "id": f"{task}/{method}/{seq_len}/{'uniform' if depth is None else depth}/{sample}",
        "task": task,
        "cell_depth": depth,
        "prompt_sha256": f"{task}{seq_len}{depth}{sample}",
        "references": ["12345"],
    }
    return samples.record(method, seq_len, sample, score, **named | fields)


def failed(sample: int = 0, reason: str = "out of memory", **fields: Any) -> Fields:
    whole = record(sample, **fields)
    for key in ("output_tokens", "prediction", "scores", "metric", "cost"):
        del whole[key]
    return whole | {"error": reason}


def cell(scores: Sequence[float], **fields: Any) -> list[Fields]:
    return [record(sample, score, **fields) for sample, score in enumerate(scores)]


def save(folder: Path, records: Sequence[Fields], **identity: Any) -> Path:
    session = {"started_at": "2026-01-01T00:00:00+00:00", "versions": {"lcbench": "0.1.0"}, "hardware": {"cpu": "c"}}
    with RunWriter(folder, {"model": "m", **identity}, session) as run:
        for each in samples.typed(records):
            run.append(each)
    return folder


RIGHT, WRONG = cell([1.0] * 20), cell([0.0] * 20)
