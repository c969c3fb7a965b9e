"""Documents of text: excerpts of books, and facts hidden in filler with questions about them.

A document is token ids and the weight that each of them has in the loss; 0 where it cannot be predicted from the
document. Its length is that of the window plus 1, since the last token is only predicted."""

from __future__ import annotations

import random
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from lcbench.apps.train.facts import Fact, FactKind, draw_facts
from lcbench.apps.train.tokenizer import INSTRUCTION
from lcbench.tasks.text.books import GRASS, TRAINING_SEEDS, Book, generic_sentence, pick

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FillerKind = Literal["grass", "book", "generic"]
Tokens = list[int]

REMEMBERED = 2**18  # sentences whose tokens are kept
BOOK_WEIGHT = 0.5
STOP_WEIGHT = 0.5  # the full stop after an answer: easier than the answer
# Text that tells little (statements of facts, questions, grass): predicted at a fifth of its tokens, at a tenth of the
# weight; the logits of the others need not be computed.
SKIMMED_WEIGHT, SKIMMED_SHARE = 0.1, 0.2


class Document(NamedTuple):
    """Token ids, and for each the weight of its prediction in the loss."""

    ids: Tokens
    weights: list[float]


class Draft:
    """A document while it is written."""

    def __init__(self) -> None:
        self.ids: Tokens = []
        self.weights: list[float] = []

    def add(self, ids: Tokens, weight: float = 0.0) -> Self:
        self.ids += ids
        self.weights += [weight] * len(ids)
        return self

    def add_skimmed(self, rng: random.Random, ids: Tokens) -> Self:
        self.ids += ids
        self.weights += [SKIMMED_WEIGHT if rng.random() < SKIMMED_SHARE else 0.0 for _ in ids]
        return self

    def cut(self, length: int) -> Document:
        """The document of the first `length` + 1 tokens."""
        return Document(self.ids[: length + 1], self.weights[: length + 1])


