"""Tune a model for memory with cross-batch training (`lcbench train fot`).

The generated documents state facts in their first window and ask for them in the second, in text of books. No two facts
of a batch have the same key, so that the other documents have only distractors: the code of Mara is in one
first window of d. Books, and random tokens that come back, keep what the model could do before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lcbench.apps.train.cross_batch import CrossBatch, as_windows, cross_batch
from lcbench.apps.train.documents import (
    STOP_WEIGHT,
    Document,
    Draft,
    Library,
    Tokens,
    book_excerpt,
    draw_filler_kind,
    filler,
)
from lcbench.apps.train.facts import Fact, FactKind, draw_fact
from lcbench.apps.train.lm import described, next_token_loss
from lcbench.apps.train.loop import Schedule, fit, process_index, processes, step_seed
from lcbench.apps.train.progress import TrainingProgress
from lcbench.apps.train.recall import copied_segment
from lcbench.apps.train.windows import Windows
from lcbench.core.errors import UserError
from lcbench.data.texts import read_texts
from lcbench.engine.models import ModelSource
from lcbench.methods.trained_length import trained_length
from lcbench.tasks.text.books import pick

DISTRACTORS = (1, 2, 4, 8, 16)  # d over the run
KINDS: tuple[FactKind, ...] = ("code_with_profession", "code", "best_thing", "best_thing", "pass_key")
MOST_FACTS, MOST_QUESTIONS = 8, 5
FILLER_WEIGHT = 0.3  # the rest of a document with facts, against 1 for an answer
LEAST_FILLER = 20  # tokens in each window
BOOKS, COPYING = 0.3, 0.1  # shares of the documents; the others have facts
Draw = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CrossBatchObjective:
    """The next token of documents of two windows, the second of which sees the first windows of d documents.

    `draw` answers for a step the ids and weights [rows, 2L + 1] of this process; the documents of other processes are
    no distractors. d is that of `contexts_at`.
    """

    block: CrossBatch
    draw: Draw
    rows: int
    steps: int
    contexts: Sequence[int]

    @property
    def tokens_per_step(self) -> int:
        return 2 * self.rows * self.block.context_length

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        self.block.contexts = contexts_at(step, self.steps, self.contexts)
        ids_BN, weights_BN = (part.to(model.device) for part in self.draw(step))
        ids_WL, targets_WL, weights_WL = (
            as_windows(part, self.block.context_length) for part in (ids_BN[:, :-1], ids_BN[:, 1:], weights_BN[:, 1:])
        )
        return next_token_loss(model(input_ids=ids_WL, use_cache=False).logits, targets_WL, weights_WL)


def train_fot(
    source: ModelSource,
    out: Path,
    memory_layers: Sequence[int],
    *,
    contexts: Sequence[int] = DISTRACTORS,
    context_length: int | None = None,
    last_context_length: int | None = None,
    text: str | None = None,
    steps: int = 800,
    learning_rate: float = 1e-3,
    batch: int = 16,
    seed: int = 0,
    compile_decoder: bool = True,
    progress: TrainingProgress | None = None,
) -> Path:
    """Tune a model so that its `memory_layers` (from 0) have memory. The same call resumes where it stopped.

    `contexts` is d, one value or several that take turns as in `contexts_at`; `context_length` is L in tokens, default
    the trained length; `batch` is documents a step and process. They are generated, or parts of the texts that
    `read_texts` finds. The config of the result says what inference needs, under LongLLaMA's names: `mem_layers`,
    `last_context_length` (default L / 2, at most 1024), and L as `max_position_embeddings`. `compile_decoder` saves a
    quarter of the time, after half a minute of compiling. The learning rate is for a model of a million parameters;
    the paper tunes models of 3 and 7 billion with 2e-5.

    Raises: UserError for more contexts than documents, for text without a document of 2L + 1 tokens, and as `fit`,
    `cross_batch`, `read_texts` and `ModelSource` do.
    """
    if not contexts or min(contexts) < 1 or max(contexts) > batch:
        raise UserError(f"d goes from 1 to the documents of a batch, {batch}; {list(contexts)} does not.")
    model, tokenizer = source.model(), source.tokenizer()
    L = trained_length(model.config) if context_length is None else context_length
    last = min(1024, L // 2) if last_context_length is None else last_context_length
    if not 1 <= last <= L:
        raise UserError(f"last_context_length={last} is not within a window of {L} tokens.")
    recipe = {
        "kind": "fot",
        "seed": seed,
        "model": described(source, model),
        "memory_layers": list(memory_layers),
        "contexts": list(contexts),
        "context_length": L,
        "last_context_length": last,
        "text": text,
        "batch": batch,
    }
    if text is None:
        draw = generated(tokenizer, batch, L, seed)
    else:
        needed = steps * batch * processes().num_processes
        windows = Windows(read_texts(text), tokenizer, 2 * L + 1, needed=needed, seed=seed, within_documents=True)
        draw = from_text(windows, batch)
    model.config.update(
        {"mem_layers": sorted(set(memory_layers)), "last_context_length": last, "max_position_embeddings": L}
    )
    with cross_batch(model, memory_layers, L) as block:
        return fit(
            model,
            CrossBatchObjective(block, draw, batch, steps, contexts),
            Schedule(steps, learning_rate, warmup=30, shape="cosine"),
            out,
            tokenizer=tokenizer,
            recipe=recipe,
            progress=progress,
            compile_decoder=compile_decoder,
        )


def generated(tokenizer: PreTrainedTokenizerBase, rows: int, context_length: int, seed: int) -> Draw:
    """Generated documents, as tensors. Raises: UserError for a tokenizer that they cannot be made with."""
    if tokenizer.bos_token_id is None or not tokenizer.is_fast:
        raise UserError("the generated documents need a fast tokenizer with a bos token; pass --text.")
    library = Library(tokenizer, sentences=max(500, context_length // 2))  # of 8 tokens or more: longer than a document

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rng = random.Random(step_seed(seed, step, process_index()))
        documents = generated_batch(rng, rows, context_length, library)
        return torch.tensor([part.ids for part in documents]), torch.tensor([part.weights for part in documents])

    return draw


def from_text(windows: Windows, rows: int) -> Draw:
    """Documents of text, every token with weight 1."""

    def draw(step: int) -> tuple[Tensor, Tensor]:
        ids = windows.batch(step, rows, process_index(), processes().num_processes)
        return ids, torch.ones(ids.shape)

    return draw


def contexts_at(step: int, steps: int, contexts: Sequence[int]) -> int:
    """d at a step (from 0): each value but the last for 1 / (2n - 1) of the run, the last for the rest.

    So with 1, 2, 4, 8, 16 the number of distractors grows over the first four ninths of the run.
    """
    return contexts[min(len(contexts) - 1, step * (2 * len(contexts) - 1) // steps)]


def facts_apart(rng: random.Random, context_length: int, library: Library, taken: set[str]) -> Document:
    """A document of two windows: facts between filler in the first, questions about some of them in the second.

    No fact has a key in `taken`, and all keys are added there.
    Raises: UserError if facts do not fit into a window, or there are no keys left.
    """
    for _ in range(100):
        facts = [_new_fact(rng, pick(rng, KINDS), taken) for _ in range(1 + int(rng.random() * MOST_FACTS))]
        chosen = rng.sample(facts, min(len(facts), 1 + int(rng.random() * MOST_QUESTIONS)))
        statements = [Draft().add(library.encode(fact.statement)) for fact in facts]
        questions = [_question(fact, library) for fact in chosen]
        fillers = [
            context_length - 1 - sum(len(draft.ids) for draft in statements),  # the document begins with one token
            context_length + 1 - sum(len(draft.ids) for draft in questions),
        ]
        if min(fillers) >= LEAST_FILLER:
            document = Draft().add([library.start])
            for count, drafts in zip(fillers, (statements, questions), strict=True):
                _scatter(rng, document, drafts, _filler(rng, count, library))
            return document.cut(2 * context_length)
    raise UserError(f"facts and their questions do not fit into windows of {context_length} tokens; take longer ones.")


def generated_batch(rng: random.Random, rows: int, context_length: int, library: Library) -> list[Document]:
    """Documents of two windows, 2 * context_length + 1 tokens each: facts, books and copying."""
    taken: set[str] = set()
    documents = []
    for _ in range(rows):
        kind = rng.random()
        if kind < BOOKS:
            documents.append(book_excerpt(rng, 2 * context_length, library))
        elif kind < BOOKS + COPYING:
            documents.append(copied_segment(rng, 2 * context_length, library))
        else:
            documents.append(facts_apart(rng, context_length, library, taken))
    return documents


def _new_fact(rng: random.Random, kind: FactKind, taken: set[str]) -> Fact:
    """A fact whose key is new; where this kind has none left, the code of a person with a profession."""
    kinds: list[FactKind] = [kind] * 20 + ["code_with_profession"] * 200
    for candidate in kinds:
        fact = draw_fact(rng, candidate)
        if fact.key not in taken:
            taken.add(fact.key)
            return fact
    raise UserError(f"there are no more than {len(taken)} different keys for the facts of a batch; take a smaller one.")


def _question(fact: Fact, library: Library) -> Draft:
    draft = Draft().add(library.encode(fact.question)).add(library.encode(fact.answer), 1.0)
    return draft.add(library.encode("."), STOP_WEIGHT)


def _filler(rng: random.Random, count: int, library: Library) -> list[Tokens]:
    return filler(rng, count, library, "book" if rng.random() < 0.7 else draw_filler_kind(rng))


def _scatter(rng: random.Random, document: Draft, drafts: list[Draft], sentences: list[Tokens]) -> None:
    """Add the sentences, with the drafts between them in their order, at random places."""
    places = sorted(int(rng.random() * (len(sentences) + 1)) for _ in drafts)
    for place in range(len(sentences) + 1):
        for draft, there in zip(drafts, places, strict=True):
            if there == place:
                document.ids += draft.ids
                document.weights += draft.weights
        if place < len(sentences):
            document.add(sentences[place], FILLER_WEIGHT)
