"""New metric, old predictions: the scores of a run worked out again from what it recorded, without a model.

What it recorded is an answer, or for perplexity the likelihood of every token."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lcbench.core.errors import UserError
from lcbench.core.files import write_atomically
from lcbench.core.locks import locked
from lcbench.results.nll import TokenNll
from lcbench.results.records import LOCK, RECORDS, Record, read_manifest, read_records
from lcbench.tasks import Example, Task, load_task

BEFORE = "scores_before_rescoring"


@dataclass(frozen=True)
class Rescored:
    """How many samples have a score, and which of them have another score now, by id: (before, now)."""

    samples: int
    changed: dict[str, tuple[float | None, float | None]]


def rescore(folder: Path, task_files: Iterable[str] = ()) -> Rescored:
    """Score everything recorded with today's metrics, and write what changed: all of it or nothing.

    A record whose scores change keeps the old ones in a list under `scores_before_rescoring`, oldest first; one whose
    scores stay is left as it is, to the byte. `task_files` are the YAML files of tasks that do not ship with lcbench.

    Raises: UserError for a folder without records, one that is being written, or a task that is not known any more.
    """
    read_manifest(folder)
    try:
        lock = locked(folder / LOCK)
    except BlockingIOError as error:
        raise UserError(f"another lcbench is writing to {folder}; wait for it.") from error
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}, where the scores stand: {error.strerror}; rescore a copy of the folder."
        ) from error
    try:
        return _rescore(folder, {Path(name).stem: name for name in task_files})
    finally:
        os.close(lock)


def _rescore(folder: Path, task_files: dict[str, str]) -> Rescored:
    tasks: dict[str, Task] = {}
    changed: dict[str, Record] = {}
    scores: dict[str, tuple[float | None, float | None]] = {}
    answered = [record for record in read_records(folder) if record["error"] is None and "prediction" in record]
    for record in answered:
        name = record["task"]
        task = tasks.get(name) or tasks.setdefault(name, _load(name, task_files))
        now: Record = {"scores": _scores(folder, task, record), "metric": task.metric}
        before: Record = {"scores": record["scores"], "metric": record["metric"]}
        if now != before:
            changed[record["id"]] = record | now | {BEFORE: [*record.get(BEFORE, []), before]}
            scores[record["id"]] = before["scores"].get(before["metric"]), now["scores"].get(task.metric)
    if changed:
        _replace(folder, changed)
    return Rescored(len(answered), scores)


def _load(name: str, task_files: dict[str, str]) -> Task:
    stem, colon, options = name.partition(":")
    try:
        return load_task(f"{task_files.get(stem, stem)}{colon}{options}")
    except UserError as error:
        raise UserError(f"cannot score task {name}: {error} A task of your own is given with --task FILE.") from error


def _scores(folder: Path, task: Task, record: Record) -> dict[str, float]:
    """From the prediction, or from the likelihoods of tokens that the run kept beside its records."""
    if task.measure != "likelihood":
        return task.score(_example(record), record["prediction"])
    try:
        kept = record["nll"]
        return TokenNll.read(folder / kept["file"]).scores(kept["bytes"], kept["words"])
    except KeyError as error:
        raise _foreign(record, error) from error


def _example(record: Record) -> Example:
    """What a score may depend on: all of an example but its prompt, of which a record keeps the hash alone."""
    try:
        return Example(
            head=[],
            context=[],
            tail=[],
            references=tuple(record["references"]),
            max_new_tokens=record["max_new_tokens"],
            seed=record["seed"],
            depth=record["depth"],
            details=record.get("details", {}),
        )
    except KeyError as error:
        raise _foreign(record, error) from error


def _foreign(record: Record, error: KeyError) -> UserError:
    return UserError(f"record {record['id']} lacks {error}; was it written by another program?")


def _replace(folder: Path, changed: dict[str, Record]) -> None:
    """Put new records in the place of the last lines with their ids; a process killed here leaves the old file."""
    path = folder / RECORDS
    lines = path.read_bytes().split(b"\n")[:-1]  # a torn last line is the record that was in flight: none
    last = {json.loads(line)["id"]: number for number, line in enumerate(lines)}
    for id, record in changed.items():
        lines[last[id]] = json.dumps(record, ensure_ascii=False).encode()
    try:
        write_atomically(path, b"".join(line + b"\n" for line in lines))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; the old scores are intact, run the same command again once there "
            "is room."
        ) from error
