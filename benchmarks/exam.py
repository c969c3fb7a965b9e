"""The exam of a reference model: what its model card states, measured on text that its training never saw.

Questions with one right answer (copying, keys in filler, codes, needles made of words) and perplexity, with any method,
at any length. An answer is scored in one forward pass: every token of it has to be the likeliest one after the true
tokens before it. That is the case exactly if greedy generation gives the whole answer, and costs no decoding.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lcbench.apps.train.documents import Library
from lcbench.apps.train.facts import FactKind, draw_facts
from lcbench.attention.steering import extend
from lcbench.core.stats import Z_95, wilson_interval
from lcbench.core.tokens import encode_inside
from lcbench.engine import generate as engine
from lcbench.methods.trained_length import trained_length
from lcbench.tasks import Cell, Task, load_task
from lcbench.tasks.text.books import HELD_OUT_SEEDS, Book, pick

What = Literal["copying", "codes", "words", "passkey", "perplexity"]

SEED = 0  # of all samples
LOGITS_SLICE = 1024  # tokens whose logits are held at once
SHORTEST_SEGMENT, LONGEST_SEGMENT = 16, 96  # tokens of a segment to copy
SHOWN = 3  # tokens of its repetition that are given: one alone often stands elsewhere too


@dataclass(frozen=True)
class Point:
    """One number of the exam.

    `what` is asked with `method` at `length` tokens, question and answer included; of `facts` in the text (codes,
    words), one is asked for. No fact stands in the `local` tokens before the question, so that a method with a local
    window of as many tokens has to find it beyond.
    """

    what: What
    method: str
    length: int
    facts: int = 1
    local: int = 0


class Question(NamedTuple):
    """The tokens of a prompt, and those of its one right answer."""

    prompt: list[int]
    answer: list[int]


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, point: Point, samples: Iterable[int]
) -> list[list[float]]:
    """A list of numbers for every sample: the share of answer tokens that are right when copying, else 1 for a right
    answer and 0 for a wrong one; for perplexity the nats per token over a whole book, and over the last half of a
    trained length of it.

    Samples are drawn by their number, alike for every model with this tokenizer and every method.
    Raises: UserError for a method that does not fit the model.
    """
    library = Library(tokenizer)
    with extend(model, point.method, length=point.length) as steered:
        if point.what == "perplexity":
            return [_book_nats(steered, library, point.length, sample) for sample in samples]
        return [_share_right(steered, point, draw_question(point, sample, tokenizer, library)) for sample in samples]


def summary(point: Point, scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What the samples of a point say together, with 95 % intervals.

    Right and wrong: Wilson's (for copying, a sample counts as one trial with its share right: wider than the truth).
    Perplexity: Student's t over books, whose tokens are not independent; the nats of each book are kept, so that
    methods can be compared book by book.
    """
    if point.what != "perplexity":
        successes = sum(score[0] for score in scores)
        low, high = wilson_interval(successes, len(scores))
        return {"successes": round(successes, 4), "samples": len(scores), "low": round(low, 4), "high": round(high, 4)}
    whole, last = ([round(nats, 5) for nats in column] for column in zip(*scores))
    return {"samples": len(scores), "nats": whole, "nats_last": last}


def draw_question(point: Point, sample: int, tokenizer: PreTrainedTokenizerBase, library: Library) -> Question:
    """The question with this number; prompt and answer together are exactly `point.length` tokens.

    Raises: ValueError if so many facts do not fit.
    """
    rng = random.Random(f"{point.what} {point.facts} {point.length} {sample} {SEED}")
    if point.what == "copying":
        return _copying(rng, point.length, library)
    if point.what == "passkey":
        return _passkey(point, sample, tokenizer)
    return _fact(rng, point, library)


def right(model: PreTrainedModel, question: Question) -> list[bool]:
    """For each token of the answer whether the model finds it likeliest after the true tokens before it."""
    inputs = torch.tensor([question.prompt + question.answer[:-1]], device=model.device)
    cache = DynamicCache(config=model.config)
    cache.prompt_length = len(question.prompt)  # as in generation
    answer = len(question.answer)
    end = inputs.shape[1]
    rest = max(0, end - max(engine.PREFILL_CHUNK, answer))  # the last call is long enough to hold every answer
    for start in range(0, rest, engine.PREFILL_CHUNK):
        stop = min(start + engine.PREFILL_CHUNK, rest)
        model(inputs[:, start:stop], past_key_values=cache, logits_to_keep=1)
    logits = model(inputs[:, rest:], past_key_values=cache, logits_to_keep=answer).logits
    found: list[int] = logits[0].argmax(-1).tolist()
    return [token == true for token, true in zip(found, question.answer)]


