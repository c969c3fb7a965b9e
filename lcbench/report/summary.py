"""From records to rows: one (task, method, length), its score with an interval, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from lcbench.errors import UserError
from lcbench.records import Record
from lcbench.stats import wilson_interval


@dataclass(frozen=True)
class Row:
    """One (task, method, length), over all its depths and samples.

    `low` and `high` bound the mean with 95 % confidence. `failed` is the reason if a cell of it failed; the numbers
    are then of the samples that succeeded, None without any.
    """

    task: str
    method: str
    seq_len: int
    metric: str
    samples: int
    mean: float | None
    low: float | None
    high: float | None
    prefill_tokens_per_second: float | None
    peak_memory_bytes: int | None
    failed: str | None


def summarise(records: Iterable[Record]) -> list[Row]:
    """Rows in the order in which tasks, methods and lengths first come up.

    Raises: UserError for a record that lacks a field.
    """
    groups: dict[tuple[str, str, int], list[Record]] = {}
    try:
        for record in records:
            groups.setdefault((record["task"], record["method"], record["seq_len"]), []).append(record)
        return [_row(*key, members) for key, members in groups.items()]
    except KeyError as error:
        raise UserError(f"these records lack {error}; were they written by another program?") from error


def _row(task: str, method: str, seq_len: int, records: list[Record]) -> Row:
    done = [record for record in records if record["error"] is None]
    failed = next((record["error"] for record in records if record["error"] is not None), None)
    if not done:
        return Row(task, method, seq_len, "", 0, None, None, None, None, None, failed)
    metric = done[0]["metric"]
    scores = [record["scores"][metric] for record in done]
    low, high = wilson_interval(sum(scores), len(scores))
    seconds = sum(record["cost"]["prefill_seconds"] for record in done)
    return Row(
        task=task,
        method=method,
        seq_len=seq_len,
        metric=metric,
        samples=len(done),
        mean=sum(scores) / len(scores),
        low=low,
        high=high,
        prefill_tokens_per_second=sum(record["prompt_tokens"] for record in done) / seconds if seconds else None,
        peak_memory_bytes=max(record["cost"]["peak_memory_bytes"] for record in done),
        failed=failed,
    )


def by_task(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each task, in order."""
    return [(task, list(members)) for task, members in groupby(rows, key=lambda row: row.task)]
