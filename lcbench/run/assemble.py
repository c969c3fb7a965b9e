"""Builds records from samples and their measurements; the only place that does."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import replace

from lcbench.core.errors import LeftOutError, RowError
from lcbench.results.schema import Answer, Identity, Prompt, Record, Result, Scores
from lcbench.run.measures import Measured, SampleRequest
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example

EXCERPT = 48  # tokens quoted from a prompt: at its start, on both sides of the needle; at its end twice as many


def result(one: SampleRequest, measured: Measured, cores: float | None) -> Result:
    """A measurement, scored by the task; `cores` are the CPU cores that the process used meanwhile (CPU seconds per
    second), None if another program ran the model."""
    cost = measured.cost
    seconds = cost.prefill_seconds + cost.decode_seconds
    task, prediction = one.job.task, measured.prediction
    answer = scorer = None
    if task.measure == "answer":
        scored = task.extract(prediction)
        answer, scorer = scored if scored != prediction else None, task.corpus_scorer
    scores = task.score(one.example, prediction) if measured.scores is None else measured.scores
    return Result(
        answer=Answer(
            output_tokens=measured.output_tokens,
            prediction=prediction,
            finish_reason=measured.finish_reason,
            reasoning=measured.reasoning,
            reasoning_tokens=measured.reasoning_tokens,
            reasoning_cut=measured.reasoning_cut,
            answer=answer,
            scorer=scorer or None,
            choices=measured.choices,
        ),
        scores=Scores(scores=scores, metric=task.metric),
        nll=measured.nll,
        cost=replace(cost, cpu_seconds=None if cores is None else round(cores * seconds, 6)),
    )


def record(
    plan: Plan,
    one: SampleRequest,
    found: Result | str,
    layers_steered: int | None,
    backends: Sequence[str] | None,
) -> Record:
    """The record of a sample: `found` is its result, or the reason why it failed. `backends`, which computed the
    attention, are part of the cost, since two otherwise equal runs may differ in them."""
    job, example = one.job, one.example
    done = (
        None
        if isinstance(found, str)
        else replace(found, cost=replace(found.cost, attention=None if backends is None else list(backends)))
    )
    return Record(
        identity=Identity(
            id=job.record_id(one.sample),
            task=job.task.name,
            method=str(job.method),
            method_options=job.resolved.options(),
            model=plan.source.label,
            seq_len=job.cell.seq_len,
            cell_depth=job.cell.depth,
            depth=example.depth,
            sample=one.sample // job.task.repeats,
            repeat=one.sample % job.task.repeats if job.task.repeats > 1 else None,
            seed=example.seed,
        ),
        prompt=_prompt(plan, job, example, measured=done is not None),
        result=done,
        error=found if isinstance(found, str) else None,
        layers_steered=layers_steered,
        equals=job.equals,
    )


def taken_over(found: Record, job: Job) -> Record:
    """The record of the same sample in an equivalent job, with the result and cost of `found`."""
    named = replace(
        found.identity,
        id=job.record_id(job.number(found)),
        method=str(job.method),
        method_options=job.resolved.options(),
    )
    return replace(found, identity=named, equals=job.equals, taken_from=found.identity.id)


def unbuilt(plan: Plan, job: Job, sample: int, error: RowError) -> Record:
    """The record of a sample without a prompt, whose row cannot be used or is left out."""
    seed = job.task.sample_seed(job.cell, sample // job.task.repeats, plan.seed)
    nothing = Example([], [], [], references=(), max_new_tokens=0, seed=seed)
    made = record(plan, SampleRequest(job, sample, nothing), str(error), 0, ())
    return replace(made, skipped=isinstance(error, LeftOutError) or None)


def _prompt(plan: Plan, job: Job, example: Example, *, measured: bool) -> Prompt:
    """Prompt fields of a record; document, protocol and excerpt only if the sample was `measured`."""
    prompt, reading = example.prompt, example.reading if measured else None
    return Prompt(
        prompt_sha256=prompt_sha256(prompt),
        prompt_tokens=len(prompt),
        max_new_tokens=example.max_new_tokens,
        think_budget=job.task.thought_tokens or None,
        references=list(example.references),
        details=example.details or None,
        document=reading.document if reading else None,
        protocol=reading.protocol if reading else None,
        chat=job.task.format.in_chat(plan.tokenizer) if prompt else None,
        first_token=str(plan.tokenizer.decode(prompt[:1])) if prompt else None,
        excerpt=[str(plan.tokenizer.decode(part)) for part in excerpt(example)] if measured else None,
    )


def prompt_sha256(prompt: Sequence[int]) -> str:
    """The hash of a prompt's token ids."""
    return hashlib.sha256(struct.pack(f"<{len(prompt)}q", *prompt)).hexdigest()


def excerpt(example: Example) -> list[list[int]]:
    """The token ids of a prompt's start, of the surroundings of the needle, and of its end; overlapping parts are
    merged."""
    size = len(example.prompt)
    spans = [(0, EXCERPT), (size - 2 * EXCERPT, size)]
    if example.needle_at is not None:
        spans.append((example.needle_at - EXCERPT, example.needle_at + 2 * EXCERPT))
    parts: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if parts and start <= parts[-1][1]:
            start, stop = parts[-1][0], max(parts.pop()[1], stop)
        parts.append((max(start, 0), min(stop, size)))
    return [example.prompt[start:stop] for start, stop in parts]
