"""The interface of an engine: what measures need from a model, whatever runs it.

An engine generates from token ids, computes log-likelihoods of continuations, and the per-token likelihoods of a text.
A host is a loaded model, opened once per run; it provides an engine for each method and length. A source names the
model: a plan is made from it, before anything is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcbench.engine.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from lcbench.attention.options import AttentionOptions
    from lcbench.engine.footprint import Footprint
    from lcbench.methods import Method

UNKNOWN_STOP = "stop_or_string"  # finish reason of servers that do not tell an end token from a stop string
AT_ONCE = 16  # prompts per batch, for engines that batch


@dataclass(frozen=True)
class PromptRequest:
    """Token ids to continue by at most `max_new_tokens`, in a cell of length `seq_len`.

    The output ends at any of `end_tokens` or the model's own end tokens, or soon after one of the strings `stop`. With
    `sampling` it is sampled, depending on `seed` alone; otherwise it is greedy. `on_prefill` is called with the number
    of prompt tokens in the KV cache, where that is known.
    """

    tokens: list[int]
    seq_len: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()
    sampling: Sampling | None = None
    seed: int = 0
    on_prefill: Callable[[int], None] | None = None


@dataclass(frozen=True)
class CallCost:
    """The cost of engine calls; the fields are those of a record's cost (lcbench.results.schema.Cost)."""

    prefill_seconds: float
    decode_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    way: str | None = None
    reused_tokens: int = 0
    decoded_together: int | None = None
    reuse_difference: float | None = None
    prefill_chunk: int | None = None
    sent_as: str | None = None
    prompt_difference: int | None = None
    first_token_seconds: float | None = None
    retries: int | None = None
    kept_keys: float | None = None
    density: float | None = None

    @classmethod
    def total(cls, costs: Sequence[CallCost]) -> CallCost:
        """The total of at least one call: sums of seconds and tokens, the largest peak memory, and the first call's
        value of all other fields."""
        ways = sorted({cost.way for cost in costs if cost.way is not None})
        differences = [cost.reuse_difference for cost in costs if cost.reuse_difference is not None]
        peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
        longer = [cost.prompt_difference for cost in costs if cost.prompt_difference is not None]
        retries = [cost.retries for cost in costs if cost.retries is not None]
        return cls(
            prefill_seconds=round(sum(cost.prefill_seconds for cost in costs), 6),
            decode_seconds=round(sum(cost.decode_seconds for cost in costs), 6),
            peak_memory_bytes=max(peaks, default=None),
            way=" and ".join(ways) or None,
            reused_tokens=sum(cost.reused_tokens for cost in costs),
            decoded_together=costs[0].decoded_together,
            reuse_difference=differences[0] if differences else None,
            prefill_chunk=costs[0].prefill_chunk,
            sent_as=costs[0].sent_as,
            prompt_difference=sum(longer) if longer else None,
            first_token_seconds=costs[0].first_token_seconds,
            retries=sum(retries) if retries else None,
            kept_keys=costs[0].kept_keys,
            density=costs[0].density,
        )


@dataclass(frozen=True)
class Output:
    """The generated text, its number of tokens, and why it ended: `stop` (an end token), `stop_string`, `length` (its
    budget), or UNKNOWN_STOP. The text may go on behind a stop string. `thought` is what a server split from it."""

    text: str
    tokens: int
    finish_reason: str | None
    cost: CallCost
    thought: str | None = None


@dataclass(frozen=True)
class ContinuationScores:
    """ln p of continuations by name, summed over their tokens, in nats; at least the most likely one is present."""

    logs: dict[str, float]
    cost: CallCost


@dataclass(frozen=True)
class TextScores:
    """Negative log-likelihoods nll [n], float32, in nats."""

    nll: np.ndarray
    cost: CallCost


