"""Runs as read for tables and figures, one or several side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lcbench.results.manifest import RunIdentity
from lcbench.results.records import read_manifest, read_records
from lcbench.results.schema import Record

SETTINGS = ("dtype", "device", "seed")  # of a run's identity


@dataclass(frozen=True)
class Run:
    """A run's folder as read for tables; `protocols` maps task names to protocols, and `missing` is the number of
    samples still to come. Records have the model's display name. `references` are the files of published figures that
    the run names. `folder` is None for runs side by side."""

    name: str
    identity: RunIdentity
    records: list[Record]
    missing: int = 0
    references: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def protocols(self) -> dict[str, str]:
        return {task.name: task.protocol for task in self.identity.tasks if task.protocol}

    def only(self, ids: Collection[str]) -> Run:
        """This run with only the records that have these ids."""
        return replace(self, records=[record for record in self.records if record.identity.id in ids])


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in some folders, each once, named by the folder, or by the whole path if two have the same name.

    Raises: UserError for a folder without records.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    names = [folder.resolve().name for folder in unique]
    runs = []
    for folder, name in zip(unique, names, strict=True):
        manifest, records = read_manifest(folder), read_records(folder)
        shown = name if names.count(name) == 1 else str(folder)
        identity, missing = replace(manifest.identity, model=manifest.model_name), manifest.missing(records)
        if identity.model and identity.model != manifest.identity.model:
            records = [replace(one, identity=replace(one.identity, model=identity.model)) for one in records]
        runs.append(Run(shown, identity, records, missing, manifest.references, folder))
    return runs


def trained_length(runs: Iterable[Run]) -> int | None:
    """The length that the models were trained at, if it is the same for all."""
    lengths = {run.identity.pretraining_length for run in runs}
    return lengths.pop() if len(lengths) == 1 else None


def side_by_side(runs: Sequence[Run]) -> Run:
    """One run with the records of all, for a figure: method names include model and run if these distinguish them."""
    if len(runs) == 1:
        return runs[0]
    records = []
    for run, suffix in zip(runs, suffixes(runs), strict=True):
        for record in run.records:
            named = replace(record.identity, method=record.identity.method + suffix)
            records.append(replace(record, identity=named))
    protocols = {task.name: task for run in runs for task in run.identity.tasks}
    identity = replace(runs[0].identity, tasks=list(protocols.values()))
    return Run(", ".join(run.name for run in runs), identity, records)


def suffixes(runs: Sequence[Run]) -> list[str]:
    """Suffixes of the method names of each run when several are side by side: ` on MODEL in RUN`, as far as these
    distinguish methods."""
    models = {str(run.identity.model) for run in runs}
    seen = Counter(
        (str(run.identity.model), method) for run in runs for method in {one.identity.method for one in run.records}
    )
    repeated = any(count > 1 for count in seen.values())
    return [
        (f" on {Path(str(run.identity.model)).name}" if len(models) > 1 else "")
        + (f" in {run.name}" if repeated else "")
        for run in runs
    ]


def differences(runs: Sequence[Run]) -> list[str]:
    """Remarks on unfinished runs, and on settings and weights that differ between runs."""
    lines = [
        f"{run.name} is unfinished: {len(run.records):,} of {len(run.records) + run.missing:,} samples."
        for run in runs
        if run.missing
    ]
    for name in SETTINGS:
        values = dict.fromkeys(str(getattr(run.identity, name)) for run in runs)
        if len(values) > 1:
            lines.append(f"the runs differ in {name}: {', '.join(values)}.")
    weights: dict[str, set[str]] = {}
    for run in runs:
        weights.setdefault(str(run.identity.model), set()).add(str(run.identity.model_fingerprint))
    changed = [model for model, fingerprints in weights.items() if len(fingerprints) > 1]
    return lines + [f"the weights of {model} differ between the runs." for model in changed]
