from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from lcbench.apps.train import tokenizer as module
from lcbench.apps.train.tokenizer import END_OF_TEXT, PADDING, VOCABULARY_SIZE, train_tokenizer
from lcbench.core.tokens import encode_inside, encode_start
from lcbench.engine.models import ModelSource
from lcbench.tasks.text.books import NAMES, Book
from tests.helpers import TINY


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_digit_is_one_token_whether_or_not_a_space_stands_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    with_space, without = ids(tokenizer, " 48213"), ids(tokenizer, "48213")
    assert len(without) == 5
    assert with_space[1:] == without
    assert with_space[:1] == ids(tokenizer, " ")
    assert ids(tokenizer, " The pass key is 48213.")[-6:-1] == without
    assert len({ids(tokenizer, str(digit))[0] for digit in range(10)}) == 10


@pytest.mark.parametrize(
    "text",
    [
        Book(900_000).text(30),
        " The pass key is 00713. Remember it.",
        'Grüße, 你好! \t\n  "naïve" — 3.14e-5 🙂',
        "",
    ],
)
def test_any_text_goes_through_and_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text), clean_up_tokenization_spaces=False) == text


def test_it_is_the_same_at_every_training(tokenizer: PreTrainedTokenizerFast) -> None:
    assert train_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_special_tokens_come_first_and_bos_is_added(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == VOCABULARY_SIZE
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, END_OF_TEXT, PADDING)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert tokenizer(" a").input_ids == [0, *ids(tokenizer, " a")]


def test_every_word_of_the_documents_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    words = {word for text in module._texts() for word in re.findall(r" [A-Za-z]+", text)}
    assert {f" {name}" for name in NAMES} <= words
    assert [word for word in sorted(words) if len(ids(tokenizer, word)) != 1] == []


@pytest.mark.parametrize("start", ["new", "embedded"])
def test_prompts_are_encoded_as_training_does(
    start: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is written of a tokenizer, whether it was just trained or is the one of a model that was tuned."""
    written = tokenizer if start == "new" else ModelSource().tokenizer()
    written.save_pretrained(tmp_path)
    shutil.copy(TINY / "config.json", tmp_path)
    monkeypatch.setattr("lcbench.engine.checkpoint.has_own_tokenizer", lambda folder: False)  # the files say it
    loaded = ModelSource(str(tmp_path)).tokenizer()
    text = " The code of Mara is 4821."
    assert encode_start(loaded, text) == [0, *ids(tokenizer, text)]
    assert encode_inside(loaded, text) == ids(tokenizer, text)


def test_a_copy_of_an_embedded_model_reads_behind_bos_too(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, tmp_path)
    text = " The code of Mara is 4821."
    assert ModelSource(str(tmp_path)).tokenizer()(text).input_ids == ModelSource().tokenizer()(text).input_ids
    assert encode_start(ModelSource().tokenizer(), text)[0] == 0
