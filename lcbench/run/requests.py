"""From a task or suite file to requests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, brief, unknown
from lcbench.core.specs import LARGEST_SEED, parse_depths, parse_lengths, split_list
from lcbench.results.references import located, read_references
from lcbench.tasks import read_yaml


@dataclass(frozen=True)
class Request:
    """One task with the methods and lengths to run it with, as typed; None means the default. `format` are fields of
    the task that set the prompt format, and their values."""

    task: str
    methods: tuple[str, ...] | None = None
    seq_lens: tuple[int, ...] | None = None
    depths: tuple[float, ...] | None = None
    samples: int | None = None
    format: tuple[tuple[str, Any], ...] = ()


def read_requests(target: str) -> tuple[list[Request], dict[str, Any]]:
    """A task's name or path -> one request; a suite -> its requests, and the model, the seed and the references (files
    of published figures) it names.

    Raises: UserError for an unknown name or a malformed suite.
    """
    name, colon, _ = target.partition(":")
    stem, content = read_yaml(name)
    if "runs" not in content:
        return [Request(target)], {}
    if colon:
        raise UserError(f"{name} is a suite and has no options; give them to the tasks in its file.")
    known = {"description", "runs", "model", "seed", "references"}
    for key in content:
        if key not in known:
            raise unknown(f"key of suite {stem}:", str(key), known)
    runs = content["runs"]
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) and run.get("task") for run in runs):
        raise UserError(f"suite {stem} must list its `runs`, each a mapping with a `task`.")
    if not isinstance(content.get("model", ""), str):
        raise UserError(f"suite {stem}: model must be a name, not {brief(content['model'])}.")
    if not _is_whole(content.get("seed", 0)) or not 0 <= content.get("seed", 0) <= LARGEST_SEED:
        raise UserError(
            f"suite {stem}: seed must be a whole number from 0 to {LARGEST_SEED}, not {brief(content['seed'])}."
        )
    given: dict[str, Any] = {key: content[key] for key in ("model", "seed") if key in content}
    if "references" in content:
        given["references"] = _references(stem, content["references"], Path(os.path.expanduser(name)).parent)
    return [_request(stem, run) for run in runs], given


def _references(stem: str, names: Any, folder: Path) -> tuple[str, ...]:
    """The files of published figures, each read once, so that errors in them are reported before the run."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"suite {stem}: references must be a list of names such as [ruler], not {brief(names)}.")
    found = tuple(located(name, folder) for name in names)
    for name in found:
        read_references(name)
    return found


def _request(stem: str, run: dict[str, Any]) -> Request:
    known = {"task", "methods", "seq_len", "depths", "samples"}
    for key in run:
        if key not in known:
            raise unknown(f"key of a run in suite {stem}:", str(key), known)

    def text_of(key: str) -> str | None:
        value = run.get(key)
        if value == [] or isinstance(value, dict):
            raise UserError(f"suite {stem}: {key} must be a non-empty list, not {brief(value)}.")
        return ",".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)

    samples = run.get("samples")
    if samples is not None and (not _is_whole(samples) or samples < 1):
        raise UserError(f"suite {stem}: samples must be a whole number from 1, not {brief(samples)}.")
    methods, seq_lens, depths = text_of("methods"), text_of("seq_len"), text_of("depths")
    return Request(
        task=str(run["task"]),
        methods=None if methods is None else tuple(split_list(methods)),
        seq_lens=None if seq_lens is None else tuple(parse_lengths(seq_lens)),
        depths=None if depths is None else tuple(parse_depths(depths)),
        samples=samples,
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
