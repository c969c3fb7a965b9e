"""New metric, old predictions: a run's scores computed again from its records, without a model.

Scores are computed from the recorded answers, perplexity from the recorded per-token likelihoods."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError
from lcbench.core.fields import as_json
from lcbench.core.files import write_atomically
from lcbench.core.json_objects import parse
from lcbench.core.locks import locked
from lcbench.results.nll import TokenNll
from lcbench.results.records import LOCK, RECORDS, read_manifest, read_records
from lcbench.results.schema import BEFORE, Record, Scores
from lcbench.tasks import Example, Task, load_task


@dataclass(frozen=True)
class Rescored:
    """The number of samples with a score, and those whose score changed, by id: (before, now)."""

    samples: int
    changed: dict[str, tuple[float | None, float | None]]


def rescore(folder: Path, task_files: Iterable[str] = ()) -> Rescored:
    """Score all records with the current metrics, and write the changes: all of them or none.

    A record whose scores change keeps the old ones in a list under `scores_before_rescoring`, oldest first; all others
    stay the same, byte by byte. `task_files` are the YAML files of tasks that do not ship with lcbench.

    Raises: UserError for a folder without records, one that is being written, or a task that no longer exists.
    """
    read_manifest(folder)
    try:
        lock = locked(folder / LOCK)
    except BlockingIOError as error:
        raise UserError(f"another lcbench is writing to {folder}; wait for it.") from error
    except OSError as error:
        raise UserError(
            f"cannot write the new scores to {folder}: {error.strerror}; rescore a copy of the folder."
        ) from error
    try:
        return _rescore(folder, {Path(name).stem: name for name in task_files})
    finally:
        os.close(lock)


def _rescore(folder: Path, task_files: dict[str, str]) -> Rescored:
    tasks: dict[str, Task] = {}
    changed: dict[str, dict[str, Any]] = {}
    scores: dict[str, tuple[float | None, float | None]] = {}
    answered = [record for record in read_records(folder) if record.result]
    if made := [record.imported.harness for record in answered if record.imported]:
        raise UserError(
            f"{folder} was imported from {made[0]}, which computed its scores; score it there and import it again."
        )
    for record in answered:
        name, id, before = record.identity.task, record.identity.id, record.measured.scores
        task = tasks.get(name) or tasks.setdefault(name, _load(name, task_files))
        now = Scores(scores=_scores(folder, task, record), metric=task.metric)
        if now != before:
            known = [as_json(one) for one in (*(record.scores_before_rescoring or ()), before)]
            changed[id] = as_json(now) | {BEFORE: known}
            scores[id] = before.scores.get(before.metric), now.scores.get(now.metric)
    if changed:
        _replace(folder, changed)
    return Rescored(len(answered), scores)


def _load(name: str, task_files: dict[str, str]) -> Task:
    stem, colon, options = name.partition(":")
    try:
        return load_task(f"{task_files.get(stem, stem)}{colon}{options}")
    except UserError as error:
        raise UserError(f"cannot score task {name}: {error} Pass your own task's file with --task FILE.") from error


def _scores(folder: Path, task: Task, record: Record) -> dict[str, float]:
    """Scores from the prediction, or from the likelihoods in the run's `nll` folder."""
    done = record.measured
    if task.measure == "likelihood":
        if done.nll is None:
            raise UserError(f"record {record.identity.id} has no `nll`; was it written by another program?")
        return TokenNll.read(folder / done.nll.file).scores(done.nll.bytes, done.nll.words)
    try:
        return task.score(_example(record), done.answer.prediction)
    except UserError:
        raise
    except Exception as error:  # a scorer may fail in any way on details that another program wrote
        gist = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"cannot score record {record.identity.id} ({gist}); was it written by another program?"
        ) from error


def _example(record: Record) -> Example:
    """The example of a record, without the prompt, which is recorded only as a hash: no score depends on it."""
    return Example(
        head=[],
        context=[],
        tail=[],
        references=tuple(record.prompt.references),
        max_new_tokens=record.prompt.max_new_tokens,
        seed=record.identity.seed,
        depth=record.identity.depth,
        details=record.prompt.details or {},
    )


def _replace(folder: Path, changed: dict[str, dict[str, Any]]) -> None:
    """Change fields in the last lines with these ids; a process killed meanwhile leaves the old file."""
    path = folder / RECORDS
    lines = path.read_bytes().split(b"\n")[:-1]  # an incomplete last line is not a record
    last = {parse(line)["id"]: number for number, line in enumerate(lines)}
    for id, fields in changed.items():
        lines[last[id]] = json.dumps(parse(lines[last[id]]) | fields, ensure_ascii=False).encode()
    try:
        write_atomically(path, b"".join(line + b"\n" for line in lines), owned=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; the old scores are intact, run the same command again once there "
            "is space."
        ) from error
