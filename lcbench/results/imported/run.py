"""From logs of other harnesses to the folder of a run, so that tables, comparisons, pages and gates serve them.

Fields that a log lacks are 0 in each record, and listed there (`imported.unknown`). A sample's seed is derived from its
document: samples of two logs pair up by their number, and only if they have the same document.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.errors import UserError
from lcbench.core.files import files_below
from lcbench.results.compare.cells import TOP
from lcbench.results.imported import inspect_ai, lm_eval
from lcbench.results.imported.logged import LoggedSample, LoggedTask
from lcbench.results.manifest import Manifest
from lcbench.results.records import FORMAT, MANIFEST, RECORDS
from lcbench.results.schema import Answer, Cost, Identity, Imported, Prompt, Record, Result, Scores

MOST_FILES = 10_000
COUNTS = ("prompt_tokens", "output_tokens", "max_new_tokens")
TIMES = ["cost.prefill_seconds", "cost.decode_seconds"]


def read_logs(path: Path, metric: str | None = None) -> list[LoggedTask]:
    """The tasks of a log, or of all logs in a folder. Raises: UserError for a file that is not a log or is malformed,
    for logs of several models, and for two logs of one task."""
    tasks: list[LoggedTask] = []
    for file in _logs(path):
        reader = lm_eval if file.suffix == ".jsonl" else inspect_ai
        tasks += reader.read_tasks(file, metric)
    models = list(dict.fromkeys(task.model for task in tasks))
    if len(models) > 1:
        raise UserError(f"{path} has logs of several models ({', '.join(models[:5])}); import one of them at a time.")
    seen: dict[tuple[str, str | None], Path] = {}
    for task in tasks:
        if other := seen.get((task.name, task.method)):
            raise UserError(f"{task.name} is in both {other} and {task.path}; import one of them at a time.")
        seen[task.name, task.method] = task.path
    return tasks


def _logs(path: Path) -> list[Path]:
    """The files to read. Raises: UserError."""
    if path.is_dir():
        named = (one for one in files_below(path) if one.suffix in (".jsonl", ".json", ".eval"))
        files = sorted(islice(named, MOST_FILES + 1))
        found = [one for one in files if _is_log(one)]
        if len(files) > MOST_FILES or not found:
            why = f"more than {MOST_FILES:,} files" if found else "no sample log (`--log_samples` makes some)"
            raise UserError(f"{path} has {why} of lm-evaluation-harness or inspect_ai.")
        return found
    if not path.exists():
        raise UserError(f"there is no file or folder {path}.")
    if beside := [one for one in lm_eval.samples_of(path) if _is_log(one)]:
        return beside
    if path.name.startswith("results_") and path.suffix == ".json":
        date = path.stem.removeprefix("results_")
        raise UserError(f"{path} has no samples_TASK_{date}.jsonl beside it; `--log_samples` makes them.")
    if path.suffix not in (".jsonl", ".json", ".eval"):
        raise UserError(f"{path} is not a sample log: those are samples_TASK_DATE.jsonl, .eval or .json.")
    return [path]


def _is_log(path: Path) -> bool:
    if path.suffix == ".jsonl":
        return lm_eval.SAMPLES.fullmatch(path.name) is not None
    return path.suffix == ".eval" or inspect_ai.is_log(path)


def write_run(tasks: Sequence[LoggedTask], method: str, seq_len: int | None, folder: Path, command: list[str]) -> int:
    """Write a new folder, completely or not at all; returns the number of records. `method` is used for tasks whose log
    has none, `seq_len` for all.

    Raises: UserError for a folder that exists with other content, or cannot be written.
    """
    records = [record for task in tasks for record in _records(task, method, seq_len)]
    lines = "".join(json.dumps(record.as_json(), ensure_ascii=False) + "\n" for record in records).encode()
    if folder.exists():
        if (folder / RECORDS).is_file() and (folder / RECORDS).read_bytes() == lines:
            return len(records)
        raise UserError(f"{folder} already exists with other content; pass another --output.")
    content = _manifest(tasks, method, seq_len, command)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / RECORDS).write_bytes(lines)
        (temporary / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.rename(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot write {folder}: {error.strerror}; pass another --output.") from error
    return len(records)


def default_folder(tasks: Sequence[LoggedTask], method: str, results: Path) -> Path:
    """A folder named after the imported logs, the same for the same logs."""
    parts = [[task.name, task.method or method, task.metric, [vars(one) for one in task.samples]] for task in tasks]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{tasks[0].name}-{Path(tasks[0].model).name}-{digest}"
    return results / re.sub(r"[^\w.-]+", "_", name)


def _manifest(tasks: Sequence[LoggedTask], method: str, seq_len: int | None, command: list[str]) -> dict[str, Any]:
    """The content of run.json. Raises: UserError for an invalid value in a log."""
    facts: dict[str, Any] = {}
    for task in tasks:
        facts |= {name: value for name, value in task.facts.items() if name in lm_eval.OWN and name != "method_options"}
    described = {
        task.name: {"name": task.name, "description": task.description, "citation": task.harness,
                    "protocol": task.protocol, "metric": task.metric,
                    **{name: task.facts[name] for name in ("task_args", "dataset") if name in task.facts}}
        for task in tasks
    }  # fmt: skip
    session = {
        "started_at": next((task.started_at for task in tasks if task.started_at), None),
        "command": command,
        "versions": {name: version for task in tasks for name, version in task.versions.items()},
        "samples": [max(task.expected, len(task.samples)) for task in tasks],
    }
    identity = {
        "tasks": list(described.values()),
        "jobs": [[task.name, task.method or method, _cell(task, seq_len)] for task in tasks],
        "model": tasks[0].model,
        "engine": tasks[0].harness,
        **facts,
    }
    content = {"format": FORMAT, "identity": identity, "sessions": [session]}
    try:
        Manifest.from_json(content)
    except FieldError as error:
        raise UserError(f"{tasks[0].path}: {error}.") from error
    return content


def _cell(task: LoggedTask, seq_len: int | None) -> str:
    return f"{seq_len or task.seq_len or 0}/uniform"


def _records(task: LoggedTask, method: str, seq_len: int | None) -> Iterator[Record]:
    numbers = {key: place for place, key in enumerate(dict.fromkeys(one.key for one in task.samples))}
    seen = set()
    for one in task.samples:
        id = f"{task.name}/{task.method or method}/{_cell(task, seq_len)}/{one.key}"
        id += f".{one.epoch}" if one.epoch else ""
        if id in seen:
            raise UserError(f"{task.path}: the sample {one.key} occurs twice.")
        seen.add(id)
        number = int(one.key) if one.key.isdecimal() and len(one.key) < 16 else numbers[one.key]
        record = _record(task, one, id, number, task.method or method, seq_len or task.seq_len or 0)
        try:
            _require_in_range(task.metric, record)
            yield Record.from_json(record.as_json())  # checked as when the run is read
        except FieldError as error:
            raise UserError(f"{task.path}, sample {one.key}: {error}.") from error


def _require_in_range(metric: str, record: Record) -> None:
    """Raises: FieldError for a score outside the range that its metric has in lcbench."""
    top, score = TOP.get(metric), record.score
    if top is not None and score is not None and not 0 <= score <= top:
        raise FieldError(f"must be from 0 to {top:g}, not {score:g}; pass another --metric", metric)


def _record(task: LoggedTask, one: LoggedSample, id: str, number: int, method: str, seq_len: int) -> Record:
    missing = [name for name in COUNTS if getattr(one, name) is None]
    options = task.facts.get("method_options") if task.method else None
    return Record(
        identity=Identity(
            id=id, task=task.name, method=method, method_options=options if isinstance(options, dict) else {},
            model=task.model, seq_len=seq_len, cell_depth=None, depth=None, sample=number, repeat=one.epoch,
            seed=int.from_bytes(hashlib.sha256(one.document.encode()).digest()[:6]),
        ),
        prompt=Prompt(
            prompt_sha256=hashlib.sha256(one.prompt.encode("utf-8", "surrogatepass")).hexdigest(),
            prompt_tokens=one.prompt_tokens or 0, max_new_tokens=one.max_new_tokens or 0,
            references=one.references, details=one.details or None,
        ),
        result=None if one.error else Result(
            answer=Answer(output_tokens=one.output_tokens or 0, prediction=one.prediction,
                          finish_reason=one.finish_reason, choices=one.choices),
            scores=Scores(scores=dict(one.scores), metric=task.metric),
            cost=Cost(prefill_seconds=0.0, decode_seconds=0.0, peak_memory_bytes=None),
        ),
        error=one.error,
        session=0,
        imported=Imported(harness=task.harness, unknown=[*([] if seq_len else ["seq_len"]), *missing, *TIMES]),
    )  # fmt: skip
