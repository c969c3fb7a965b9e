"""The reference model: what it is trained on, in which order, for how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from lcbench.apps.train.documents import Document, Library, book_excerpt, dense_statements, retrieval_document
from lcbench.apps.train.facts import FactKind
from lcbench.apps.train.loop import Schedule, fit, process_index, step_seed
from lcbench.apps.train.progress import TrainingProgress
from lcbench.apps.train.recall import copied_segment, recall, repeated_segment, stated_values
from lcbench.apps.train.start import initial_model, reference_config
from lcbench.apps.train.tokenizer import train_tokenizer
from lcbench.tasks.text.books import pick

LEARNING_RATE = 2e-3
TOKENS_PER_STEP = 4096
RETRIEVED: tuple[FactKind, ...] = ("pass_key", "code", "code", "best_thing", "best_thing")
TOKENS_PER_FACT = 36  # about the size of a fact with its question: bounds how many fit into a document


@dataclass(frozen=True)
class Phase:
    """Steps at one document length, in tokens, with one mix of documents."""

    length: int
    steps: int
    mix: Literal["recall", "recall_and_facts", "everything"]


# Short first: a head that matches at 64 tokens is found much sooner than one that must match at 256.
CURRICULUM = (Phase(64, 300, "recall"), Phase(128, 1000, "recall_and_facts"), Phase(256, 3200, "everything"))


def _retrieval(rng: random.Random, length: int, library: Library) -> Document:
    count = max(1, int(rng.random() * length / TOKENS_PER_FACT))
    return retrieval_document(rng, length, library, [pick(rng, RETRIEVED) for _ in range(count)])


_LONGER_RECALL = partial(recall, longest_key=2, longest_gap=3, longest_value=5)
MIXES: dict[str, tuple[tuple[float, Callable[[random.Random, int, Library], Document]], ...]] = {
    "recall": (
        (0.25, partial(repeated_segment, pool=64)),
        (1.00, partial(recall, longest_key=1, longest_gap=1, longest_value=2)),
    ),
    "recall_and_facts": (
        (0.10, repeated_segment),
        (0.60, _LONGER_RECALL),
        (0.85, dense_statements),
        (1.00, stated_values),
    ),
    "everything": (
        (0.03, repeated_segment),
        (0.10, copied_segment),
        (0.30, _LONGER_RECALL),
        (0.45, dense_statements),
        (0.50, stated_values),
        (0.75, _retrieval),
        (1.00, book_excerpt),
    ),
}  # kinds of documents in a mix, with cumulative shares


def draw_document(rng: random.Random, phase: Phase, library: Library) -> Document:
    """A document of a phase, of a kind drawn from the phase's mix."""
    share = rng.random()
    draw = next(kind for up_to, kind in MIXES[phase.mix] if share < up_to)
    return draw(rng, phase.length, library)


@dataclass(frozen=True)
class Curriculum:
    """The objective of the reference model: the next token of documents drawn for the step, weighted by token."""

    phases: tuple[Phase, ...]
    library: Library
    seed: int
    tokens_per_step: int = TOKENS_PER_STEP

    def phase(self, step: int) -> Phase:
        """The phase of a step."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise IndexError(f"the curriculum ends {step} steps before")

    def documents(self, step: int) -> list[Document]:
        """What a step sees in this process."""
        phase = self.phase(step)
        rng = random.Random(step_seed(self.seed, step, process_index()))
        return [draw_document(rng, phase, self.library) for _ in range(self.tokens_per_step // phase.length)]

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        documents = self.documents(step)
        return weighted_loss(
            model,
            torch.tensor([document.ids for document in documents], device=model.device),
            torch.tensor([document.weights for document in documents], device=model.device),
        )


def weighted_loss(model: PreTrainedModel, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """The mean cross entropy of predicting each token but the first, each with its weight.

    Logits are computed where the weight is not 0 only: with them everywhere the output layer would cost as much as all
    the others.
    """
    hidden_BTD = model.get_decoder()(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    weights_N = weights_BT[:, 1:].flatten()
    counted_n = weights_N.nonzero()[:, 0]
    logits_nV = model.get_output_embeddings()(hidden_BTD.flatten(0, 1).index_select(0, counted_n))
    losses_n = functional.cross_entropy(logits_nV.float(), ids_BT[:, 1:].flatten()[counted_n], reduction="none")
    weights_n = weights_N[counted_n]
    return (losses_n * weights_n).sum() / weights_n.sum()


def train_reference(
    out: Path,
    seed: int = 0,
    structured_start: bool = True,
    phases: tuple[Phase, ...] = CURRICULUM,
    progress: TrainingProgress | None = None,
) -> Path:
    """Train a reference model from its seed; about half an hour on one core. The same call resumes where it stopped.

    Raises: UserError as `fit` does.
    """
    tokenizer = train_tokenizer()
    config = reference_config(trained_length=phases[-1].length)
    recipe = {
        "kind": "reference",
        "seed": seed,
        "structured_start": structured_start,
        "phases": [asdict(phase) for phase in phases],
        "tokens_per_step": TOKENS_PER_STEP,
    }
    return fit(
        initial_model(config, seed, structured_start),
        Curriculum(phases, Library(tokenizer), seed),
        Schedule(sum(phase.steps for phase in phases), LEARNING_RATE),
        out,
        tokenizer=tokenizer,
        recipe=recipe,
        progress=progress,
        compile_decoder=True,
    )
