"""A run in an experiment tracker: one tracker run per method, with lengths as steps.

Step n has the numbers of the cells of n tokens: `TASK/METRIC` with its interval, samples, and cost. The run's files are
uploaded, too, if the tracker takes files. The trackers' own settings decide where runs go: `WANDB_MODE`,
`MLFLOW_TRACKING_URI`, `TRACKIO_DIR`.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, shortened, unknown
from lcbench.results.records import MANIFEST, RECORDS
from lcbench.results.report.runs import Run, read_runs
from lcbench.results.report.summary import TableRow, summarise_runs

COSTS = ("prefill_tokens_per_second", "decode_tokens_per_second", "peak_memory_bytes", "first_token_seconds")
SHOWN = 700  # characters of a tracker's error message, whose end often has the way out
LONGEST_VALUE = 500  # characters of a parameter: the limit of MLflow servers before 2.8 (later ones: 6,000)
UNNAMEABLE = re.compile(r"[^\w\-. :/]")  # not allowed in MLflow's metric names; applied to all trackers
Steps = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Tracked:
    """What a tracker gets for a method: a name and an id, equal for equal records; settings; and numbers by step."""

    name: str
    id: str
    config: dict[str, Any]
    steps: Steps
    files: tuple[Path, ...]


def track(folder: Path, tracker: str, project: str) -> list[str]:
    """Send a run to a tracker; returns the names of its runs there.

    Raises: UserError for an unknown tracker, a package that is not installed, a folder without records, or a refusal of
    the tracker.
    """
    if tracker not in TRACKERS:
        raise unknown("--to", tracker, TRACKERS)
    try:
        module = importlib.import_module(tracker)
    except ImportError as error:
        raise UserError(f"--to {tracker} needs its package: pip install 'lcbench[{tracker}]' ({error}).") from error
    runs = list(tracked(folder))
    for one in runs:
        try:
            TRACKERS[tracker](module, one, project)
        except Exception as error:  # each tracker has its own errors for disks, servers and keys
            said = shortened(" ".join(str(error).split()) or type(error).__name__, SHOWN).rstrip(".")
            raise UserError(f"{tracker} refused {one.name}: {said}.") from error
    return [one.name for one in runs]


def tracked(folder: Path) -> Iterator[Tracked]:
    """The methods of a run. Raises: UserError for a folder without records."""
    (run,) = read_runs([folder])
    rows = summarise_runs([run])
    content = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()
    files = tuple(path for path in (folder / MANIFEST, folder / RECORDS) if path.is_file())
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        digest = hashlib.sha256(f"{content}|{method}".encode()).hexdigest()[:12]
        yield Tracked(f"{run.name}/{method}", digest, _config(run, method), _steps(own), files)


def _config(run: Run, method: str) -> dict[str, Any]:
    """The settings of the run and the method."""
    identity = run.identity
    settings = {name: getattr(identity, name) for name in ("model", "dtype", "device", "seed", "engine")}
    known = {name: value for name, value in settings.items() if value is not None}
    longest = max((one.identity for one in run.records if one.identity.method == method), key=lambda one: one.seq_len)
    return {
        **known,
        "method": method,
        **{f"method.{name}": value for name, value in longest.method_options.items()},
        **({"trained_length": identity.pretraining_length} if identity.pretraining_length else {}),
        **{f"protocol.{name}": protocol for name, protocol in run.protocols.items()},
    }


def _steps(rows: list[TableRow]) -> Steps:
    """Numbers by length, ascending; a cell without a score has only its number of samples."""
    steps: Steps = {}
    for row in sorted(rows, key=lambda row: row.seq_len):
        scores = {row.metric: row.mean, f"{row.metric}_low": row.low, f"{row.metric}_high": row.high}
        costs = {name: getattr(row, name) for name in COSTS}
        told = {"samples": row.samples, "failed": int(row.failed is not None), **costs} | (scores if row.metric else {})
        numbers = {f"{row.task}/{name}": float(value) for name, value in told.items() if value is not None}
        named = {UNNAMEABLE.sub("_", name): value for name, value in numbers.items()}
        steps.setdefault(row.seq_len, {}).update(named)
    return steps


def _wandb(wandb: Any, one: Tracked, project: str) -> None:
    """wandb 0.31: `init` with an id continues that run, `Artifact` uploads files."""
    run = wandb.init(
        project=project, name=one.name, id=one.id, config=one.config, resume="allow", reinit="finish_previous"
    )
    try:
        for step, numbers in one.steps.items():
            run.log(numbers, step=step)
        artifact = wandb.Artifact(f"lcbench-{one.id}", type="lcbench-run")
        for path in one.files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
    finally:
        run.finish()


def _mlflow(mlflow: Any, one: Tracked, project: str) -> None:
    """MLflow 3: parameters are strings of bounded length, metrics have steps, artifacts are files."""
    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=one.name, tags={"lcbench.id": one.id}):
        mlflow.log_params({UNNAMEABLE.sub("_", name): str(value)[:LONGEST_VALUE] for name, value in one.config.items()})
        for step, numbers in one.steps.items():
            mlflow.log_metrics(numbers, step=step)
        for path in one.files:
            mlflow.log_artifact(str(path), "lcbench")


def _trackio(trackio: Any, one: Tracked, project: str) -> None:
    """trackio 0.43: numbers by step; no files."""
    own = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}  # this machine's load is not part of the run
    trackio.init(project=project, name=f"{one.name}-{one.id}", config=one.config, **own)
    try:
        for step, numbers in one.steps.items():
            trackio.log(numbers, step=step)
    finally:
        trackio.finish()


TRACKERS: dict[str, Callable[[Any, Tracked, str], None]] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
