"""From what the user typed to a list of jobs, everything checked that can be before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.errors import UserError, unknown
from lcbench.methods import Lengths, Method, parse_method
from lcbench.models import Footprint, ModelSource, footprint, trained_length
from lcbench.options import parse_depths, parse_lengths, split_list
from lcbench.tasks import Cell, Task, load_task, read_yaml

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """One task with the methods and lengths to run it with, as typed; None means the default."""

    task: str
    methods: tuple[str, ...] | None = None
    seq_lens: tuple[int, ...] | None = None
    depths: tuple[float, ...] | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Job:
    """One method on one cell of one task: the unit that succeeds or fails as a whole."""

    task: Task
    method: Method
    resolved: Method
    cell: Cell
    samples: int

    def record_id(self, sample: int) -> str:
        return f"{self.task.name}/{self.method}/{self.cell.key}/{sample}"


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do; made by `make_plan`."""

    source: ModelSource
    seed: int
    jobs: list[Job]
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def footprint(self) -> Footprint:
        return footprint(self.source, self.config)

    @property
    def samples(self) -> int:
        return sum(job.samples for job in self.jobs)

    @property
    def tokens(self) -> int:
        return sum(job.samples * job.cell.seq_len for job in self.jobs)

    def identity(self) -> dict[str, Any]:
        """What decides the records: the same identity, the same records."""
        tasks = {job.task.name: asdict(job.task) for job in self.jobs}
        return {
            "tasks": list(tasks.values()),
            "jobs": [[job.task.name, str(job.method), job.cell.key, job.samples] for job in self.jobs],
            "model": self.source.name,
            "model_fingerprint": self.source.fingerprint(self.config),
            "pretraining_length": trained_length(self.config),
            "dtype": str(self.source.torch_dtype(self.config)).removeprefix("torch."),
            "device": self.source.torch_device().type,
            "seed": self.seed,
        }

    def default_output(self, results: Path) -> Path:
        """A folder that follows from the run alone, so that the same command finds it again."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        tasks = "-".join(dict.fromkeys(job.task.name.partition(":")[0] for job in self.jobs))
        return results / f"{tasks}-{Path(self.source.name).name}-{digest}"


def make_plan(source: ModelSource, requests: Sequence[Request], seed: int = 0) -> Plan:
    """Work out the jobs of a run, each (task, cell, method) once.

    Raises: UserError for whatever cannot be run: names, options, lengths too short for a prompt, the model's files.
    """
    tasks = [load_task(request.task) for request in requests]
    chosen = [[parse_method(spec) for spec in request.methods or ("vanilla",)] for request in requests]
    config, tokenizer = source.config(), source.tokenizer()
    trained = trained_length(config)
    jobs: dict[str, Job] = {}
    for request, task, methods in zip(requests, tasks, chosen, strict=True):
        depths = None if request.depths is None else list(request.depths)
        for cell in task.cells(list(request.seq_lens or (trained,)), depths):
            task.example(cell, 0, tokenizer, seed)
            for method in methods:
                job = Job(
                    task, method, method.resolve(Lengths(trained, cell.seq_len)), cell, request.samples or task.samples
                )
                jobs.setdefault(job.record_id(0), job)
    return Plan(source, seed, list(jobs.values()), config, tokenizer)


def read_requests(target: str) -> tuple[list[Request], dict[str, Any]]:
    """A task's name or path -> one request; a suite -> its requests, and the model and seed it names.

    Raises: UserError for an unknown name or a malformed suite.
    """
    name = target.partition(":")[0]
    stem, content = read_yaml(name)
    if "runs" not in content:
        return [Request(target)], {}
    known = {"description", "runs", "model", "seed"}
    for key in content:
        if key not in known:
            raise unknown(f"key of suite {stem}:", str(key), known)
    runs = content["runs"]
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) and "task" in run for run in runs):
        raise UserError(f"suite {stem} must list its `runs`, each a mapping with a `task`.")
    return [_request(stem, run) for run in runs], {key: content[key] for key in ("model", "seed") if key in content}


def _request(stem: str, run: dict[str, Any]) -> Request:
    known = {"task", "methods", "seq_len", "depths", "samples"}
    for key in run:
        if key not in known:
            raise unknown(f"key of a run in suite {stem}:", str(key), known)

    def as_text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    samples = run.get("samples")
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise UserError(f"suite {stem}: samples must be a whole number from 1, not {samples!r}.")
    return Request(
        task=str(run["task"]),
        methods=tuple(split_list(as_text(run["methods"]))) if "methods" in run else None,
        seq_lens=tuple(parse_lengths(as_text(run["seq_len"]))) if "seq_len" in run else None,
        depths=tuple(parse_depths(as_text(run["depths"]))) if "depths" in run else None,
        samples=samples,
    )