def token_nats(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Surprise of each token but the first, in nats [len(ids) - 1], with logits of LOGITS_SLICE tokens at a time."""
    tokens = torch.tensor([ids], device=model.device)
    cache = DynamicCache(config=model.config)
    cache.prompt_length = len(ids) - 1  # a chunk does not tell
    parts = []
    for inputs, targets in zip(*(torch.split(side, LOGITS_SLICE, dim=1) for side in (tokens[:, :-1], tokens[:, 1:]))):
        logits = model(inputs, past_key_values=cache).logits[0].float()
        parts.append(torch.nn.functional.cross_entropy(logits, targets[0], reduction="none"))
    return torch.cat(parts)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of independent values, and its 95 % interval by Student's t.

    Raises: ValueError for less than two values.
    """
    freedom = len(values) - 1
    if freedom < 1:
        raise ValueError("an interval takes two values at least")
    mean = math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / freedom / len(values))
    return mean, mean - _t_95(freedom) * error, mean + _t_95(freedom) * error


def _t_95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t: exact for 1 and 2 degrees of freedom, else by the expansion of
    Abramowitz and Stegun, 26.7.5, which is right to .01 from 3 on."""
    if freedom <= 2:
        return 12.7062 if freedom == 1 else 4.30265
    z, n = Z_95, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


@torch.no_grad()
def _share_right(model: PreTrainedModel, point: Point, question: Question) -> list[float]:
    tokens = right(model, question)
    return [sum(tokens) / len(tokens) if point.what == "copying" else float(all(tokens))]


@torch.no_grad()
def _book_nats(model: PreTrainedModel, library: Library, length: int, sample: int) -> list[float]:
    """Of a book without a start token, as the excerpts in training have none."""
    nats = token_nats(model, _book(HELD_OUT_SEEDS[sample], length, library)[0]).double()
    return [float(nats.mean()), float(nats[-(trained_length(model.config) // 2) :].mean())]


def _copying(rng: random.Random, length: int, library: Library) -> Question:
    """Random tokens, a random segment among them, and at the end its first SHOWN tokens: the rest is to follow."""

    def noise(size: int) -> list[int]:
        return [pick(rng, library.ordinary) for _ in range(size)]

    segment = noise(rng.randint(SHORTEST_SEGMENT, min(LONGEST_SEGMENT, length // 3)))
    around = length - 1 - 2 * len(segment)
    before = rng.randint(0, around)
    prompt = [library.start, *noise(before), *segment, *noise(around - before), *segment[:SHOWN]]
    return Question(prompt, segment[SHOWN:])


def _fact(rng: random.Random, point: Point, library: Library) -> Question:
    """Facts at the ends of sentences of a book, and the question for one of them."""
    kind: FactKind = "code" if point.what == "codes" else "best_thing"
    facts = draw_facts(rng, [kind] * point.facts)
    asked = pick(rng, facts)
    question, answer = library.encode(asked.question), library.encode(asked.answer)
    statements = [library.encode(fact.statement) for fact in facts]
    stated = sum(map(len, statements))
    room = point.length - 1 - stated - len(question) - len(answer)
    text, ends = _book(pick(rng, HELD_OUT_SEEDS), max(room, 0), library)
    places = [end for end in ends if end <= room - point.local]
    if room < 0 or not places:
        raise ValueError(f"{point.facts} facts do not fit into {point.length} tokens")
    prompt, begin = [library.start], 0
    for place, statement in zip(sorted(pick(rng, places) for _ in facts), statements):
        prompt += text[begin:place] + statement
        begin = place
    return Question(prompt + text[begin:] + question, answer)


def _book(seed: int, size: int, library: Library) -> tuple[list[int], list[int]]:
    """So many tokens of a book up to the end of a sentence, the first one cut, and where its sentences end."""
    book = Book(seed)
    sentences: list[list[int]] = []
    total = 0
    while total < size:
        sentences.append(library.encode(book.sentence()))
        total += len(sentences[-1])
    cut = total - size
    ends = [0, *(end - cut for end in accumulate(map(len, sentences)) if end > cut)]
    return list(chain.from_iterable(sentences))[cut:], ends


def _passkey(point: Point, sample: int, tokenizer: PreTrainedTokenizerBase) -> Question:
    """The passkey task of lcbench as it is; a sample whose key stands too near to the question is drawn again."""
    for attempt in count():
        example = _passkey_task().example(Cell(point.length), sample + attempt * 10**6, tokenizer, SEED)
        answer = encode_inside(tokenizer, " " + example.references[0])
        if example.context[::-1].index(answer[-1]) >= point.local:  # filler has no digits
            break
    return Question(example.prompt, answer)


@lru_cache(maxsize=1)
def _passkey_task() -> Task:
    return load_task("passkey")
