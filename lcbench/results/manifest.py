"""A run's manifest, `run.json`: the single definition of its fields, with types, units and meanings.

Unknown fields, from another version or a user's task, are kept as they are. `docs/records.md` is generated from this
module and `schema`.
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
    description: str | None = described("What it asks, in one sentence.", default=None)
    citation: str | None = described("The paper or source of the task.", default=None)
    protocol: str | None = described("The chosen protocol.", default=None)
    prompt_format: dict[str, Any] | None = described(
        "The prompt format, if it is not plain text after a BOS: `chat`, `system`, `chat_options`, and `bos` (in a "
        "chat the rule, else the tokens before the text).",
        default=None,
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What determines the records of a run (`identity`): equal identities give equal records."""

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
    adapter: str | None = described("The adapter merged into the weights, as typed.", default=None)
    adapter_fingerprint: str | None = described("Hash of the adapter's files.", default=None)
    quantization: str | None = described(
        "How the weights were quantized on loading: `4bit`, `8bit` or `int8`.", default=None
    )
    pretraining_length: int | None = described("The model's trained length.", unit="tokens", least=1, default=None)
    dtype: str | None = described("Dtype of the weights, e.g. `bfloat16`.", default=None)
    device: str | None = described("`cpu` or `cuda`.", default=None)
    attention: str | None = described("The requested attention backend; null: chosen by the machine.", default=None)
    kv_dtype: str | None = described("Dtype of the KV cache, if it is not the model's.", default=None)
    kv_offload: bool | None = described("Whether the KV cache is kept in RAM.", default=None)
    seed: int | None = described("The seed from which the seeds of all samples are derived.", default=None)
    engine: str | None = described(
        "What ran the model: `endpoint`, `vllm`, or the harness of an imported run; null: lcbench itself.", default=None
    )
    engine_options: dict[str, Any] | None = described("Options passed to vLLM.", default=None)
    endpoint: str | None = described("The server's address, without credentials.", default=None)
    endpoint_api: str | None = described("The server's interface: `completions` or `chat`.", default=None)
    tokenizer: str | None = described(
        "The tokenizer that prompts were built with, if it is not the model's.", default=None
    )
    method_files: dict[str, str] | None = described(
        "SHA-256 of each file that a method's options name, by path.", default=None
    )
    chat_date: str | None = described(
        "The date in prompts whose chat template writes the current date, in ISO 8601.", default=None
    )
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_of(self) -> tuple[str | None, ...]:
        """A key that two runs share if they have the same weights and tokenizer."""
        return self.model_fingerprint or self.model, self.adapter_fingerprint, self.quantization, self.tokenizer


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine of a session (`hardware`)."""

    cpu: str | None = described("The processor's name.", default=None)
    cores: int | None = described("Its cores.", unit="cores", least=1, default=None)
    threads: int | None = described("Number of threads of torch.", unit="threads", least=1, default=None)
    gpus: list[str] = described("Names of the GPUs.", default=())
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Git:
    """The state of a checkout of lcbench (`git`)."""

    commit: str | None = described("The commit.", default=None)
    changed: bool | None = described("Whether files differed from that commit.", default=None)


@dataclass(frozen=True, kw_only=True)
class Session:
    """One process that wrote records (`sessions`)."""

    started_at: str | None = described(
        "When it started, in ISO 8601.", default=None, check=_time, wanted="a time in ISO 8601"
    )
    command: list[str] = described("What was typed.", default=())
    model_name: str | None = described(
        "The model's name in tables and figures; the latest session that has one counts.",
        default=None,
    )
    versions: dict[str, str] | None = described("Versions of Python and of packages, by name.", default=None)
    hardware: Hardware | None = described("The machine.", default=None)
    platform: str | None = described("The operating system.", default=None)
    git: Git | None = described("The git checkout that lcbench ran from; null if it was installed.", default=None)
    advice: list[str] = described("Advice of the methods' authors on the options.", default=())
    references: list[str] = described(
        "Files of published figures that the suite names: those that ship with lcbench by name, others by path. The "
        "latest session that has any counts.",
        default=(),
    )
    samples: list[int] = described(
        "The planned number of samples of each cell in `identity.jobs`, in that order.", default=()
    )
    process: int | None = described("Index of the process among several.", least=0, default=None)
    processes: int | None = described(
        "Number of processes that share the run.", unit="processes", least=1, default=None
    )
    tensor_parallel: bool | None = described("Whether each process has a shard of one model.", default=None)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`run.json`; `content` is all of it, as stored."""

    format: int = described("Version of the folder's layout: 1.")
    identity: RunIdentity = described("What determines the records.")
    sessions: list[Session] = described("The processes that wrote records, in order.")
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str | None:
        """The model's name in tables: by default, as typed."""
        names = [session.model_name for session in self.sessions if session.model_name]
        return names[-1] if names else self.identity.model

    @property
    def references(self) -> tuple[str, ...]:
        """The files of published figures that tables show beside the run."""
        named = [session.references for session in self.sessions if session.references]
        return tuple(named[-1]) if named else ()

    def missing(self, records: Iterable[Record]) -> int:
        """The number of samples that the last session planned and that have no record, failed cells excluded. 0 if
        run.json does not say."""
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
