"""One bench: everything is checked, then everything is measured, and each measurement becomes a row."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from typing import Any

import torch

from lcbench.apps.bench.check import Check, WrongAttentionError, check
from lcbench.apps.bench.memory import free_memory, needed_memory
from lcbench.apps.bench.passes import MATMUL, NEW_TOKENS, Passes, Turn
from lcbench.apps.bench.result import PARTS, Measurement, Result, Skipped
from lcbench.apps.bench.subjects import NATIVE, Steered, Subject, baselines, require_dense
from lcbench.apps.bench.target import Target
from lcbench.apps.bench.timing import Clock, Spread, interleaved, ratios
from lcbench.core.errors import out_of_memory
from lcbench.results.report.layout import human_bytes

WHOLE = ("prefill", "decode", "memory")  # parts measured in one pass through the whole model

Notes = Callable[[str], None]
logger = logging.getLogger("lcbench")


class Bench:
    """One bench of one model; `note` is called with what is being measured."""

    def __init__(
        self,
        target: Target,
        methods: list[str],
        backends: list[str],
        lengths: list[int],
        parts: list[str],
        rounds: int,
        *,
        baseline: list[str] | None = None,
        warm_up: int = 1,
    ) -> None:
        """`baseline` are names of baselines, by default all of the machine; `warm_up` is how many rounds are not
        counted. Raises: UserError for a method that does not fit the model, or a backend that does not run here, before
        anything is measured."""
        self.target, self.lengths, self.rounds, self.warm_up = target, lengths, rounds, warm_up
        self.parts = [part for part in PARTS if part in parts]
        self.passes = Passes(target, Clock.of(target.device), decode="decode" in parts)
        self.checks: list[Check] = []
        self.rows: list[Measurement] = []
        self.skipped: list[Skipped] = []
        self.matmul_rates: list[float] = []
        self.subjects: dict[int, list[Subject]] = {}
        for length in lengths:
            steered = [
                Steered(target, method, backend, length + NEW_TOKENS, named=len(backends) > 1)
                for method in methods
                for backend in backends
            ]
            for subject in steered:
                require_dense(subject.method)
            self.subjects[length] = [*baselines(target, baseline), *steered]

    def run(self, about: dict[str, Any], note: Notes, keep: Callable[[Result], None] = lambda result: None) -> Result:
        """Check everything, then measure what is right. A subject that is wrong, or fails, is left out from then on.
        `keep` is called with the result so far whenever there is more of it, so that a time limit loses little."""
        with torch.no_grad():
            for length in self.lengths:
                self._check(length, note)
                keep(self._result(about))
            for length in self.lengths:
                if "attention" in self.parts:
                    self._measure("attention", ["attention"], length, self.passes.attention, note)
                if "block" in self.parts:
                    self._measure("block", ["block"], length, self.passes.block, note)
                if whole := [part for part in WHOLE if part in self.parts]:
                    self._measure("prefill", whole, length, self.passes.whole, note)
                if "score" in self.parts:
                    self._measure("score", ["score"], length, self.passes.score, note)
                keep(self._result(about))
        return self._result(about)

    def _result(self, about: dict[str, Any]) -> Result:
        matmul = Spread.of(self.matmul_rates) if self.matmul_rates else None
        return Result(about, [vars(found) for found in self.checks], self.rows, self.skipped, matmul)

    def _check(self, length: int, note: Notes) -> None:
        note(f"checking attention at {length:,} tokens against the float64 reference")
        parts = self.parts or ["check"]
        self.subjects[length] = self._fitting("attention", parts, length)
        for subject in list(self.subjects[length]):
            try:
                self.checks.append(check(self.target, subject, length))
            except Exception as error:
                self._skip(error, parts, length, subject)
                self.subjects[length].remove(subject)

    def _fitting(self, what: str, parts: list[str], length: int) -> list[Subject]:
        """The subjects that fit into memory."""
        free = free_memory(self.target.device) if self.target.device.type == "cpu" else None
        fitting = []
        for subject in self.subjects[length]:
            needed = needed_memory(self.target, what, subject.method, length)
            if free is None or needed <= free:
                fitting.append(subject)
                continue
            why = f"it needs some {human_bytes(needed)} of memory, and {human_bytes(free)} are free."
            self._add_skipped(parts, length, subject.name, why)
        return fitting

    def _measure(
        self, what: str, parts: list[str], length: int, work: Callable[[Subject, int], Callable[[], Turn]], note: Notes
    ) -> None:
        """All subjects and the matrix product in turns, and a row each."""
        subjects = {subject.name: subject for subject in self._fitting(what, parts, length)}
        if not subjects:
            return
        note(f"measuring {', '.join(parts)} at {length:,} tokens")
        turns = {name: work(subject, length) for name, subject in subjects.items()}
        turns[MATMUL] = self.passes.matmul()

        def failed(name: str, error: Exception) -> bool:
            if name in subjects:
                self._skip(error, parts, length, subjects[name])
            return name in subjects

        found = interleaved(turns, self.rounds, failed, self.warm_up)
        matmul = [2 * self.passes.matmul_size**3 / turn.seconds[MATMUL] for turn in found.pop(MATMUL)]
        self.matmul_rates += matmul
        for part in parts:
            for name, answers in found.items():
                self.rows.append(self._row(part, length, subjects[name], answers, matmul, found))

    def _row(
        self,
        part: str,
        length: int,
        subject: Subject,
        turns: list[Turn],
        matmul: list[float],
        all_turns: dict[str, list[Turn]],
    ) -> Measurement:
        values = _values(part, turns)
        others = {
            other.name: _values(part, all_turns[other.name])
            for other in self.subjects[length]
            if other.baseline and other.name in all_turns
        }
        # Memory is counted in pages: what is small enough may take none.
        against = {name: ratios(values, other) for name, other in others.items() if all(other)}
        memory = part == "memory"
        tokens = 1 if part == "decode" else length
        work = None if memory or part in ("decode", "score") else self._work(part, subject, length)
        rates = None if work is None else [work / seconds for seconds in values]
        return Measurement(
            part=part,
            length=length,
            subject=subject.name,
            resolved=str(subject.method),
            baseline=subject.baseline,
            layer=self._layer(subject, length) if part in ("attention", "block") else None,
            seconds=None if memory else Spread.of(values),
            tokens_per_second=None if memory else tokens / statistics.median(values),
            matmul_share=None if rates is None else ratios(rates, matmul),
            peak_bytes=int(max(values)) if memory else None,
            kv_bytes=self.target.footprint.kv_cache(subject.method, length) if memory else None,
            ratios=against,
            backends=subject.backends,
        )

    def _work(self, part: str, subject: Subject, length: int) -> int | None:
        """Floating-point operations of a call; None where the linear layers cannot be counted."""
        target = self.target
        if part == "prefill":
            linear = target.linear_work(target.model)
            indices = range(len(target.layers))
        else:
            index = self._layer(subject, length)
            linear = target.linear_work(target.block(index)) if part == "block" else 0
            indices = range(index, index + 1)
        attention = sum(target.attention_work(subject.method, index, length) for index in indices)
        return None if linear is None else linear * length + attention

    def _layer(self, subject: Subject, length: int) -> int:
        return self.target.longest_layer(subject.method, length)

    def _skip(self, error: Exception, parts: list[str], length: int, subject: Subject) -> None:
        """Record a subject that this machine cannot run: memory ran out, a kernel of another library is missing; or one
        that should have run: it is wrong, or failed in any other way."""
        if out_of_memory(error):
            return self._add_skipped(parts, length, subject.name, "out of memory.")
        if isinstance(error, WrongAttentionError):
            return self._add_skipped(parts, length, subject.name, f"{error}; it was not timed.", failed=True)
        first_line = (str(error).strip().splitlines() or [""])[0]
        if subject.baseline and subject.name != NATIVE and isinstance(error, RuntimeError | ImportError):
            return self._add_skipped(parts, length, subject.name, f"it does not run here ({first_line}).")
        logger.debug("%s at %d tokens", subject.name, length, exc_info=error)
        why = f"it failed ({type(error).__name__}: {first_line})."
        return self._add_skipped(parts, length, subject.name, why, failed=True)

    def _add_skipped(self, parts: list[str], length: int, subject: str, why: str, *, failed: bool = False) -> None:
        self.skipped += [Skipped(part, length, subject, why, failed) for part in parts]


def _values(part: str, turns: list[Turn]) -> list[float]:
    return [float(turn.peak_bytes) if part == "memory" else turn.seconds[part] for turn in turns]
