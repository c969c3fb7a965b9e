"""Runs to report on: folders of records that no model made, with whatever text a test wants in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcbench.results.records import FORMAT, MANIFEST, RECORDS
from tests.helpers import Fields
from tests.results.report.samples import likelihood, record

HOSTILE = (
    "</script><script>window.hacked = 1; document.title = 'hacked'</script><img src=x onerror=\"window.hacked = 2\">"
    "<!-- <script> --!><svg onload='window.hacked = 3'></textarea></style>&lt;b&gt; \u2028 \u202e \x00 ' \" ` ${1}"
)


def sample(task: str = "needle", method: str = "vanilla", seq_len: int = 256, number: int = 0, **fields: Any) -> Fields:
    """A needle found, with everything that a record can hold."""
    depth = fields.get("cell_depth", 0.5)
    shown = {
        "id": f"{task}/{method}/{seq_len}/{depth}/{number}",
        "task": task,
        "cell_depth": depth,
        "depth": depth,
        "references": ["a red ring"],
        "excerpt": ["Memorize it.", "The code is a red ring.", "What is the code?"],
        "prediction": "a red ring",
        "scores": {"recall": 1.0},
        "metric": "recall",
    }
    return record(method, seq_len, number, **(shown | fields))


def scored(score: float, metric: str = "recall", **fields: Any) -> Fields:
    return sample(**fields) | {"scores": {metric: score}, "metric": metric}


def failure(reason: str = "out of memory", **fields: Any) -> Fields:
    whole = sample(**fields) | {"error": reason}
    lost = ("output_tokens", "prediction", "scores", "metric", "cost")
    return {key: value for key, value in whole.items() if key not in lost}


def book(nll: float, seq_len: int = 256, number: int = 0, method: str = "vanilla") -> Fields:
    """Likelihoods of a book: no answer, no depth."""
    named = {"id": f"pg19/{method}/{seq_len}/{number}", "seq_len": seq_len, "document": f"book {number}"}
    return likelihood(method, number, nll) | named | {"prediction": "", "references": [], "depth": None}


def write_run(folder: Path, records: Iterable[Fields], **identity: Any) -> Path:
    """A results folder with these records."""
    folder.mkdir(parents=True)
    session = {"started_at": "2026-01-02T03:04:05+00:00", "command": ["lcbench", "run", "needle"], "versions": {}}
    whole = {"tasks": [], "model": "lcbench-tiny", "pretraining_length": 256, "seed": 0, **identity}
    manifest = {"format": FORMAT, "identity": whole, "sessions": [session]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / RECORDS).write_text("".join(json.dumps(each) + "\n" for each in records))
    return folder
