"""The time that a run takes: estimated from its operations before anything is loaded, then from the work done so far.

The work of a prompt is counted in floating-point operations, since a token late in a long prompt costs more than an
early one: an estimate by tokens per second at the start of a prefill would be far too low.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

from lcbench.methods import Method
from lcbench.run.plan import Job, Plan

EFFICIENCY = 0.4  # rough share of the rate of a large matrix product that a prefill reaches
MATMUL_SIZE = 1024
MATMUL_SECONDS = 0.2
LONG = 60.0  # seconds from which on the time of a run is worth a line
SLOWEST = 1e9  # floating-point operations per second that every machine reaches


def work(plan: Plan, job: Job, tokens: int) -> float:
    """Floating-point operations of a prefill of the first `tokens` tokens: weights, and attention over all keys that
    queries see. For a model that another program runs, whose size is unknown, the number of tokens."""
    local = plan.facts.local
    if local is None:
        return float(tokens)
    config = local.config.get_text_config()
    embedding = config.vocab_size * config.hidden_size
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    pairs = 0.0
    for layer in range(local.footprint.layers):
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        window = min(_keys_seen(job.resolved, layer, job.cell.seq_len, kv_heads), tokens)
        pairs += window * tokens - window**2 / 2  # before the window is full, a query sees all earlier keys
    weights = max(local.footprint.weights // local.dtype.itemsize - embedding, 0)
    return float(2.0 * weights * tokens + 4.0 * width * pairs)


@cache
def _keys_seen(method: Method, layer: int, length: int, kv_heads: int) -> float:
    """The number of keys that the last of `length` queries sees, averaged over the heads."""
    import torch

    last = torch.tensor([length - 1])
    pieces = method.for_prompt(length).pieces(last, last, layer)
    return sum(int(piece.stop - piece.start) * piece.share(kv_heads) for piece in pieces)


def total_work(plan: Plan) -> float:
    """Operations of all samples that are computed, without prefix sharing, answers counted like prompts."""
    return sum(job.samples * work(plan, job, job.cell.seq_len) for job in plan.computed)


def estimate(plan: Plan) -> float | None:
    """Estimated seconds for the whole run, within a factor of about three, from a short matrix product on its device;
    None if another program runs the model."""
    import torch

    local = plan.facts.local
    if local is None:
        return None
    factor = torch.ones(MATMUL_SIZE, MATMUL_SIZE, device=local.device, dtype=local.dtype)
    seconds, products = 0.0, 0
    (factor @ factor).sum().item()  # the first one loads the library
    started = time.perf_counter()
    while seconds < MATMUL_SECONDS:
        (factor @ factor).sum().item()  # waits for the device
        products += 1
        seconds = time.perf_counter() - started
    return total_work(plan) * seconds / (2 * MATMUL_SIZE**3 * products * EFFICIENCY)


def surely_short(plan: Plan) -> bool:
    """Whether the run takes less than LONG seconds on any machine, so that no estimate is needed."""
    return total_work(plan) / SLOWEST < LONG


def forecast(plan: Plan, seconds: float) -> str:
    """A sentence on how long a run of `seconds` takes, and what would shorten it."""
    said = f"estimated time: {duration(seconds)} (rough; more precise after the first samples)"
    if seconds < LONG:
        return said
    longest = max(plan.jobs, key=lambda job: job.cell.seq_len)
    shorter = []
    if most := max(job.samples for job in plan.jobs) - 1:
        one = sum(work(plan, job, job.cell.seq_len) for job in plan.computed) / total_work(plan)
        shorter.append(f"--samples 1 instead of {most + 1} ({duration(seconds * one)})")
    half = work(plan, longest, longest.cell.seq_len // 2) / work(plan, longest, longest.cell.seq_len)
    shorter.append(f"a shorter --seq-len (half of {longest.cell.seq_len:,} takes about {half:.0%} of the time)")
    if plan.facts.local is not None and plan.facts.local.device.type == "cpu":
        shorter.append("a GPU (--device cuda)")
    return f"{said}; shorter with {', '.join(shorter)}."


def duration(seconds: float) -> str:
    """`40 s`, `9 min`, `2.5 h`, `3 days`: as precise as an estimate is."""
    for unit, size, until in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < until:
            count = seconds / size
            return f"{count:.1f} {unit}" if unit == "h" and count < 10 else f"{max(round(count), 1)} {unit}"
    return f"{round(seconds / 86_400)} days"


class Pace:
    """The remaining time of a run, from the time of the work so far. `missing`: for each job of the plan, the number of
    samples not recorded yet; `clock` is for tests."""

    def __init__(self, plan: Plan, missing: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._plan, self._clock = plan, clock
        jobs = zip(plan.jobs, missing, strict=True)
        self._left = sum(
            count * work(plan, job, job.cell.seq_len) for job, count in jobs if job.record_id(0) not in plan.donors
        )
        self._worked = self._prefilled = self._current = 0.0
        self._started: float | None = None

    def prefilled(self, job: Job, tokens: int) -> None:
        """The KV cache of a prompt now has `tokens` tokens; fewer than before means a new prompt."""
        if self._started is None:
            self._started = self._clock()
        now = work(self._plan, job, tokens)
        if now < self._current:
            self._prefilled += self._current
        self._current = now

    def finished(self, job: Job, samples: int = 1, *, failed: bool = False) -> None:
        """Some samples were recorded. Those of a failed job or with a taken-over result do not count as work."""
        if job.record_id(0) in self._plan.donors:
            return
        size = work(self._plan, job, job.cell.seq_len)
        self._left -= samples * size
        self._prefilled = max(0.0, self._prefilled + self._current - samples * size)
        self._current = 0.0
        if not failed:
            self._worked += samples * size

    @property
    def begun(self) -> float:
        """Work on prompts that are not recorded yet, in operations."""
        return self._prefilled + self._current

    @property
    def seconds_left(self) -> float | None:
        """Seconds left; None before any work is done."""
        begun = self.begun
        if self._started is None or not (done := self._worked + begun):
            return None
        return (self._clock() - self._started) / done * max(self._left - begun, 0.0)
