"""From requests to a list of jobs; everything that can be checked before the model is loaded is checked here.

Names are checked before anything that takes seconds to import, so that a typo is reported at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.attention.options import AttentionOptions
from lcbench.core.errors import UserError
from lcbench.engine.base import ModelFacts, Source
from lcbench.methods import Lengths, Method
from lcbench.methods.base import require_answer
from lcbench.methods.identity import equals_vanilla
from lcbench.results.schema import Record
from lcbench.run.asking import format_notes, require_answers, thinking_notes
from lcbench.run.requests import Request
from lcbench.run.rows import problems_note, require_example, samples_of
from lcbench.tasks import Cell, Example, Task, load_task
from lcbench.tasks.chat import TODAY, writes_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.engine.base import Host

NAMED = 3  # tasks in the name of a folder
VANILLA = "vanilla"


@dataclass(frozen=True)
class Job:
    """One method on one cell of one task: the unit that succeeds or fails as a whole. Of `repeats` answers to a sample
    each counts as one of the `samples`. `equals` is `vanilla` where the method changes nothing at the cell's length,
    else None."""

    task: Task
    method: Method
    resolved: Method
    cell: Cell
    samples: int
    equals: str | None = None

    def record_id(self, sample: int) -> str:
        number, repeat = divmod(sample, self.task.repeats)
        return f"{self.task.name}/{self.method}/{self.cell.key}/{number}{f'.{repeat}' if repeat else ''}"

    def has(self, record: Record) -> bool:
        """Whether a record of this cell is one of the job's samples."""
        return (record.identity.repeat or 0) < self.task.repeats and self.number(record) < self.samples

    def number(self, record: Record) -> int:
        """The number of a record of this cell among the job's samples."""
        return record.identity.sample * self.task.repeats + (record.identity.repeat or 0)

    def example(self, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        """The example of a sample. Raises: UserError if the cell is too short; RowError for a row."""
        return self.task.fitted(self.cell, sample // self.task.repeats, tokenizer, seed)


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, with the model's tokenizer and what is known of it; made by `make_plan`."""

    source: Source
    seed: int
    jobs: list[Job]
    tokenizer: PreTrainedTokenizerBase
    facts: ModelFacts
    attention: AttentionOptions
    notes: list[str] = field(default_factory=list)
    references: tuple[str, ...] = ()  # files of published figures, for its tables

    @cached_property
    def donors(self) -> dict[str, Job]:
        """The equal vanilla job of each job that takes over its results, keyed by the latter's `record_id(0)`."""
        vanilla = {(job.task.name, job.cell): job for job in self.jobs if str(job.method) == VANILLA}
        pairs = ((job, vanilla.get((job.task.name, job.cell))) for job in self.jobs if job.equals == VANILLA)
        return {job.record_id(0): donor for job, donor in pairs if donor and donor.samples >= job.samples}

    @property
    def computed(self) -> list[Job]:
        """The jobs that take over no results."""
        return [job for job in self.jobs if job.record_id(0) not in self.donors]

    def heirs(self, donor: Job) -> list[Job]:
        """The jobs that take over the results of this one."""
        return [job for job in self.jobs if self.donors.get(job.record_id(0)) is donor]

    @property
    def samples(self) -> int:
        return sum(job.samples for job in self.jobs)

    @property
    def size(self) -> str:
        """In words: `1 cell, 20 samples`."""
        return ", ".join(
            f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((len(self.jobs), "cell"), (self.samples, "sample"))
        )

    @property
    def advice(self) -> list[str]:
        """The method authors' advice on the resolved options, for each method at its longest length."""
        by_length = sorted(self.jobs, key=lambda job: job.cell.seq_len)
        longest = {str(job.method): job for job in by_length}.values()
        given = (job.resolved.advice(_lengths(self.facts, job.cell.seq_len)) for job in longest)
        return list(dict.fromkeys([*self.notes, *filter(None, given)]))

    @property
    def tokens(self) -> int:
        return sum(job.samples * job.cell.seq_len for job in self.jobs)

    def open_host(self) -> Host:
        """The model, loaded. Raises: UserError."""
        return self.source.open_host(self.tokenizer, self.facts, self.attention)

    def lengths_like(self, job: Job) -> list[int]:
        """Lengths of the cells that have this job's task and method, resolved to the same options."""
        alike = job.task.name, str(job.method), repr(job.resolved)
        return [
            other.cell.seq_len
            for other in self.jobs
            if (other.task.name, str(other.method), repr(other.resolved)) == alike
        ]

    def identity(self) -> dict[str, Any]:
        """Everything that determines the records: equal identities give equal records. The number of samples is not
        part of it, so that a run can be extended."""
        tasks = {job.task.name: job.task.identity(self.tokenizer) for job in self.jobs}
        in_chat = any(job.task.format.in_chat(self.tokenizer) for job in self.jobs)
        dated = in_chat and writes_date(self.tokenizer)
        named = dict.fromkeys(file for job in self.jobs for file in job.method.files)
        files = {file: hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() for file in named}
        return {
            "tasks": list(tasks.values()),
            "jobs": [[job.task.name, str(job.method), job.cell.key] for job in self.jobs],
            **self.source.identity(self.facts),
            **self.attention.identity(),
            "seed": self.seed,
            **({"chat_date": TODAY.isoformat()} if dated else {}),
            **({"method_files": files} if files else {}),
        }

    def default_output(self, results: Path) -> Path:
        """A folder named after the run's identity, so that the same command finds it again."""
        identity = json.loads(json.dumps(self.identity()))  # keys of YAML mappings become texts, which can be sorted
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        tasks = list(dict.fromkeys(job.task.name.partition(":")[0] for job in self.jobs))
        named = [*tasks[:NAMED], *([f"{len(tasks) - NAMED}_more"] if tasks[NAMED:] else [])]
        return results / re.sub(r"[^\w.-]+", "_", f"{'-'.join(named)}-{Path(self.source.name).name}-{digest}")


def make_plan(
    source: Source,
    requests: Sequence[Request],
    seed: int = 0,
    attention: AttentionOptions | None = None,
    references: tuple[str, ...] = (),
) -> Plan:
    """The jobs of a run, each (task, cell, method) once.

    Raises: UserError for whatever cannot be run: names, options, lengths too short for a prompt, the model's files.
    """
    attention = attention or AttentionOptions()
    tasks = [_as_sent(load_task(request.task).asked(**dict(request.format)), source) for request in requests]
    chosen = [source.methods(request.methods) for request in requests]
    source.check()
    attention.check_names()
    for method in chain(*chosen):
        attention.check_method(method)
    for request, task in zip(requests, tasks, strict=True):
        require_answers(task)
        task.require_data()
        if request.seq_lens:
            task.cells(list(request.seq_lens), _depths(request))

    tokenizer = source.tokenizer()
    facts = source.inspect(tokenizer, attention)
    source.require({task.measure for task in tasks})

    @cache
    def equals(resolved: Method, seq_len: int) -> str | None:
        local = facts.local
        if local is None:
            return None
        layers = local.config.get_text_config().num_hidden_layers
        same = equals_vanilla(resolved, _lengths(facts, seq_len), layers, local.frequencies)
        return VANILLA if same else None

    jobs: dict[str, Job] = {}
    notes = [*format_notes(requests, tasks, tokenizer), *thinking_notes(tasks, tokenizer), *facts.notes]
    for request, loaded, methods in zip(requests, tasks, chosen, strict=True):
        seq_lens = list(request.seq_lens or _default_length(source, facts))
        _require_room(source, facts, seq_lens, task)
        task = loaded.for_lengths(seq_lens)
        samples = samples_of(request, task, tokenizer)
        problems = task.problems(samples, seed)
        notes += [*problems_note(task, problems, samples), *task.notes(samples)]
        for cell in task.cells(seq_lens, _depths(request)):
            require_example(task, cell, [k for k in range(samples) if k not in problems], tokenizer, seed)
            for method in methods:
                fitting = method.for_model(facts.local.config.get_text_config()) if facts.local else method
                resolved = fitting.resolve(_lengths(facts, cell.seq_len))
                if task.measure == "likelihood":
                    require_answer(resolved, task.name)
                same = None if str(method) == VANILLA else equals(resolved, cell.seq_len)
                job = Job(task, method, resolved, cell, samples * task.repeats, same)
                jobs.setdefault(job.record_id(0), job)
    return Plan(source, seed, list(jobs.values()), tokenizer, facts, attention, notes, references)


def _as_sent(task: Task, source: Source) -> Task:
    """The task without a chat template, if the engine applies its own to every prompt."""
    return task.asked(chat="off") if source.own_template else task


def _lengths(facts: ModelFacts, seq_len: int) -> Lengths:
    """The lengths that a method is resolved with; for a model of unknown trained length, that of the run for both."""
    return Lengths(facts.trained or seq_len, seq_len)


def _default_length(source: Source, facts: ModelFacts) -> tuple[int]:
    if facts.trained is None:
        raise UserError(f"the trained length of {source.name}, which would be the default, is unknown; pass --seq-len.")
    return (facts.trained,)


def _require_room(source: Source, facts: ModelFacts, seq_lens: Sequence[int], task: Task) -> None:
    """Raises: UserError for lengths beyond the engine's limit."""
    behind = int(task.measure != "answer")  # servers generate a token after what they score
    if facts.limit is None or max(seq_lens, default=0) + behind <= facts.limit:
        return
    more = f", and {task.name} needs one more than its texts have" if behind else ""
    raise UserError(
        f"{source.name} runs with at most {facts.limit:,} tokens, prompt and answer together, not {max(seq_lens):,}"
        f"{more}; pass a shorter --seq-len, or start it with a higher limit."
    )


def _depths(request: Request) -> list[float] | None:
    return None if request.depths is None else list(request.depths)
