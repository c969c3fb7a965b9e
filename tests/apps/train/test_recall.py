"""Whatever counts in a document of random tokens must be told by what stands before it."""

from __future__ import annotations

import random
import re
from functools import partial

import pytest
from transformers import PreTrainedTokenizerFast

from lcbench.apps.train.documents import Document, Library
from lcbench.apps.train.recall import copied_segment, recall, repeated_segment, stated_values


def told_by(document: Document, context: int) -> bool:
    """Whether each token that counts followed the same `context` tokens somewhere before."""
    ids = document.ids
    seen: set[tuple[int, ...]] = set()
    for index in range(context, len(ids)):
        gram = tuple(ids[index - context : index + 1])
        if document.weights[index] and gram not in seen:
            return False
        seen.add(gram)
    return True


@pytest.mark.parametrize("length", [64, 128, 256])
@pytest.mark.parametrize(
    ("maker", "context"),
    [
        (repeated_segment, 1),
        (partial(repeated_segment, pool=64), 1),
        (copied_segment, 3),
        (partial(recall, longest_key=1, longest_gap=0, longest_value=1), 1),
        (partial(recall, longest_key=1, longest_gap=3, longest_value=5), 1),
    ],
)
def test_what_counts_is_told_before(library: Library, maker, context: int, length: int) -> None:
    counted = 0
    for seed in range(60):
        document = maker(random.Random(seed), length, library)
        assert len(document.ids) == len(document.weights) == length + 1
        assert set(document.weights) <= {0.0, 1.0}
        assert document == maker(random.Random(seed), length, library)
        assert told_by(document, context)
        assert set(document.ids) <= {library.start, *library.ordinary}
        counted += sum(document.weights)
    assert counted > 60 * length / 10


def test_a_repeated_segment_is_only_that(library: Library) -> None:
    document = repeated_segment(random.Random(0), 64, library)
    size = document.weights.index(1.0) - 1
    assert 4 <= size <= 27
    assert document.ids[size:] == document.ids[:-size]
    assert document.weights[size + 1 :] == [1.0] * (64 - size)


def test_a_pool_bounds_the_different_tokens(library: Library) -> None:
    tokens = {token for _ in range(1) for token in repeated_segment(random.Random(0), 256, library, pool=4).ids}
    assert len(tokens) <= 4


def test_recalled_values_are_those_of_their_key(library: Library, tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(60):
        document = stated_values(random.Random(seed), 256, library)
        text = tokenizer.decode(document.ids, skip_special_tokens=True)
        values: dict[str, str] = {}
        repeats = 0
        for key, value in re.findall(r" ([^.]+?) (\d+|\w+)\.", text):
            repeats += key in values
            assert values.setdefault(key, value) == value
        assert (repeats > 0) == (sum(document.weights) > 0)


def test_a_gap_and_a_longer_key_stand_between(library: Library) -> None:
    lengths = set()
    for seed in range(200):
        weights = recall(random.Random(seed), 128, library, 2, 3, 5).weights
        runs = "".join("x" if weight else " " for weight in weights[:-6]).split()
        lengths |= {len(run) for run in runs}
    assert {1, 2, 3, 4, 5} <= lengths
