"""Tune a language model on text, through any context-extension method (`lcbench train lm`).

A model that was tuned through a method is used with the same method afterwards. ChunkLlama does so with Dual Chunk
Attention at 16k tokens (An et al., https://arxiv.org/abs/2402.17463, section 4.2): the positions that the model sees
stay within those of its pretraining, so a few hundred steps are enough.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from lcbench.apps.train.loop import Schedule, fit, process_index, processes
from lcbench.apps.train.progress import TrainingProgress
from lcbench.apps.train.windows import Windows
from lcbench.attention.steering import extend
from lcbench.data.texts import read_texts
from lcbench.engine.models import ModelSource
from lcbench.methods import Composition
from lcbench.methods.fot import CONFIG_NAMES, FocusedTransformer
from lcbench.methods.trained_length import trained_length


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """The mean cross entropy of the targets, each with its weight, in float32; 0 where all weights are."""
    weights_N = weights_BT.flatten()
    counted_n = weights_N.nonzero()[:, 0]
    logits_nV = logits_BTV.flatten(0, 1).index_select(0, counted_n).float()
    losses_n = functional.cross_entropy(logits_nV, targets_BT.flatten()[counted_n], reduction="none")
    weights_n = weights_N[counted_n]
    return (losses_n * weights_n).sum() / weights_n.sum().clamp(min=1e-6)


@dataclass(frozen=True)
class LanguageModelling:
    """The objective: the next token of windows of text, `rows` of them a step in each process.

    A window has one token more than the model sees: the last is only predicted.
    """

    windows: Windows
    rows: int

    @property
    def tokens_per_step(self) -> int:
        return self.rows * (self.windows.length - 1)

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        ids_BT = self.windows.batch(step, self.rows, process_index(), processes().num_processes).to(model.device)
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        return next_token_loss(logits_BTV, ids_BT[:, 1:], torch.ones_like(ids_BT[:, 1:]))


def train_lm(
    source: ModelSource,
    out: Path,
    text: str,
    *,
    method: str | None = None,
    length: int | None = None,
    steps: int = 1000,
    learning_rate: float = 2e-5,
    batch: int = 8,
    seed: int = 0,
    progress: TrainingProgress | None = None,
) -> Path:
    """Tune a model on windows of `length` tokens (default: its trained length) of the text that `read_texts` finds,
    `batch` of them a step and process; through a method if one is given. The same call resumes where it stopped.

    Raises: UserError as `fit`, `read_texts`, `Windows`, `extend` and `ModelSource` do.
    """
    model, tokenizer = source.model(), source.tokenizer()
    length = trained_length(model.config) if length is None else length
    needed = steps * batch * processes().num_processes
    windows = Windows(read_texts(text), tokenizer, length + 1, needed=needed, seed=seed)
    recipe = {
        "kind": "lm",
        "seed": seed,
        "model": described(source, model),
        "text": text,
        "method": method,
        "length": length,
        "batch": batch,
    }
    schedule = Schedule(steps, learning_rate, warmup=20, shape="constant", betas=(0.9, 0.95), weight_decay=0.0)
    with trained_through(model, method, length):
        return fit(
            model,
            LanguageModelling(windows, batch),
            schedule,
            out,
            tokenizer=tokenizer,
            recipe=recipe,
            progress=progress,
        )


@contextlib.contextmanager
def trained_through(model: PreTrainedModel, method: str | None, length: int) -> Iterator[None]:
    """Inside, the model runs with the method; without one, as it is.

    The options of `fot` go into the model's config, as LongLLaMA's do: they are the defaults of whoever uses it.
    """
    if method is None:
        yield
        return
    steering = extend(model, method, length=length)
    parts = steering.method.parts if isinstance(steering.method, Composition) else (steering.method,)
    for part in parts:
        if isinstance(part, FocusedTransformer):
            options = {name: getattr(part, option) for option, name in CONFIG_NAMES.items()}
            model.config.update({name: value for name, value in options.items() if value is not None})
    with steering:
        yield


def described(source: ModelSource, model: PreTrainedModel) -> dict[str, str]:
    """The model that a training run starts from, for its recipe: a folder by its last name, and its weights."""
    local = source.checkpoint.gguf.path if source.checkpoint.gguf else Path(source.checkpoint.location)
    name = local.resolve().name if local.exists() else source.name
    return {"name": name, "weights": source.checkpoint.fingerprint(model.config)}
