"""The tokenizer and a small library, made once."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from lcbench.apps.train.documents import Library
from lcbench.apps.train.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


@pytest.fixture(scope="session")
def library(tokenizer: PreTrainedTokenizerFast) -> Library:
    """Five books, long enough for documents of 256 tokens from every place in them."""
    return Library(tokenizer, range(10_000, 10_005), sentences=100)
