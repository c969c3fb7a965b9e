"""The interface of an engine: what measures need of a model, whatever runs it.

An engine generates from token ids, gives the log-likelihoods of continuations, and the likelihood of a text token by
token. A host is a model that is ready, opened once a run; it gives an engine for each method and length. A source says
which model it will be: a plan is made with it, before anything is loaded.
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

UNKNOWN_STOP = "stop_or_string"  # an ending: an end token or a stop string, which a server does not tell apart
AT_ONCE = 16  # prompts in a batch, for engines that take several at once


@dataclass(frozen=True)
class PromptRequest:
    """Token ids to continue by at most `max_new_tokens`, in a cell of length `seq_len`.

    The output ends at any of the tokens `end_tokens`, besides those that the model ends with, or soon after one of the
    strings `stop`. With `sampling` it is drawn, by `seed` alone, else greedy. `on_prefill` is called with the number of
    prompt tokens in the KV cache, as far as that is known.
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
    """What calls of an engine took; the fields are those of a record's cost (lcbench.results.schema.Cost)."""

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
        """The sum of seconds and tokens of at least one call, the largest peak, and the first value of whatever is not
        an amount."""
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
    """ln p of continuations, by name, summed over their tokens, in nats; at least of the most likely one."""

    logs: dict[str, float]
    cost: CallCost


@dataclass(frozen=True)
class TextScores:
    """Negative log-likelihoods nll [n], float32, in nats."""

    nll: np.ndarray
    cost: CallCost


class Engine(ABC):
    """A model under one method, up to one length. Failed calls raise; one out of memory may be repeated after
    `take_less_memory`."""

    concurrency: int = 1  # calls that may run at the same time, each in a thread
    layers_steered: int | None = None  # layers whose attention the method computes; known inside the block
    backends: Sequence[str] | None = None  # that have computed attention so far

    @abstractmethod
    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        """Continuations. If `shared`, prefixes may be reused from the previous prompts, and by the next."""

    @abstractmethod
    def continuations(self, request: PromptRequest, choices: Mapping[str, list[int]]) -> ContinuationScores:
        """The log-likelihoods of token ids, given by name, after a prompt; `max_new_tokens` is the most that any of
        them has. Continuations that cannot be the most likely one may be left out."""

    @abstractmethod
    def read(
        self, tokens: list[int], first: int, seq_len: int, on_prefill: Callable[[float], None] | None = None
    ) -> TextScores:
        """-ln p(token | all tokens before it) of tokens[first:], 1 <= first < len(tokens). `on_prefill` is called with
        the share of the work that is done, as far as that is known."""

    def together(self, requests: Iterable[PromptRequest]) -> int:
        """How many of the first of these requests a call of `generate` should have; at least one."""
        return 1

    def release(self) -> None:
        """Called after a failed call, once nothing refers to its tensors any more."""
        return

    def take_less_memory(self, requests: Sequence[PromptRequest]) -> str | None:
        """Called after a call with these requests ran out of memory: take less in later calls at this length. In words
        what was reduced; None if nothing is left to reduce."""
        return None


class Host(ABC):
    """A model that is ready to be asked."""

    def follows_length(self, methods: Iterable[tuple[Method, int]]) -> bool:
        """Whether the keys of a prefix depend on the length of the run whatever the method. Every method is tried, at
        the length given with it, so that one that does not fit is refused before anything runs. Raises: UserError."""
        return False

    @abstractmethod
    def engine(
        self, method: Method, seq_len: int, lengths: Sequence[int], *, shares: bool
    ) -> AbstractContextManager[Engine]:
        """An engine for runs of up to `seq_len` tokens under a resolved method.

        If `shares`, the keys of a prefix do not depend on what follows it, and prompts with a common prefix come one
        after another, the longer before the shorter. `lengths` are all lengths of the run at which the method is so.
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
    """What is known of a model before it is loaded: the length that it was trained at, or None; more if it is `local`;
    `limit` is the most tokens that prompt and output together may have, None for any number. `notes` should be read
    before a run."""

    trained: int | None
    local: LocalModel | None = None
    limit: int | None = None
    notes: Sequence[str] = ()


class Source(ABC):
    """Which model, and what runs it, as given on the command line."""

    name: str
    display_name: str | None = None  # what tables and figures call the model, if not by its label
    tensor_parallel: bool = False  # whether each process has a shard of the model
    own_template: bool = False  # whether the engine puts its own chat template around a prompt

    @property
    def label(self) -> str:
        """What records call the model."""
        return self.name

    @abstractmethod
    def check(self) -> None:
        """Check what can be checked in a moment, before PyTorch is imported. Raises: UserError."""

    @abstractmethod
    def methods(self, typed: Sequence[str] | None) -> list[Method]:
        """The methods to run with, None: the default. Raises: UserError for one that is unknown or not possible."""

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
        """What decides the records of a run, beside tasks and seeds."""

    def provenance(self) -> dict[str, Any]:
        """What a session of the run should say of the engine."""
        return {}

    @abstractmethod
    def open_host(self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts, attention: AttentionOptions) -> Host:
        """The model, ready. Raises: UserError."""
