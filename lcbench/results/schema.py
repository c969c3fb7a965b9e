"""A record: every field with its type, its unit and what it means, here and nowhere else.

In memory a record has parts; on disk it is one flat object a line, of the same names (`Record.as_json`). Fields that
are unknown here, of another version or of a task of one's own, are kept as they are. `docs/records.md` is generated
from this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.fields import Reader, as_json, described, made, unknown

BEFORE = "scores_before_rescoring"
_SCORE = {int, float, bool, str}
TOO_LARGE = 1e150  # for a score: its square would overflow


def _scores(value: Any) -> Any:
    if type(value) is not dict or not _SCORE.issuperset(map(type, value.values())):
        raise FieldError("must be an object of numbers")
    for one in value.values():
        if type(one) is int and not -TOO_LARGE < one < TOO_LARGE:
            raise FieldError("must be an object of numbers that a float can hold")
    return value


def _reason(value: Any) -> Any:
    if value is None or (type(value) is str and value):
        return value
    raise FieldError("must be null, or a text that says why the sample failed")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which sample of which run it is."""

    id: str = described("Task, method, cell and number of the sample: the same in every run that has it.")
    task: str = described("The task as typed, with its options.")
    method: str = described("The method as typed, with its options.")
    method_options: dict[str, Any] = described("All options of the method, defaults worked out for this length.")
    model: str = described("The model as typed: a name, a Hugging Face id, a folder or a GGUF file.")
    seq_len: int = described(
        "Length of the cell: prompt and answer together; 0 where it is not known, of a run that was imported.",
        unit="tokens",
        least=0,
    )
    cell_depth: float | None = described(
        "Depth of the needle in the cell, from 0 to 1; null: drawn at random.", most=1, least=0
    )
    depth: float | None = described(
        "Depth of the needle as it is, from 0 to 1; null without a needle.", most=1, least=0
    )
    sample: int = described("Number of the sample in its cell, from 0.", least=0)
    repeat: int | None = described(
        "Which of several answers to the sample it is, from 0; null: the only one.", least=0, default=None
    )
    seed: int = described("What the sample was drawn from; the same for all methods.")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model was given."""

    prompt_sha256: str = described("Hash of the prompt's token ids, each as 8 bytes, little-endian.")
    prompt_tokens: int = described("Length of the prompt.", unit="tokens", least=0)
    max_new_tokens: int = described("Most that an answer may have.", unit="tokens", least=0)
    think_budget: int | None = described(
        "Most that a thought before the answer may have, its end included; null: none was asked for.",
        unit="tokens",
        least=0,
        default=None,
    )
    references: list[str] = described("Right answers; none for a likelihood.")
    details: dict[str, Any] | None = described(
        "What a score or a table needs beyond that, by the task: `document`, `row`, `draw`, `classes`.", default=None
    )
    document: str | None = described("Title of the text whose likelihood was measured.", default=None)
    protocol: str | None = described("How its windows were laid, with what follows from the length.", default=None)
    chat: bool | None = described("Whether it is in the tokenizer's chat template.", default=None)
    first_token: str | None = described("The first token: a BOS, or what stands there instead.", default=None)
    excerpt: list[str] | None = described("Parts of the prompt: its start, around the needle, its end.", default=None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said."""

    output_tokens: int = described(
        "Length of the answer, its end token included; 0 where nothing was generated.", unit="tokens", least=0
    )
    prediction: str = described("The answer; of several choices the most likely one; empty for a likelihood.")
    finish_reason: str | None = described(
        "Why the answer ended: `stop` (an end token), `stop_string` (of the task), `length` (its budget), "
        "`stop_or_string` where a server does not tell the first two apart; a server may say something else.",
        default=None,
    )
    reasoning: str | None = described(
        "The thought before the answer, as the model wrote it; null without one.", default=None
    )
    reasoning_tokens: int | None = described("Its length.", unit="tokens", least=0, default=None)
    reasoning_cut: bool | None = described(
        "Whether it did not end within its budget; one with a budget of its own was ended for the model, others have "
        "no answer. Null where a server does not tell.",
        default=None,
    )
    answer: str | None = described("What was scored, where that is a part of the prediction.", default=None)
    scorer: str | None = described(
        "The official metric, where a corpus's score is not the mean of its rows'.", default=None
    )
    choices: dict[str, float] | None = described(
        "ln p of each choice that had to be scored: the sum over its tokens, in nats.", default=None
    )


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of a text (`nll`); none for an answer."""

    file: str = described("File in the run's folder with the likelihood of every token (`lcbench.results.nll`).")
    averaging: str = described("Whether all `tokens` count the same, or all `windows`.")
    tokens: int = described("Scored tokens.", unit="tokens", least=1)
    bytes: int = described("Size of the scored text in UTF-8.", unit="bytes", least=0)
    words: int = described("Words of the scored text, between white space.", unit="words", least=0)
    buckets: list[tuple[int, int, float, int]] = described(
        "By position in the window: [first position, last position, summed negative log-likelihood in nats, tokens]."
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the sample took (`cost`)."""

    prefill_seconds: float = described(
        "Time of the prompt, or of a text whose likelihood it is.", unit="seconds", least=0
    )
    decode_seconds: float = described(
        "Time of the answer; of a batch of answers an even share.", unit="seconds", least=0
    )
    cpu_seconds: float | None = described(
        "CPU time of the process over all its threads, in the prefill and decode seconds; less than these where other "
        "programs had the processor.",
        unit="seconds",
        least=0,
        default=None,
    )
    peak_memory_bytes: int | None = described(
        "Most memory that was allocated: on a GPU by torch, else by the process; null where another program runs the "
        "model.",
        unit="bytes",
        least=0,
    )
    way: str | None = described(
        "How a likelihood was computed: `cached` or `layerwise`, and why.", key="pass", default=None
    )
    reused_tokens: int = described(
        "Tokens of the prompt that were not computed, as another sample begins with them; records without it computed "
        "all.",
        unit="tokens",
        least=0,
        default=0,
    )
    decoded_together: int | None = described(
        "Answers that were decoded as one batch, whose peak memory this is.", least=1, default=None
    )
    reuse_difference: float | None = described(
        "By how much the reused part of a likelihood differs from a pass of its own; null if nothing was reused.",
        unit="nats a token",
        default=None,
        along="way",
    )
    prefill_chunk: int | None = described("Most tokens of the prompt in a call.", unit="tokens", least=1, default=None)
    attention: list[str] | None = described(
        "The backends that computed the attention; `sparse` stands for prompts of which a method reads a part, `chosen "
        "keys` for answers over the keys or pages that it chose.",
        default=None,
    )
    sent_as: str | None = described(
        "How a prompt went to a server: as `token_ids`, as `text`, or as the user's turn of a `chat`, around which the "
        "server put its own template.",
        default=None,
    )
    prompt_difference: int | None = described(
        "Tokens of the prompt by the server's count, less those that were sent: below 0 it was cut; null where the "
        "server does not say.",
        unit="tokens",
        default=None,
    )
    first_token_seconds: float | None = described(
        "Time to the first token of an answer as the client sees it, waiting in the server's queue included.",
        unit="seconds",
        least=0,
        default=None,
    )
    retries: int | None = described("Requests that had to be repeated.", unit="requests", least=0, default=None)
    kept_keys: float | None = described(
        "Keys of the prompt that a KV head keeps for the answer, on average; null: all of them.",
        unit="keys",
        least=0,
        default=None,
    )
    density: float | None = described(
        "Share of the pairs of query and key in the prompt, as the positions show them, that attention computed; null: "
        "all of them.",
        least=0,
        most=1,
        default=None,
    )
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good a sample is: the numbers that the metric gave it."""

    scores: dict[str, Any] = described(
        "Scores by name: numbers, and parts of a score that are texts; one that is not a finite number counts as none.",
        check=_scores,
        wanted="an object of numbers",
    )
    metric: str = described("The score that counts: `scores.<metric>`.")

    def number(self, name: str) -> float | None:
        """The score of this name; None if it is missing or not a finite number."""
        score = self.scores.get(name)
        return float(score) if isinstance(score, int | float) and abs(score) < TOO_LARGE else None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where a record is from that another harness made (`imported`). The hash of its prompt is that of the text, and
    its seed is made of the sample's document."""

    harness: str = described("The harness whose log it was in: `lm_eval` or `inspect_ai`.")
    unknown: list[str] = described("Fields that the log does not tell, and that stand here as 0.")
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
    """One sample of a run: which it is, what the model was given, and the result, or why it failed."""

    identity: Identity
    prompt: Prompt
    result: Result | None = None
    error: str | None = described("Why the sample failed; null if it did not.", check=_reason, wanted="a text or null")
    skipped: bool | None = described(
        "Whether the sample was left out since its document does not fit whole; `error` says by how much.", default=None
    )
    layers_steered: int | None = described(
        "Layers whose attention the method computed.", unit="layers", least=0, default=None
    )
    equals: str | None = described(
        "`vanilla`, where the method changes nothing at this length: neither positions nor frequencies nor scores.",
        default=None,
    )
    taken_from: str | None = described(
        "The `id` of the equal record of this run whose result and cost these are; none where it was computed.",
        default=None,
    )
    imported: Imported | None = described("Of a record that another harness made: where it is from.", default=None)
    session: int | None = described("Which session of run.json wrote it, from 0.", least=0, default=None)
    scores_before_rescoring: list[Scores] | None = described(
        "What `lcbench rescore` replaced, oldest first: objects of `scores` and `metric`.", default=None
    )
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        """The record of an object that `as_json` of this or an older lcbench wrote. Raises: FieldError."""
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
        """One flat object, in the order in which a run writes it."""
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
        """Whether the sample has no prompt: its row is at fault, or was left out, and not the model or the method."""
        return self.error is not None and not self.prompt.prompt_tokens

    @property
    def question(self) -> tuple[float | None, int | str]:
        """What is drawn at random, and answered once or several times: the sample at its depth, of any repeat; where
        rows are asked after several draws of demonstrations, the row after any of them."""
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
        """The score that counts; None for a sample that failed, or has no finite number there."""
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
