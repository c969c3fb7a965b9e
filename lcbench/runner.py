"""Run a plan: every sample that is not recorded yet, one record each."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from lcbench import provenance
from lcbench.attention.steering import Steering
from lcbench.engine.generate import generate, stop_tokens
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.errors import UserError, out_of_memory
from lcbench.plan import Job, Plan
from lcbench.records import Record, RunWriter
from lcbench.tasks import Example


class Progress(Protocol):
    """Who is told how far a run is."""

    def start(self, plan: Plan, done: int) -> None: ...
    def sample(self, job: Job, record: Record) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, and the jobs that failed with their reasons."""

    folder: Path
    failed: list[tuple[Job, str]]


def run(plan: Plan, folder: Path, progress: Progress, load: Callable[[], PreTrainedModel] | None = None) -> Outcome:
    """Make the records that the folder lacks. Interrupt it at any time; the same call goes on.

    A job whose model call fails (out of memory, say) is recorded as failed with the reason, and the others go on.
    Raises: UserError for what the user can mend: the folder, the model, a method that this model cannot take.
    """
    failed: list[tuple[Job, str]] = []
    with RunWriter(folder, plan.identity(), provenance.session() | {"advice": plan.advice}) as writer:
        pending = [job for job in plan.jobs if _missing(job, writer)]
        progress.start(plan, done=plan.samples - sum(len(_missing(job, writer)) for job in plan.jobs))
        try:
            if pending:
                model = (load or plan.source.model)()
                _check_methods(model, pending)
                for job in pending:
                    reason = _run_job(plan, job, model, writer, progress)
                    if reason:
                        failed.append((job, reason))
        finally:
            progress.finish()
    return Outcome(folder, failed)


def _missing(job: Job, writer: RunWriter) -> list[int]:
    """The samples of a job that are not recorded yet."""
    return [sample for sample in range(job.samples) if job.record_id(sample) not in writer.done]


def _check_methods(model: PreTrainedModel, jobs: list[Job]) -> None:
    """Refuse what this model cannot take before hours are spent. Raises: UserError."""
    for job in {str(job.method): job for job in jobs}.values():
        with Steering(model, job.method, job.cell.seq_len):
            pass


def _run_job(plan: Plan, job: Job, model: PreTrainedModel, writer: RunWriter, progress: Progress) -> str | None:
    """All missing samples of a job; the reason if one failed, which ends the job."""
    steering = Steering(model, job.method, job.cell.seq_len)
    with steering as steered:
        for sample in _missing(job, writer):
            example = job.task.example(job.cell, sample, plan.tokenizer, plan.seed)
            record = _identity(plan, job, sample, example) | {"layers_steered": steering.layers_steered}
            try:
                record |= _answer(plan, job, example, steered)
            except UserError:
                raise
            except Exception as error:
                record["error"] = _reason(error)
            writer.append(record)
            progress.sample(job, record)
            if record["error"]:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                return str(record["error"])
    return None


def _identity(plan: Plan, job: Job, sample: int, example: Example) -> Record:
    prompt = example.prompt
    return {
        "id": job.record_id(sample),
        "task": job.task.name,
        "method": str(job.method),
        "method_options": job.resolved.options(),
        "model": plan.source.name,
        "seq_len": job.cell.seq_len,
        "cell_depth": job.cell.depth,
        "depth": example.depth,
        "sample": sample,
        "seed": example.seed,
        "prompt_sha256": hashlib.sha256(struct.pack(f"<{len(prompt)}q", *prompt)).hexdigest(),
        "prompt_tokens": len(prompt),
        "max_new_tokens": example.max_new_tokens,
        "references": list(example.references),
    }


def _answer(plan: Plan, job: Job, example: Example, model: PreTrainedModel) -> Record:
    device = model.get_input_embeddings().weight.device
    reset_peak_memory(device)
    generation = generate(model, example.prompt, example.max_new_tokens, stop_tokens(model))
    prediction = str(plan.tokenizer.decode(generation.tokens, skip_special_tokens=True))
    return {
        "output_tokens": len(generation.tokens),
        "prediction": prediction,
        "scores": job.task.score(example, prediction),
        "metric": job.task.metric,
        "error": None,
        "cost": {
            "prefill_seconds": round(generation.prefill_seconds, 6),
            "decode_seconds": round(generation.decode_seconds, 6),
            "peak_memory_bytes": peak_memory(device),
        },
    }


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return "out of memory"
    return " ".join(f"{type(error).__name__}: {error}".split())
