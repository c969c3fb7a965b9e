"""Output of `lcbench run`: the plan, the estimated time, and the table of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lcbench.core import terminal

if TYPE_CHECKING:
    from lcbench.engine.footprint import Footprint
    from lcbench.run.plan import Plan


def show_time(plan: Plan, *, always: bool) -> None:
    """Print how long the run will take, and what would shorten it; for short runs only if `always`."""
    from lcbench.run.pace import LONG, estimate, forecast, surely_short

    if not always and surely_short(plan):
        return
    seconds = estimate(plan)
    if seconds is not None and (always or seconds >= LONG):
        terminal.say(f"note: {forecast(plan, seconds)}", err=True)


def show_plan(plan: Plan, folder: Path) -> None:
    from lcbench.run.progress import describe, equal

    for job in plan.jobs:
        in_chat = "  in the chat template" if job.task.format.in_chat(plan.tokenizer) else ""
        samples = f"{job.samples} sample{'' if job.samples == 1 else 's'}"
        terminal.say(f"{describe(job)}  {samples}{in_chat}  resolved: {job.resolved}{equal(job)}")
    terminal.say(f"{plan.size}, {plan.tokens:,} tokens")
    if plan.facts.local is not None:
        _show_memory(plan, plan.facts.local.footprint)
    terminal.say(f"records would go to {folder}")


def _show_memory(plan: Plan, need: Footprint) -> None:
    from lcbench.engine.generate import PREFILL_CHUNK
    from lcbench.results.report.tables import human_bytes

    largest = max(plan.jobs, key=lambda job: need.kv_cache(job.resolved, job.cell.seq_len))
    at_length = largest.resolved, largest.cell.seq_len
    kv_cache, left = need.kv_cache(*at_length), need.kv_left(*at_length)
    dropped = f", {human_bytes(left)} after the prompt" if largest.resolved.evicts else ""
    terminal.say(
        f"weights {human_bytes(need.weights)}, KV cache up to {human_bytes(kv_cache)}{dropped} "
        f"({largest.resolved.label} at {largest.cell.seq_len:,} tokens, {need.kv_per_key:,} bytes per key and layer); "
        f"together {human_bytes(need.weights + kv_cache)}, plus the activations of one chunk"
    )
    answered = [job for job in plan.jobs if job.task.measure == "answer"]
    digests = [need.page_digests(job.resolved, job.cell.seq_len) for job in answered]
    rotated = [need.rotated_keys(job.resolved, job.cell.seq_len) for job in answered]
    if most := max(map(sum, zip(rotated, digests, strict=True)), default=0):
        job, of_pages = next(
            (job, pages) for job, keys, pages in zip(answered, rotated, digests, strict=True) if keys + pages == most
        )
        what = f"rotated keys{' and digests of pages' if of_pages else ''}"
        terminal.say(
            f"while answers are decoded, {what} take up to {human_bytes(most)} more ({job.resolved.label} at "
            f"{job.cell.seq_len:,} tokens)"
        )
    read = [job for job in plan.jobs if job.task.measure == "likelihood" and job.cell.seq_len > PREFILL_CHUNK]
    if read:
        most = max(need.layerwise(job.resolved, job.cell.seq_len) for job in read)
        terminal.say(f"instead of a KV cache, a likelihood that goes layer by layer keeps up to {human_bytes(most)}")


def print_table(console: Console, folder: Path, plan: Plan, effective: float) -> None:
    """The table of the plan's samples, as `lcbench table` shows it; the folder may have more. `effective` is the
    threshold of the effective length."""
    from lcbench.results.report.overview import overview
    from lcbench.results.report.runs import read_runs
    from lcbench.results.report.tables import print_tables

    wanted = {job.record_id(sample) for job in plan.jobs for sample in range(job.samples)}
    runs = [run.only(wanted) for run in read_runs([folder])]
    shown = overview(runs, effective, grouped=True)
    for line in shown.remarks:
        terminal.say(f"note: {line}", err=True)
    print_tables(console, shown.published, shown.trained, shown.headlines)