class Library:
    """The parts of documents, as tokens: sentences are encoded once, books when they are first opened.

    `seeds` are those of the books: TRAINING_SEEDS for training, a slice of HELD_OUT_SEEDS to measure.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seeds: range = TRAINING_SEEDS, sentences: int = 500) -> None:
        self.size = len(tokenizer)
        self.start: int = tokenizer.bos_token_id
        self.ordinary = range(len(tokenizer.all_special_ids), self.size)  # special tokens come first
        self._backend = tokenizer.backend_tokenizer
        self._seeds, self._sentences = seeds, sentences
        self._encoded: dict[str, Tokens] = {}
        self._books: dict[int, list[Tokens]] = {}

    def encode(self, text: str) -> Tokens:
        """Tokens of a text that stands inside a document, where it begins with a space."""
        ids = self._encoded.get(text)
        if ids is None:
            if len(self._encoded) >= REMEMBERED:  # statements of facts hardly ever come back
                self._encoded.clear()
            ids = self._encoded[text] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def book(self, seed: int) -> list[Tokens]:
        """The sentences of a book."""
        if seed not in self._books:
            book = Book(seed)
            self._books[seed] = [self.encode(book.sentence()) for _ in range(self._sentences)]
        return self._books[seed]

    def any_book(self, rng: random.Random) -> list[Tokens]:
        return self.book(pick(rng, self._seeds))

    @cached_property
    def grass(self) -> list[Tokens]:
        return [self.encode(sentence) for sentence in GRASS]


def book_excerpt(rng: random.Random, length: int, library: Library) -> Document:
    """A stretch of a book, beginning anywhere in a sentence; `length` at most that of a book, about 4,500 tokens."""
    ids = [token for sentence in library.any_book(rng) for token in sentence]
    begin = int(rng.random() * max(1, len(ids) - length - 1))
    return Draft().add(ids[begin:], BOOK_WEIGHT).cut(length)


def draw_filler_kind(rng: random.Random) -> FillerKind:
    """The kind of filler: repeated filler ("The grass is green ...") in two documents of five, else mostly sentences of
    a book."""
    if rng.random() < 0.4:
        return "grass"
    return "book" if rng.random() < 0.8 else "generic"


def filler(rng: random.Random, count: int, library: Library, kind: FillerKind) -> list[Tokens]:
    """Sentences of exactly `count` tokens together; the first is cut at its start where needed."""
    if kind == "book":
        book = library.any_book(rng)
        first = int(rng.random() * (len(book) - 1))
    sentences: list[Tokens] = []
    surplus = -count
    while surplus < 0:
        if kind == "grass":
            sentence = library.grass[len(sentences) % len(library.grass)]
        elif kind == "book":
            sentence = book[(first + len(sentences)) % len(book)]
        else:
            sentence = library.encode(generic_sentence(rng))
        sentences.append(sentence)
        surplus += len(sentence)
    while surplus > 0:
        cut = min(surplus, len(sentences[0]))
        surplus -= cut
        sentences[0] = sentences[0][cut:]
        if not sentences[0]:
            sentences.pop(0)
    return sentences


def retrieval_document(
    rng: random.Random, length: int, library: Library, kinds: list[FactKind], filler_kind: FillerKind | None = None
) -> Document:
    """Facts at random depths of filler, then questions about all of them, in random order.

    Of facts that do not fit into `length` the last are left out. Half of the documents begin with the instruction of
    the passkey task if it fits. Answers weigh 1; the filler does too unless it is grass, which is skimmed as
    statements and questions are.

    Raises: ValueError if not even one fact fits.
    """
    instruction = library.encode(INSTRUCTION) if rng.random() < 0.5 else []
    facts = draw_facts(rng, kinds)
    left = length - len(instruction) - sum(_tokens_of(fact, library) for fact in facts)
    while left < 0:
        if instruction:
            left, instruction = left + len(instruction), []
        elif len(facts) > 1:
            left += _tokens_of(facts.pop(), library)
        else:
            raise ValueError(f"no fact of kind {kinds[0]} fits into {length} tokens")

    filler_kind = filler_kind or draw_filler_kind(rng)
    sentences = filler(rng, left, library, filler_kind)
    places = sorted(int(rng.random() * (len(sentences) + 1)) for _ in facts)
    draft = Draft().add([library.start])
    draft.add_skimmed(rng, instruction)
    for place in range(len(sentences) + 1):
        for fact, there in zip(facts, places):
            if there == place:
                draft.add_skimmed(rng, library.encode(fact.statement))
        if place < len(sentences):
            if filler_kind == "grass":
                draft.add_skimmed(rng, sentences[place])
            else:
                draft.add(sentences[place], 1.0)
    for fact in rng.sample(facts, len(facts)):
        draft.add_skimmed(rng, library.encode(fact.question))
        draft.add(library.encode(fact.answer), 1.0).add(library.encode("."), STOP_WEIGHT)
    return draft.cut(length)


def _tokens_of(fact: Fact, library: Library) -> int:
    """Of its statement, question and answer with a full stop."""
    texts = (fact.statement, fact.question, fact.answer, ".")
    return sum(len(library.encode(text)) for text in texts)


def dense_statements(rng: random.Random, length: int, library: Library) -> Document:
    """A few facts, stated or asked for repeatedly between light filler: every answer but the first of each counts."""
    kinds: list[FactKind] = [
        pick(rng, ("pass_key", "code", "code", "code_with_profession", "best_thing"))
        for _ in range(1 + int(rng.random() * max(2, length / 20)))
    ]
    facts = draw_facts(rng, kinds)
    filler_share = rng.random() * 0.6
    draft = Draft().add([library.start])
    stated: set[str] = set()
    while len(draft.ids) < length + 1:
        if rng.random() < filler_share:
            draft.add(pick(rng, library.grass if rng.random() < 0.5 else library.any_book(rng)))
            continue
        fact = pick(rng, facts)
        known = fact.key in stated
        draft.add(library.encode(fact.question if known and rng.random() < 0.4 else fact.lead))
        draft.add(library.encode(fact.answer), 1.0 if known else 0.0)
        draft.add(library.encode("."), STOP_WEIGHT if known else 0.0)
        stated.add(fact.key)
    return draft.cut(length)
