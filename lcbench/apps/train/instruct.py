"""Instruction tuning in LongLLaMA's format (`lcbench train instruct`), with memory (`--method fot`) or without.

    instructions  start [pre_prompt prompt post_prompt] pre_question question post_question
                  | pre_response response post_response eos        the loss counts after the bar
    chat          start initial_prompt, then turns: human_prefix text, or model_prefix | text eos |

The start is what the tokenizer puts before every text, a BOS or nothing: the same that stands before a prompt of a run.
A sample is cut to its limits and padded to the longest, at the left and right by chance: so the border between the last
context and memory falls anywhere in the samples (the window ends `last_context_length` tokens before the end).

Tworkowski et al., `instruction_fine_tuning` of https://github.com/CStanKonrad/long_llama. There both sides of padding
are hidden from attention. Here only the left one is: after the end of a text nothing is predicted, and causal
attention hides it from the text before. There, the mask of a chat also hides every eos, which we take for an oversight.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lcbench.apps.train.lm import described, next_token_loss, trained_through
from lcbench.apps.train.loop import Schedule, fit, process_index, step_seed
from lcbench.apps.train.progress import TrainingProgress
from lcbench.core.errors import UserError, unknown
from lcbench.core.specs import convert_options
from lcbench.core.tokens import prompt_prefix
from lcbench.data.texts import read_rows
from lcbench.data.values import RawRow
from lcbench.engine.models import ModelSource
from lcbench.methods.trained_length import trained_length

Tokens = list[int]


class Sample(NamedTuple):
    """Token ids, and which of them the loss counts."""

    ids: Tokens
    counted: list[bool]


@dataclass(frozen=True)
class InstructionFormat:
    """Names of columns, and the texts around their contents. The prompt may be missing."""

    prompt_field: str = "prompt"
    question_field: str = "question"
    response_field: str = "response"
    pre_prompt: str = ""
    post_prompt: str = "\n"
    pre_question: str = ""
    post_question: str = "\n"
    pre_response: str = ""
    post_response: str = ""

    def texts(self, row: RawRow) -> tuple[str, str]:
        """The question and the response. Raises: UserError for a missing column."""
        question = f"{self.pre_question}{_text(row, self.question_field)}{self.post_question}"
        if row.get(self.prompt_field) is not None:
            question = f"{self.pre_prompt}{_text(row, self.prompt_field)}{self.post_prompt}{question}"
        return question, f"{self.pre_response}{_text(row, self.response_field)}{self.post_response}"


@dataclass(frozen=True)
class ChatFormat:
    """Names of columns, which speaker is the model, and the texts before the first turn and before each turn."""

    conversations_field: str = "conversations"
    text_field: str = "value"
    source_field: str = "from"
    model_source: str = "gpt"
    initial_prompt: str = "You are a helpful ASSISTANT.\n\n"
    human_prefix: str = "\nUSER: "
    model_prefix: str = "\nASSISTANT: "

    def turns(self, row: RawRow) -> list[tuple[str, bool]]:
        """The texts, and whether each is the model's. Raises: UserError for a missing column."""
        conversation = row[self.conversations_field]
        if not isinstance(conversation, Sequence) or not all(isinstance(turn, dict) for turn in conversation):
            raise UserError(f"{self.conversations_field!r} of a row is not a list of turns.")
        return [
            (_text(turn, self.text_field), _text(turn, self.source_field) == self.model_source) for turn in conversation
        ]


@dataclass(frozen=True)
class Limits:
    """Longest input (with its start), output (with its eos) and whole of a sample, in tokens; a chat has the last."""

    input: int
    output: int
    total: int


@dataclass(frozen=True)
class Formatter:
    """Rows -> samples. A row with the column of conversations is a chat."""

    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    instructions: InstructionFormat = InstructionFormat()
    chat: ChatFormat = ChatFormat()

    def sample(self, row: RawRow) -> Sample:
        """Raises: UserError for a row with missing columns."""
        return self._chat(row) if self.chat.conversations_field in row else self._instruction(row)

    def _instruction(self, row: RawRow) -> Sample:
        instruction, answered = self.instructions.texts(row)
        question = [*self._start, *self._encode(instruction)][: self.limits.input]
        response = [*self._encode(answered), *self._eos][: self.limits.output]
        return self._cut([*question, *response], [False] * len(question) + [True] * len(response))

    def _chat(self, row: RawRow) -> Sample:
        ids = [*self._start, *self._encode(self.chat.initial_prompt)]
        counted = [False] * len(ids)
        for text, of_model in self.chat.turns(row):
            prefix = self._encode(self.chat.model_prefix if of_model else self.chat.human_prefix)
            said = [*self._encode(text), *(self._eos if of_model else [])]
            ids += [*prefix, *said]
            counted += [False] * len(prefix) + [of_model] * len(said)
        return self._cut(ids, counted)

    def _cut(self, ids: Tokens, counted: list[bool]) -> Sample:
        return Sample(ids[: self.limits.total], counted[: self.limits.total])

    def _encode(self, text: str) -> Tokens:
        ids: Tokens = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    @property
    def _start(self) -> Tokens:
        return prompt_prefix(self.tokenizer)

    @property
    def _eos(self) -> Tokens:
        return [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]


