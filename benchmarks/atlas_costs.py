"""What a task costs under each method, as curves by length: CPU time of the prompt and of the answer, and memory.

CPU time is that of the process, whatever else a machine does meanwhile. Records have it of a sample as a whole; prompt
and answer share it as they do the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lcbench.results.compare.cells import computed_tokens
from lcbench.results.report.curves import Curves
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import TableRow, summarise_records
from lcbench.results.schema import Record

Costs = Callable[[list[Record]], float | None]


def cost_curves(run: Run, task: str) -> list[Curves]:
    """Three panels of a task; without those that the records do not tell."""
    found = []
    groups = [(row, records) for row, records in summarise_records([run]) if row.task == task]
    for what, (metric, cost) in COSTS.items():
        methods: dict[str, list[TableRow]] = {}
        for row, records in groups:
            mean = cost([record for record in records if record.failure is None])
            if mean is not None:
                plain = replace(row, metric=metric, mean=mean, low=None, high=None, failed=None)
                methods.setdefault(row.method, []).append(plain)
        if methods:
            of = {method: sorted(rows, key=lambda row: row.seq_len) for method, rows in methods.items()}
            found.append(Curves(f"{task}: {what}", of))
    return found


def _prompt(records: list[Record]) -> float | None:
    return _per_token((_cpu(record, "prompt"), computed_tokens(record)) for record in records)


def _answer(records: list[Record]) -> float | None:
    """The first token of an answer is the prompt's."""
    return _per_token((_cpu(record, "answer"), record.measured.answer.output_tokens - 1) for record in records)


def _memory(records: list[Record]) -> float | None:
    peaks = [record.measured.cost.peak_memory_bytes for record in records]
    return max((peak for peak in peaks if peak is not None), default=0) / 2**20 or None


def _cpu(record: Record, part: str) -> float | None:
    """CPU seconds of the prompt or the answer."""
    cost = record.measured.cost
    seconds = cost.prefill_seconds + cost.decode_seconds
    if cost.cpu_seconds is None or not seconds:
        return None
    return cost.cpu_seconds * (cost.prefill_seconds if part == "prompt" else cost.decode_seconds) / seconds


def _per_token(parts: Iterable[tuple[float | None, int]]) -> float | None:
    """Microseconds a token, over all samples; None without one that tells."""
    known = [(seconds, tokens) for seconds, tokens in parts if seconds and tokens > 0]
    return 1e6 * sum(seconds for seconds, _ in known) / sum(tokens for _, tokens in known) if known else None


COSTS: dict[str, tuple[str, Costs]] = {
    "prefill": ("CPU microseconds per token", _prompt),
    "decode": ("CPU microseconds per token", _answer),
    "peak memory": ("MiB", _memory),
}
