"""Tokenizers of GGUF files: the tokens of the model they were made of."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import gguf
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from lcbench.core.tokens import tokenizer_prefix
from lcbench.engine.gguf_files import GgufFile
from lcbench.engine.gguf_tokenizer import complete_tokenizer
from lcbench.engine.models import ModelSource
from tests.gguf_models import SIZES, TEMPLATE, Stated, small, tiny_tokenizer, write_gguf
from tests.tokenizers import build


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_tokenizer_is_the_models_own() -> None:
    write_gguf(Path("mine.gguf"), small())
    own, tokenizer = tiny_tokenizer(), ModelSource("mine.gguf").tokenizer()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(own, name)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer_prefix(tokenizer) == [own.bos_token_id]  # as the file says
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert asked == "<|endoftext|>user\nHi\n"
    assert tokenizer(asked, add_special_tokens=False).input_ids[0] == own.eos_token_id
    assert {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} >= {
        "<|endoftext|>",
        "<|pad|>",
    }


def test_digits_are_split_where_the_vocabulary_was_learned_so(caplog: pytest.LogCaptureFixture) -> None:
    """By GPT-2's rule alone, the second of two spaces would belong to the number."""
    tokenizer = copy.deepcopy(build("byte-level"))

    def pieces(rule: str) -> list[str]:
        tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)  # as the loader leaves it
        complete_tokenizer(Stated("llama", {"tokenizer.ggml.pre": rule}), tokenizer)
        return [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]

    assert pieces("smollm") == ["a", "ĠĠ", "1", "2"]
    assert pieces("stablelm2") == ["a", "Ġ", "Ġ", "1", "2"]
    assert pieces("gpt-2") == pieces("mellum") == ["a", "Ġ", "Ġ12"]
    assert "splits text" not in caplog.text
    with caplog.at_level(logging.WARNING, "lcbench"):
        assert pieces("from-the-future") == pieces("default") == ["a", "Ġ", "Ġ12"]
    assert "splits text by the rule 'from-the-future', which transformers does not know: GPT-2's" in caplog.text
    assert "mine.gguf does not say how it splits text: GPT-2's is used" in caplog.text


def test_tokens_of_any_characters_are_found_whole() -> None:
    """DeepSeek's bars stand for no bytes, and two spaces are spelled as a word of the vocabulary is."""
    begin, user, spaces = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "  "
    kinds = gguf.TokenType
    marked = {begin: kinds.CONTROL, user: kinds.USER_DEFINED, spaces: kinds.USER_DEFINED}
    own = tiny_tokenizer()
    first = len(own)
    write_gguf(Path("mine.gguf"), small(), extra={"tokenizer.ggml.bos_token_id": first}, marked=marked)
    tokenizer = ModelSource("mine.gguf").tokenizer()
    assert len(tokenizer) == SIZES["vocab_size"] and tokenizer.bos_token_id == first
    assert tokenizer_prefix(tokenizer) == [first]
    ids = tokenizer(f"{begin}{user}a  12", add_special_tokens=False).input_ids
    assert ids == [first, first + 1, *own.encode("a"), first + 2, *own.encode("12", add_special_tokens=False)]
    said = tokenizer.decode(ids).replace("\u2581", " ")  # as transformers 5.17 spells it
    assert said == f"{begin}{user}a  12".replace("\u2581", " ")
    assert tokenizer.decode(ids, skip_special_tokens=True)[0] == "<"
    assert tokenizer.convert_tokens_to_ids("ĠĠ") == own.convert_tokens_to_ids("ĠĠ")


def test_phi_3_leaves_out_what_stands_behind_its_tokens() -> None:
    """As its own tokenizer does, and llama.cpp by the model's name: the file does not say it."""
    file = Stated("phi3", {"tokenizer.ggml.model": "llama"})
    rebuilt = PreTrainedTokenizerFast(tokenizer_object=build("metaspace-first").backend_tokenizer)
    rebuilt.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|endoftext|>"]})
    complete_tokenizer(file, rebuilt)
    text = "<|user|>\nkey<|endoftext|>\nkey"
    assert rebuilt.decode(rebuilt(text, add_special_tokens=False).input_ids) == "<|user|>key<|endoftext|>\nkey"


def test_words_are_whole_and_begin_with_bos_where_llama_cpp_has_them_so() -> None:
    """Files of Llama 3 made before May 2025 do not say that a BOS comes first; of its words, some have no merges."""
    path = write_gguf(Path("mine.gguf"), small(), extra={"tokenizer.ggml.pre": "llama-bpe"}, adds_bos=None)
    tokenizer = ModelSource("mine.gguf").tokenizer()
    assert tokenizer_prefix(tokenizer) == [tokenizer.bos_token_id]
    assert tokenizer.backend_tokenizer.model.ignore_merges
    write_gguf(path, small(), extra={"tokenizer.ggml.pre": "llama-bpe"}, adds_bos=False)
    assert tokenizer_prefix(ModelSource("mine.gguf").tokenizer()) == []


@pytest.mark.parametrize("spaced", [True, False])
def test_a_space_stands_before_a_text_where_the_file_says_so(spaced: bool) -> None:
    rebuilt = PreTrainedTokenizerFast(tokenizer_object=build("metaspace-first").backend_tokenizer)
    write_gguf(Path("mine.gguf"), small(), extra={"tokenizer.ggml.add_space_prefix": spaced})
    complete_tokenizer(GgufFile("mine.gguf", Path("mine.gguf")), rebuilt)
    ids = rebuilt("pass key", add_special_tokens=False).input_ids
    assert rebuilt.convert_ids_to_tokens(ids)[0].startswith("▁") is spaced
    assert rebuilt.decode(ids) == "pass key"