class Mix:
    """Rows of several sources, drawn with replacement in proportion."""

    def __init__(self, sources: Sequence[Sequence[RawRow]], proportions: Sequence[float]) -> None:
        """Raises: UserError for another number of proportions than of sources, or one that is not above 0."""
        if len(proportions) != len(sources) or min(proportions) <= 0:
            raise UserError(
                f"give one proportion above 0 for each of the {len(sources)} sources, not {list(proportions)}."
            )
        self._sources, self._proportions = sources, proportions

    def draw(self, rng: random.Random, rows: int) -> list[RawRow]:
        chosen = rng.choices(self._sources, self._proportions, k=rows)
        return [source[int(rng.random() * len(source))] for source in chosen]


class PaddedBatch(NamedTuple):
    """ids, mask (0 at the left padding only) and weights, all [rows, total]."""

    ids: Tensor
    mask: Tensor
    weights: Tensor


def pad(rng: random.Random, samples: Sequence[Sample], total: int, padding: int) -> PaddedBatch:
    """Samples in rows of `total` tokens, their padding split at random between left and right."""
    ids = torch.full((len(samples), total), padding)
    mask, weights = torch.ones_like(ids), torch.zeros(ids.shape)
    for row, sample in enumerate(samples):
        left = int(rng.random() * (total - len(sample.ids) + 1))
        end = left + len(sample.ids)
        ids[row, left:end] = torch.tensor(sample.ids)
        weights[row, left:end] = torch.tensor(sample.counted).float()
        mask[row, :left] = 0
    return PaddedBatch(ids, mask, weights)


@dataclass(frozen=True)
class InstructionTuning:
    """The objective: the responses of `rows` samples a step in each process."""

    mix: Mix
    formatter: Formatter
    rows: int
    seed: int

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.formatter.limits.total

    def batch(self, step: int) -> PaddedBatch:
        """What a step sees. Raises: UserError if its samples have no response left."""
        rng = random.Random(step_seed(self.seed, step, process_index()))
        samples = [self.formatter.sample(row) for row in self.mix.draw(rng, self.rows)]
        if not any(any(sample.counted) for sample in samples):
            raise UserError(
                f"of {self.rows} samples nothing is left to learn: their inputs fill {self.formatter.limits.total} "
                "tokens; lower --max-input-length, or raise --max-total-length."
            )
        tokenizer = self.formatter.tokenizer
        padding = next((id_ for id_ in (tokenizer.pad_token_id, tokenizer.eos_token_id) if id_ is not None), 0)
        return pad(rng, samples, self.formatter.limits.total, padding)

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        ids, mask, weights = (part.to(model.device) for part in self.batch(step))
        # The first token after the padding is predicted from nothing: its weight is 0, since it is never a response.
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return next_token_loss(logits[:, :-1], ids[:, 1:], weights[:, 1:])


def train_instruct(
    source: ModelSource,
    out: Path,
    data: Sequence[str],
    *,
    proportions: Sequence[float] | None = None,
    formats: dict[str, Any] | None = None,
    method: str | None = None,
    max_input_length: int | None = None,
    max_output_length: int | None = None,
    max_total_length: int | None = None,
    steps: int = 4000,
    learning_rate: float = 1e-5,
    batch: int = 16,
    seed: int = 0,
    progress: TrainingProgress | None = None,
) -> Path:
    """Tune a model on instructions and chats, `batch` samples a step and process, through a method where one is given.
    The same call resumes where it stopped.

    `data` are sources as `read_rows` takes them, mixed in `proportions` (default: equal); `formats` may have
    `instructions` and `chat`, the options of `InstructionFormat` and `ChatFormat`. All lengths are the trained length
    unless given. Where the method is `fot`, the config of the result keeps its memory layers and last context length.

    Raises: UserError for proportions, formats or lengths that make no sense, rows with missing columns, and as `fit`,
    `read_rows`, `extend` and `ModelSource` do.
    """
    model, tokenizer = source.model(), source.tokenizer()
    total = trained_length(model.config) if max_total_length is None else max_total_length
    limits = Limits(max_input_length or total, max_output_length or total, total)
    rows = [read_rows(name) for name in data]
    proportions = [1.0] * len(rows) if proportions is None else proportions
    instructions, chat = read_formats(formats or {})
    recipe = {
        "kind": "instruct",
        "seed": seed,
        "model": described(source, model),
        "data": list(data),
        "proportions": list(proportions),
        "formats": formats,
        "method": method,
        "limits": asdict(limits),
        "batch": batch,
    }
    objective = InstructionTuning(Mix(rows, proportions), Formatter(tokenizer, limits, instructions, chat), batch, seed)
    with trained_through(model, method, total):
        return fit(
            model,
            objective,
            Schedule(steps, learning_rate, warmup=200, shape="cosine", weight_decay=0.0),
            out,
            tokenizer=tokenizer,
            recipe=recipe,
            progress=progress,
        )


def read_formats(formats: dict[str, Any]) -> tuple[InstructionFormat, ChatFormat]:
    """The formats of a mapping. Raises: UserError for an unknown option."""
    known = {"instructions": InstructionFormat, "chat": ChatFormat}
    for name in formats:
        if name not in known:
            raise unknown("format", name, known)
    instructions = convert_options("instructions", InstructionFormat, formats.get("instructions") or {})
    return InstructionFormat(**instructions), ChatFormat(
        **convert_options("chat", ChatFormat, formats.get("chat") or {})
    )


def _text(row: RawRow, name: str) -> str:
    text = row.get(name)
    if not isinstance(text, str):
        raise UserError(
            f"a row has no {name!r} with a text in it, only {', '.join(row)}; name its columns in --formats."
        )
    return text