class Engine(ABC):
    """A model under one method, up to one length. Failed calls raise; a call that ran out of memory may be repeated
    after `take_less_memory`."""

    concurrency: int = 1  # calls that may run at the same time, each in a thread
    layers_steered: int | None = None  # layers whose attention is computed under the method; known inside the block
    backends: Sequence[str] | None = None  # attention backends used so far

    @abstractmethod
    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        """Continuations of the prompts. If `shared`, prefixes may be reused from previous prompts and by later ones."""

    @abstractmethod
    def continuations(self, request: PromptRequest, choices: Mapping[str, list[int]]) -> ContinuationScores:
        """The log-likelihoods of the choices (token ids by name) after a prompt; `max_new_tokens` is the length of the
        longest. Choices that cannot be the most likely one may be left out."""

    @abstractmethod
    def read(
        self, tokens: list[int], first: int, seq_len: int, on_prefill: Callable[[float], None] | None = None
    ) -> TextScores:
        """-ln p(token | all tokens before it) of tokens[first:], 1 <= first < len(tokens). `on_prefill` is called with
        the share of the work done (0 to 1), where that is known."""

    def together(self, requests: Iterable[PromptRequest]) -> int:
        """How many of these requests, from the first, to pass to one call of `generate`; at least one."""
        return 1

    def release(self) -> None:
        """Free memory after a failed call, once nothing refers to its tensors any more."""
        return

    def take_less_memory(self, requests: Sequence[PromptRequest]) -> str | None:
        """Reduce the memory of later calls at this length, after one with these requests ran out of it. Returns in
        words what was reduced; None if nothing can be."""
        return None


class Host(ABC):
    """A loaded model that provides engines."""

    def follows_length(self, methods: Iterable[tuple[Method, int]]) -> bool:
        """Whether the model makes a prefix's keys depend on the length of the run, whatever the method. Every method is
        applied once at its length, so that one that does not fit is refused before anything runs. Raises: UserError."""
        return False

    @abstractmethod
    def engine(
        self, method: Method, seq_len: int, lengths: Sequence[int], *, shares: bool
    ) -> AbstractContextManager[Engine]:
        """An engine for runs of up to `seq_len` tokens under a resolved method.

        If `shares`, the keys of a prefix do not depend on what follows it, and prompts with a common prefix come one
        after another, longer ones first. `lengths` are all the run's lengths at which the method resolves alike.
        """


@dataclass(frozen=True)
class LocalModel:
    """A model that will run in this process: its config, its memory footprint, its dtype, the device of its input, and
    the inverse frequencies of its rotary modules (`lcbench.attention.probe.own_frequencies`)."""

    config: PretrainedConfig
    footprint: Footprint
    dtype: torch.dtype
    device: torch.device
    frequencies: list[torch.Tensor] | None


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is loaded: its trained length, or None; more if it is `local`; `limit` is the
    largest number of tokens of prompt and output together, None if unlimited. `notes` are shown before a run."""

    trained: int | None
    local: LocalModel | None = None
    limit: int | None = None
    notes: Sequence[str] = ()


class Source(ABC):
    """Which model, and what runs it, as given on the command line."""

    name: str
    display_name: str | None = None  # the model's name in tables and figures, if not its label
    tensor_parallel: bool = False  # whether each process has a shard of the model
    own_template: bool = False  # whether the engine applies its own chat template to a prompt

    @property
    def label(self) -> str:
        """The model's name in records."""
        return self.name

    @abstractmethod
    def check(self) -> None:
        """Quick checks, before PyTorch is imported. Raises: UserError."""

    @abstractmethod
    def methods(self, typed: Sequence[str] | None) -> list[Method]:
        """The methods to run with; `typed` None means the default. Raises: UserError for unknown or impossible ones."""

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError for a model without tokenizer."""

    @abstractmethod
    def inspect(self, tokenizer: PreTrainedTokenizerBase, attention: AttentionOptions) -> ModelFacts:
        """Raises: UserError for a model that cannot be run as asked."""

    def require(self, measures: Collection[str]) -> None:
        """Raises: UserError if the engine cannot measure one of them: answer, choice or likelihood."""
        return

    @abstractmethod
    def identity(self, facts: ModelFacts) -> dict[str, Any]:
        """The engine's part of a run's identity: what determines its records, beside tasks and seeds."""

    def provenance(self) -> dict[str, Any]:
        """The engine's versions and settings, recorded with each session of a run."""
        return {}

    @abstractmethod
    def open_host(self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts, attention: AttentionOptions) -> Host:
        """Load the model. Raises: UserError."""
