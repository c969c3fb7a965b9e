from __future__ import annotations

import random
import re

import pytest
from transformers import PreTrainedTokenizerFast

from lcbench.apps.train.documents import (
    STOP_WEIGHT,
    Document,
    Library,
    book_excerpt,
    dense_statements,
    draw_filler_kind,
    filler,
    retrieval_document,
)
from lcbench.apps.train.facts import FactKind
from lcbench.apps.train.tokenizer import INSTRUCTION
from lcbench.tasks.text.books import GRASS, Book

MAKERS = {
    "book": book_excerpt,
    "dense": dense_statements,
    "retrieval": lambda rng, length, library: retrieval_document(rng, length, library, ["code", "pass_key"]),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("length", [128, 256])
def test_a_document_has_one_token_more_than_the_window_and_a_weight_for_each(
    library: Library, maker: str, length: int
) -> None:
    for seed in range(30):
        document = MAKERS[maker](random.Random(seed), length, library)
        assert len(document.ids) == len(document.weights) == length + 1
        assert all(0 <= weight <= 1 for weight in document.weights)
        assert document == MAKERS[maker](random.Random(seed), length, library)
    assert MAKERS[maker](random.Random(0), length, library) != MAKERS[maker](random.Random(1), length, library)


def test_the_library_encodes_books_as_their_text(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    joined = [token for sentence in library.book(10_003) for token in sentence]
    assert joined == tokenizer(Book(10_003).text(100), add_special_tokens=False).input_ids
    assert library.start == 0
    assert library.ordinary == range(2, 1341)


@pytest.mark.parametrize("kind", ["grass", "book", "generic"])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_filler_has_exactly_so_many_tokens(library: Library, kind, count: int) -> None:
    for seed in range(10):
        sentences = filler(random.Random(seed), count, library, kind)
        assert sum(map(len, sentences)) == count
        assert all(sentences)


def test_only_the_first_sentence_of_filler_is_cut(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    sentences = [tokenizer.decode(ids) for ids in filler(random.Random(0), 33, library, "grass")]
    assert all(sentence in GRASS for sentence in sentences[1:])
    assert any(grass.endswith(sentences[0]) for grass in GRASS)


def test_filler_kinds_keep_their_shares() -> None:
    rng = random.Random(0)
    kinds = [draw_filler_kind(rng) for _ in range(5000)]
    assert kinds.count("grass") / 5000 == pytest.approx(0.40, abs=0.03)
    assert kinds.count("book") / 5000 == pytest.approx(0.48, abs=0.03)


def test_every_fact_of_a_retrieval_document_is_stated_before_and_answered_behind(
    library: Library, tokenizer: PreTrainedTokenizerFast
) -> None:
    kinds: list[FactKind] = ["pass_key", "code", "best_thing", "code"]
    for seed in range(40):
        document = retrieval_document(random.Random(seed), 256, library, kinds)
        text = tokenizer.decode(document.ids)
        questions = re.findall(r"\? (The [\w ]+ is)( [\w ]+)\.", text)
        assert len(questions) == 4
        for lead, answer in questions:
            assert text.index(lead + answer) < text.index(" What is")
        assert text.endswith(questions[-1][1] + ".")
        assert document.weights[-1] == STOP_WEIGHT


def test_answers_weigh_one_and_grass_is_skimmed(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    document = retrieval_document(random.Random(3), 256, library, ["pass_key"], filler_kind="grass")
    assert re.fullmatch(r" \d{5}", heavy(document, tokenizer, 1.0))
    light = [weight for weight in document.weights if weight == 0.1]
    assert 0.1 < len(light) / 250 < 0.3


def test_the_instruction_stands_before_half_of_the_documents(
    library: Library, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [
        tokenizer.decode(retrieval_document(random.Random(seed), 256, library, ["code"]).ids) for seed in range(200)
    ]
    assert 70 < sum(INSTRUCTION in text for text in texts) < 130


def test_facts_that_do_not_fit_are_left_out_and_one_that_cannot_is_refused(library: Library) -> None:
    document = retrieval_document(random.Random(0), 64, library, ["code"] * 9)
    assert len(document.ids) == 65
    with pytest.raises(ValueError, match="no fact of kind best_thing fits into 20 tokens"):
        retrieval_document(random.Random(0), 20, library, ["best_thing"])


def test_dense_statements_count_only_what_was_told_before(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(40):
        document = dense_statements(random.Random(seed), 256, library)
        known: set[str] = set()
        counted = False
        ends = [index for index, token in enumerate(document.ids) if tokenizer.decode([token]) == "."]
        begin = 1
        for end in ends:
            text = tokenizer.decode(document.ids[begin:end])
            stated = re.search(
                r"(The (?:pass key|code of [\w ]+|best thing to do in \w+) is)( \d+| \w+ a [\w ]+)$", text
            )
            weights = document.weights[begin:end]
            if stated:
                assert any(weights) == (stated[0] in known)
                counted |= any(weights)
                known.add(stated[0])
            else:
                assert not any(weights)
            begin = end + 1
        assert counted or len(known) > 2


def heavy(document: Document, tokenizer: PreTrainedTokenizerFast, weight: float) -> str:
    return str(tokenizer.decode([token for token, this in zip(*document) if this == weight]))
