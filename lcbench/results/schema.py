"""A record: the single definition of its fields, with types, units and meanings.

In memory a record has parts; on disk it is one flat object per line, with the same names (`Record.as_json`). Unknown
fields, from another version or a user's task, are kept as they are. `docs/records.md` is generated from this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.fields import Reader, as_json, described, made, unknown

BEFORE = "scores_before_rescoring"
_SCORE = {int, float, bool, str}
TOO_LARGE = 1e150  # of a score: its square would overflow


def _scores(value: Any) -> Any:
    if type(value) is not dict or not _SCORE.issuperset(map(type, value.values())):
        raise FieldError("must be an object of numbers")
    for one in value.values():
        if type(one) is int and not -TOO_LARGE < one < TOO_LARGE:
            raise FieldError("must be an object of numbers in the range of a float")
    return value


def _reason(value: Any) -> Any:
    if value is None or (type(value) is str and value):
        return value
    raise FieldError("must be null, or a text with the reason of the failure")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which sample it is."""

    id: str = described("Task, method, cell and number of the sample; the same in every run.")
    task: str = described("The task as typed, with its options.")
    method: str = described("The method as typed, with its options.")
    method_options: dict[str, Any] = described("All options of the method, with the defaults for this length.")
    model: str = described("The model as typed: a name, a Hugging Face id, a folder or a GGUF file.")
    seq_len: int = described(
        "Length of the cell, prompt and answer together; 0 if unknown, in an imported run.",
        unit="tokens",
        least=0,
    )
    cell_depth: float | None = described(
        "Needle depth of the cell, from 0 to 1; null: drawn at random.", most=1, least=0
    )
    depth: float | None = described("Actual depth of the needle, from 0 to 1; null without a needle.", most=1, least=0)
    sample: int = described("Number of the sample in its cell, from 0.", least=0)
    repeat: int | None = described(
        "Index among several answers to the sample, from 0; null: the only one.", least=0, default=None
    )
    seed: int = described("Seed of the sample; the same for all methods.")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt."""

    prompt_sha256: str = described("Hash of the prompt's token ids, each as 8 bytes, little-endian.")
    prompt_tokens: int = described("Length of the prompt.", unit="tokens", least=0)
    max_new_tokens: int = described("Largest length of the answer.", unit="tokens", least=0)
    think_budget: int | None = described(
        "Largest length of a thought before the answer, end marker included; null: no thought.",
        unit="tokens",
        least=0,
        default=None,
    )
    references: list[str] = described("Correct answers; empty for a likelihood.")
    details: dict[str, Any] | None = described(
        "Further data for scores and tables, by the task: `document`, `row`, `draw`, `classes`.", default=None
    )
    document: str | None = described("Title of the text whose likelihood was measured.", default=None)
    protocol: str | None = described("How the text was split into windows at this length.", default=None)
    chat: bool | None = described("Whether the prompt is in the tokenizer's chat template.", default=None)
    first_token: str | None = described("The first token: a BOS, or what is there instead.", default=None)
    excerpt: list[str] | None = described("Parts of the prompt: its start, around the needle, its end.", default=None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The model's answer."""

    output_tokens: int = described(
        "Length of the answer, its end token included; 0 where nothing was generated.", unit="tokens", least=0
    )
    prediction: str = described("The answer; of several choices the most likely one; empty for a likelihood.")
    finish_reason: str | None = described(
        "Why the answer ended: `stop` (an end token), `stop_string` (of the task), `length` (its budget), "
        "`stop_or_string` (the server does not tell which of the two), or a server's own word.",
        default=None,
    )
    reasoning: str | None = described(
        "The thought before the answer, as the model wrote it; null without one.", default=None
    )
    reasoning_tokens: int | None = described("Its length.", unit="tokens", least=0, default=None)
    reasoning_cut: bool | None = described(
        "Whether the thought did not end within its budget: with a budget of its own it was closed for the model, else "
        "there is no answer. Null if a server does not say.",
        default=None,
    )
    answer: str | None = described("What was scored, if it is a part of the prediction.", default=None)
    scorer: str | None = described(
        "The official metric, if a corpus's score is not the mean over its rows.", default=None
    )
    choices: dict[str, float] | None = described(
        "ln p of each choice that had to be scored: the sum over its tokens, in nats.", default=None
    )


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of a text (`nll`)."""

    file: str = described("File in the run's folder with the per-token likelihoods (`lcbench.results.nll`).")
    averaging: str = described("What has equal weight in the mean: `tokens` or `windows`.")
    tokens: int = described("Scored tokens.", unit="tokens", least=1)
    bytes: int = described("Size of the scored text in UTF-8.", unit="bytes", least=0)
    words: int = described("Words of the scored text, separated by white space.", unit="words", least=0)
    buckets: list[tuple[int, int, float, int]] = described(
        "By position in the window: [first position, last position, summed negative log-likelihood in nats, tokens]."
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of the sample (`cost`)."""

    prefill_seconds: float = described("Prefill time of the prompt, or time of a likelihood.", unit="seconds", least=0)
    decode_seconds: float = described(
        "Decode time of the answer; for a batch, an equal share.", unit="seconds", least=0
    )
    cpu_seconds: float | None = described(
        "CPU time of all threads of the process during prefill and decode; less than these if other programs used the "
        "processor.",
        unit="seconds",
        least=0,
        default=None,
    )
    peak_memory_bytes: int | None = described(
        "Peak memory: on a GPU allocated by torch, else of the process; null if another program runs the model.",
        unit="bytes",
        least=0,
    )
    way: str | None = described(
        "How a likelihood was computed: `cached` or `layerwise`, and why.", key="pass", default=None
    )
    reused_tokens: int = described(
        "Prompt tokens reused from the KV cache of another sample; records without it computed all.",
        unit="tokens",
        least=0,
        default=0,
    )
    decoded_together: int | None = described(
        "Answers that were decoded as one batch, to which the peak memory belongs.", least=1, default=None
    )
    reuse_difference: float | None = described(
        "Difference of a reused likelihood from a separate pass; null if nothing was reused.",
        unit="nats per token",
        default=None,
        along="way",
    )
    prefill_chunk: int | None = described(
        "Largest number of prompt tokens per forward pass.", unit="tokens", least=1, default=None
    )
    attention: list[str] | None = described(
        "The attention backends used; `sparse` stands for sparse prefill, `chosen keys` for answers over the keys or "
        "pages that a method chose.",
        default=None,
    )
    sent_as: str | None = described(
        "How the prompt was sent to a server: as `token_ids`, as `text`, or as the user's turn of a `chat`, in the "
        "server's own template.",
        default=None,
    )
    prompt_difference: int | None = described(
        "Prompt tokens counted by the server minus those sent; negative: the prompt was truncated; null if the server "
        "does not say.",
        unit="tokens",
        default=None,
    )
    first_token_seconds: float | None = described(
        "Time to first token as seen by the client, the server's queue included.",
        unit="seconds",
        least=0,
        default=None,
    )
    retries: int | None = described("Number of retries.", unit="requests", least=0, default=None)
    kept_keys: float | None = described(
        "Mean number of prompt keys that a KV head keeps for the answer; null: all of them.",
        unit="keys",
        least=0,
        default=None,
    )
    density: float | None = described(
        "Share of the prompt's query-key pairs in the method's pieces that attention computed; null: all of them.",
        least=0,
        most=1,
        default=None,
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a sample."""

    scores: dict[str, Any] = described(
        "Scores by name: numbers, or texts that are parts of a score; anything but a finite number counts as missing.",
        check=_scores,
        wanted="an object of numbers",
    )
    metric: str = described("The score that counts: `scores.<metric>`.")

    def number(self, name: str) -> float | None:
        """The score `name`; None if it is missing or not a finite number."""
        score = self.scores.get(name)
        return float(score) if isinstance(score, int | float) and abs(score) < TOO_LARGE else None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The origin of a record from another harness (`imported`). The hash of its prompt is that of the text, and its
    seed is derived from the sample's document."""

    harness: str = described("The harness that wrote the log: `lm_eval` or `inspect_ai`.")
    unknown: list[str] = described("Fields that the log lacks, which are 0 here.")
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The measurement of a sample that did not fail."""

    answer: Answer
    scores: Scores
    nll: Likelihood | None = described("The likelihood of a text.", default=None)
    cost: Cost = described("What the sample took.")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One sample of a run: its identity, the prompt, and the result or the reason why it failed."""

    identity: Identity
    prompt: Prompt
    result: Result | None = None
    error: str | None = described("Why the sample failed; null if it did not.", check=_reason, wanted="a text or null")
    skipped: bool | None = described(
        "Whether the sample was left out because its document does not fit; `error` says by how much.", default=None
    )
    layers_steered: int | None = described(
        "Number of layers whose attention the method changed.", unit="layers", least=0, default=None
    )
    equals: str | None = described(
        "`vanilla` if the method changes nothing at this length: no positions, frequencies or score scales.",
        default=None,
    )
    taken_from: str | None = described(
        "The `id` of the equal record of this run from which result and cost were taken; missing if computed.",
        default=None,
    )
    imported: Imported | None = described("Origin of a record from another harness.", default=None)
    session: int | None = described("Index of the session in run.json that wrote it, from 0.", least=0, default=None)
    scores_before_rescoring: list[Scores] | None = described(
        "Scores that `lcbench rescore` replaced, oldest first: objects with `scores` and `metric`.", default=None
    )
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        """The record of an object written by `as_json` of this or an older version. Raises: FieldError."""
        identity, prompt, own = _IDENTITY(content), _PROMPT(content), _OWN.fields(content)
        if identity.seq_len == 0 and own["imported"] is None:
            raise FieldError("must be a whole number of tokens from 1 up, not 0", "seq_len")
        result, known = None, _ALWAYS
        if own["error"] is None:
            parts = {"answer": _ANSWER(content), "scores": _SCORES(content)}
            result, known = made(Result, _RESULT.fields(content) | parts), _KNOWN
        rest = unknown(content, known)
        return made(cls, own | {"identity": identity, "prompt": prompt, "result": result, "extra": rest})

    def as_json(self) -> dict[str, Any]:
        """One flat object, with the fields in the order in which a run writes them."""
        own, done = as_json(self), {}
        if self.result is not None:
            done = as_json(self.result.answer) | as_json(self.result.scores) | as_json(self.result)
        cost = {"cost": done.pop("cost")} if done else {}
        error = {"error": own.pop("error")}
        return {**as_json(self.identity), **as_json(self.prompt), **done, **error, **cost, **own}

    @property
    def failed(self) -> bool:
        """Whether the sample failed; one that was left out did not."""
        return self.error is not None and not self.skipped

    @property
    def row_failed(self) -> bool:
        """Whether the sample has no prompt: its row is unusable or was left out."""
        return self.error is not None and not self.prompt.prompt_tokens

    @property
    def question(self) -> tuple[float | None, int | str]:
        """The unit of random sampling, answered once or several times: the sample at its depth, in any repeat; for rows
        with several draws of demonstrations, the row with any of them."""
        details = self.prompt.details or {}
        row = details.get("row") if "draw" in details else None
        return self.identity.cell_depth, self.identity.sample if row is None else str(row)

    @property
    def measured(self) -> Result:
        """The result of a sample that did not fail."""
        if self.result is None:
            raise ValueError(f"{self.identity.id} failed: {self.error}")
        return self.result

    @cached_property
    def score(self) -> float | None:
        """The score of `metric`; None for a sample that failed, or if it is not a finite number."""
        if self.result is None:
            return None
        return self.result.scores.number(self.result.scores.metric)

    @cached_property
    def failure(self) -> str | None:
        """Why the sample has no score; None if it has one."""
        if self.result is None:
            return self.error if self.failed else None
        return f"no {self.result.scores.metric}" if self.score is None else None


_IDENTITY, _PROMPT, _ANSWER, _SCORES = Reader(Identity), Reader(Prompt), Reader(Answer), Reader(Scores)
_RESULT, _OWN = Reader(Result), Reader(Record)
_ALWAYS = _IDENTITY.known | _PROMPT.known | _OWN.known
_KNOWN = _ALWAYS | _ANSWER.known | _SCORES.known | _RESULT.known
