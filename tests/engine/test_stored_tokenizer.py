"""A tokenizer cuts texts as its tokenizer.json says, whatever class its config names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lcbench.engine.endpoint.source import _tokenizer_alone
from lcbench.engine.models import ModelSource
from lcbench.engine.stored_tokenizer import as_stored
from lcbench.tasks.format import PromptFormat
from tests.helpers import model_folder
from tests.tokenizers import BOS, EOS, LLAMA_3, _byte_level

TEXT = "The pass key is 48213. HelloWorld  x\n"


def folder_of(path: Path, tokenizer: Tokenizer, model_type: str = "llama", **config: Any) -> Path:
    """A model folder with this tokenizer, without weights."""
    model_folder(path, drop=("model.safetensors",), model_type=model_type)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": EOS, **config}))
    return path


def single_digits() -> Tokenizer:
    """As SmolLM2 and StarCoder."""
    tokenizer = _byte_level()
    split = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


@pytest.mark.parametrize(("model_type", "named"), [("llama", "GPT2Tokenizer"), ("qwen2", None)])
def test_the_file_decides_and_not_the_class(
    tmp_path: Path, model_type: str, named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = single_digits() if named else _byte_level(pattern=LLAMA_3)
    folder = folder_of(tmp_path / "model", made, model_type, **({"tokenizer_class": named} if named else {}))
    for tokenizer in (ModelSource(str(folder)).tokenizer(), _tokenizer_alone(folder)):
        assert tokenizer(TEXT, add_special_tokens=False).input_ids == made.encode(TEXT, add_special_tokens=False).ids
        assert tokenizer.eos_token == EOS
    assert caplog.text.count("splits text differently from transformers' ") == 2


def test_the_class_is_kept_where_it_agrees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path / "model", _byte_level(), tokenizer_class="GPT2Tokenizer")
    assert type(ModelSource(str(folder)).tokenizer()).__name__ == "GPT2Tokenizer" and not caplog.text


def test_control_tokens_of_a_chat_are_never_split(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", _byte_level(), split_special_tokens=True)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    tokenizer = ModelSource(str(folder)).tokenizer()
    ids = PromptFormat("asked").start(tokenizer, "key") + PromptFormat("asked").end(tokenizer, "key")
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id


def test_merges_are_not_dropped(tmp_path: Path) -> None:
    """A tokenizer may keep the dropout of its training, with which the same text has other tokens each time."""
    made = _byte_level()
    expected = made.encode(TEXT, add_special_tokens=False).ids
    made.model.dropout = 0.9
    tokenizer = ModelSource(str(folder_of(tmp_path / "model", made))).tokenizer()
    assert tokenizer(TEXT, add_special_tokens=False).input_ids == expected


@pytest.mark.parametrize("pattern", [LLAMA_3, r"\p{Lu}?\p{Ll}+|\p{Lu}|\p{N}"])
def test_a_rule_of_mistral_that_transformers_knows_to_be_wrong_is_told(
    pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It marks every large tokenizer of a Mistral folder, also one whose rule is right."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_byte_level(pattern=pattern), eos_token=EOS)
    tokenizer.backend_tokenizer.fix_mistral_regex = False
    as_stored("./mine", tokenizer, None, type(tokenizer))
    assert ("fix_mistral_regex" in caplog.text) == (pattern == LLAMA_3)
