"""Published figures to show beside one's own: a YAML file of `tasks/references`, or the user's, that a suite names.

source: who published them, where (required)
tables:
  - task: pg19:source=pg19      a task with the options that make it comparable; or, with `mean_of`, a benchmark
    metric: perplexity          our metric, whose units the figures have; or, with `mean_of`:
    mean_of: 13                 the figures are means over this many tasks of the benchmark `task`, such as RULER
    full_score: 100             the highest possible mean
    note: what differs from how lcbench asks
    rows:
      - {name: Llama2 7B, scores: {4k: 7.87}}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.errors import UserError, unknown
from lcbench.core.fields import Reader, described
from lcbench.core.specs import parse_seq_len, split_spec

_LARGEST = 1e9


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str = described("Model and method, as named by the source.")
    scores: dict[str, float] = described("Figures by length in tokens, e.g. `4k`.")
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Table:
    task: str = described("The task with its options, or a benchmark.")
    metric: str | None = described("Metric of one task's scores.", default=None)
    mean_of: int | None = described("Number of tasks that each figure averages.", least=2, default=None)
    full_score: float | None = described("The highest possible mean.", most=_LARGEST, least=0, default=None)
    note: str | None = described("What differs.", default=None)
    rows: list[_Row] = described("A row each.")
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _File:
    source: str = described("Who, where.")
    tables: list[_Table] = described("The tables.")
    extra: dict[str, Any] = field(default_factory=dict)


_READ = Reader(_File)


@dataclass(frozen=True)
class Figures:
    """A published table: figures by name and length. A task's are in units of its `metric`; means over `mean_of` tasks
    of the benchmark `task` are shares of the full score, and `metric` is empty."""

    source: str
    task: str
    metric: str
    mean_of: int
    rows: dict[str, dict[int, float]]

    def matches(self, task: str) -> bool:
        """Whether these figures apply to a task: the same name, with at least the same options."""
        if self.mean_of:
            return False
        (name, wanted), (stem, options) = split_spec(self.task), split_spec(task)
        return name == stem and wanted.items() <= options.items()


def reference_files() -> dict[str, Path]:
    """The files that ship with lcbench, by name."""
    from lcbench.tasks import REFERENCES, shipped_yaml

    return {path.stem: path for path in shipped_yaml() if path.parent.name == REFERENCES}


def located(name: str, beside: Path) -> str:
    """The name of a file that ships with lcbench, or the full path of a file named in a suite in the folder `beside`.

    Raises: UserError for an unknown name.
    """
    if name.endswith((".yaml", ".yml")):
        return str((beside / Path(name).expanduser()).resolve())
    if name not in reference_files():
        raise unknown("references", name, reference_files())
    return name


def read_references(name: str) -> list[Figures]:
    """The tables of a file, named as by `located`. Raises: UserError for a missing file, or a wrong or unknown
    field."""
    from lcbench.core.yaml_files import read_yaml_file

    path = Path(name) if name.endswith((".yaml", ".yml")) else reference_files().get(name)
    if path is None:
        raise unknown("references", name, reference_files())
    try:
        file = _READ(read_yaml_file(path))
        _require_known(file.extra, "")
        return [_figures(file.source, table, f"tables[{n}]") for n, table in enumerate(file.tables)]
    except FieldError as error:
        raise UserError(f"{path}{': ' if error.name else ' '}{error}.") from error


def _require_known(extra: dict[str, Any], place: str) -> None:
    for key in extra:
        raise FieldError("is unknown", ".".join(filter(None, (place, str(key)))))


def _figures(source: str, table: _Table, place: str) -> Figures:
    _require_known(table.extra, place)
    if (table.metric is None) == (table.mean_of is None):
        raise FieldError("must have either `metric` or `mean_of`", place)
    if (table.full_score is None) != (table.mean_of is None):
        raise FieldError("requires `mean_of`, and `mean_of` requires it", f"{place}.full_score")
    if table.full_score == 0:
        raise FieldError("must be above 0", f"{place}.full_score")
    rows: dict[str, dict[int, float]] = {}
    for number, row in enumerate(table.rows):
        _require_known(row.extra, f"{place}.rows[{number}]")
        if row.name in rows:
            raise FieldError(f"has {row.name!r} twice", f"{place}.rows")
        rows[row.name] = _by_length(row, f"{place}.rows[{number}]", table.full_score)
    try:
        split_spec(table.task)
    except UserError as error:
        raise FieldError(f"is not a task: {str(error).rstrip('.')}", f"{place}.task") from None
    said = f"{source} ({table.note})" if table.note else source
    return Figures(said, table.task, table.metric or "", table.mean_of or 0, rows)


def _by_length(row: _Row, place: str, full_score: float | None) -> dict[int, float]:
    found = {}
    for length, score in row.scores.items():
        if full_score and not 0 <= score <= full_score:
            raise FieldError(
                f"must be from 0 to the full score {full_score:g}, not {score:g}", f"{place}.scores.{length}"
            )
        try:
            found[parse_seq_len(str(length))] = score / (full_score or 1.0)
        except UserError:
            raise FieldError("is not a length in tokens, such as 4k", f"{place}.scores.{length}") from None
    return found
