"""A run's manifest, `run.json`: every field with its type, its unit and what it means, here and nowhere else.

Fields that are unknown here, of another version or of a task of one's own, are kept as they are. `docs/records.md` is
generated from this module and that of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.fields import Reader, described
from lcbench.results.schema import Record


def _time(value: Any) -> Any:
    try:
        if value is not None:
            datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise FieldError("must be a time, as 2026-01-31T12:00:00+00:00") from None
    return value


def _jobs(value: Any) -> Any:
    for job in value if type(value) is list else [None]:
        if type(job) is not list or len(job) < 3 or not all(type(one) is str for one in job[:3]) or "/" not in job[2]:
            raise FieldError("must be a list of [task, method, `length/depth`]")
    return value


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """A task of a run, with everything that decides its prompts."""

    name: str = described("As typed, with options.")
    description: str | None = described("What it asks, in a sentence.", default=None)
    citation: str | None = described("Where it comes from.", default=None)
    protocol: str | None = described("The protocol that was chosen.", default=None)
    prompt_format: dict[str, Any] | None = described(
        "How its prompts are asked, where that is not as plain text behind a BOS: `chat`, `system`, `chat_options`, "
        "and `bos`, the rule in a chat, else the tokens before the text.",
        default=None,
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What decides the records of a run (`identity`): the same identity, the same records."""

    tasks: list[TaskFacts] = described("The tasks.", default=())
    jobs: list[list[Any]] = described(
        "The cells of the plan, in order: [task, method, `length/depth`].",
        default=(),
        check=_jobs,
        wanted="a list of lists",
    )
    model: str | None = described("The model as typed, with adapter and quantization.", default=None)
    model_fingerprint: str | None = described("Hash of the model's weights and config.", default=None)
    weights: str | None = described(
        "How a GGUF file stores its weights, which are dequantized: `GGUF Q4_1, Q8_0`.", default=None
    )
    adapter: str | None = described("The adapter that was merged into the weights, as typed.", default=None)
    adapter_fingerprint: str | None = described("Hash of its files.", default=None)
    quantization: str | None = described(
        "How the weights were quantized when they were loaded, as `4bit`.", default=None
    )
    pretraining_length: int | None = described(
        "Length that the model was trained at.", unit="tokens", least=1, default=None
    )
    dtype: str | None = described("Type of the weights, as `bfloat16`.", default=None)
    device: str | None = described("`cpu` or `cuda`.", default=None)
    attention: str | None = described("The backend that was chosen; null: by the machine.", default=None)
    kv_dtype: str | None = described("Type of the cached keys and values, where it is not the model's.", default=None)
    kv_offload: bool | None = described("Whether cached keys and values are kept in RAM.", default=None)
    seed: int | None = described("What the seeds of all samples are made of.", default=None)
    engine: str | None = described(
        "What ran the model: `endpoint`, `vllm`, or the harness of an imported run; null: lcbench itself.", default=None
    )
    engine_options: dict[str, Any] | None = described("Options that were passed to vLLM.", default=None)
    endpoint: str | None = described("The server's address, without credentials.", default=None)
    endpoint_api: str | None = described("Which of its interfaces was asked: `completions` or `chat`.", default=None)
    tokenizer: str | None = described(
        "The tokenizer that prompts were built with, where it is not the model's.", default=None
    )
    method_files: dict[str, str] | None = described(
        "SHA-256 of each file that a method's options name, by its path.", default=None
    )
    chat_date: str | None = described(
        "The date in prompts whose chat template writes the current one, in ISO 8601.", default=None
    )
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_of(self) -> tuple[str | None, ...]:
        """What two runs share whose tokens and likelihoods are of one model."""
        return self.model_fingerprint or self.model, self.adapter_fingerprint, self.quantization, self.tokenizer


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine of a session (`hardware`)."""

    cpu: str | None = described("The processor's name.", default=None)
    cores: int | None = described("Its cores.", unit="cores", least=1, default=None)
    threads: int | None = described("Threads that torch computes with.", unit="threads", least=1, default=None)
    gpus: list[str] = described("Names of the GPUs.", default=())
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Git:
    """The state of a checkout of lcbench (`git`)."""

    commit: str | None = described("The commit.", default=None)
    changed: bool | None = described("Whether files differed from it.", default=None)


@dataclass(frozen=True, kw_only=True)
class Session:
    """How one process made records (`sessions`)."""

    started_at: str | None = described(
        "When it started, in ISO 8601.", default=None, check=_time, wanted="a time in ISO 8601"
    )
    command: list[str] = described("What was typed.", default=())
    model_name: str | None = described(
        "The name under which tables and figures show the model; that of the latest session that has one counts.",
        default=None,
    )
    versions: dict[str, str] | None = described("Versions of Python and of packages, by name.", default=None)
    hardware: Hardware | None = described("The machine.", default=None)
    platform: str | None = described("The operating system.", default=None)
    git: Git | None = described("The checkout that lcbench ran from; null if it was installed.", default=None)
    advice: list[str] = described("What the methods' authors would say of the options.", default=())
    references: list[str] = described(
        "Files of published figures that the suite names: those that ship with lcbench by name, others by path; those "
        "of the latest session that has any count.",
        default=(),
    )
    samples: list[int] = described(
        "How many samples each cell in `identity.jobs` was to have, in their order.", default=()
    )
    process: int | None = described("Number of the process among several.", least=0, default=None)
    processes: int | None = described("How many shared the run.", unit="processes", least=1, default=None)
    tensor_parallel: bool | None = described("Whether each had a shard of one model.", default=None)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`run.json`; `content` is all of it as it stands on disk."""

    format: int = described("Version of the folder's layout: 1.")
    identity: RunIdentity = described("What decides the records.")
    sessions: list[Session] = described("The processes that wrote records, in order.")
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str | None:
        """The name under which the model is shown: by default, as it was typed."""
        names = [session.model_name for session in self.sessions if session.model_name]
        return names[-1] if names else self.identity.model

    @property
    def references(self) -> tuple[str, ...]:
        """The files of published figures that tables show beside the run."""
        named = [session.references for session in self.sessions if session.references]
        return tuple(named[-1]) if named else ()

    def missing(self, records: Iterable[Record]) -> int:
        """Samples that the last session set out to make and that have no record; none of a cell that failed. 0 where
        run.json does not tell."""
        planned = self.sessions[-1].samples if self.sessions else []
        counts: Counter[str] = Counter()
        failed = set()
        for record in records:
            job = record.identity.id.rpartition("/")[0]
            counts[job] += 1
            if record.failed:
                failed.add(job)
        jobs = ("/".join(map(str, job[:3])) for job in self.identity.jobs)
        return sum(max(size - counts[job], 0) for job, size in zip(jobs, planned) if job not in failed)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Manifest:
        """Raises: FieldError."""
        manifest = _MANIFEST(content)
        manifest.__dict__.update(content=content)
        return manifest


_MANIFEST = Reader(Manifest)
