"""Pickled checkpoints become safetensors, and nothing in them runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lcbench.core.errors import UserError
from lcbench.engine.convert import convert_checkpoint
from lcbench.engine.models import ModelSource
from tests.attention import zoo
from tests.helpers import cli


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A small Llama as two pickled shards with their index, as old checkpoints are."""
    folder = tmp_path / "pickled"
    model = zoo.llama()
    model.config.save_pretrained(folder)
    names = list(model.state_dict())
    shards = {f"pytorch_model-0000{n}-of-00002.bin": part for n, part in ((1, names[:5]), (2, names[5:]))}
    for file, part in shards.items():
        torch.save({name: model.state_dict()[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_the_same_model_in_safetensors(pickled: Path, tmp_path: Path) -> None:
    outcome = cli("convert", str(pickled), "--out", str(tmp_path / "out"))
    assert outcome.code == 0 and outcome.out.count(".safetensors") == 2
    assert not list((tmp_path / "out").glob("*.bin*"))
    ids = zoo.tokens(1, 20)
    loaded = ModelSource(str(tmp_path / "out")).model()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, zoo.llama()(ids).logits, atol=1e-4, rtol=0)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "llama"


def test_one_file_and_tied_weights(tmp_path: Path) -> None:
    model = zoo.llama(tie_word_embeddings=True)
    model.config.save_pretrained(tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    assert convert_checkpoint(str(tmp_path / "pickled"), tmp_path / "out") == [tmp_path / "out" / "model.safetensors"]
    ids = zoo.tokens(1, 20)
    loaded = ModelSource(str(tmp_path / "out")).model()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-4, rtol=0)


def test_an_unconverted_folder_says_what_to_do(pickled: Path) -> None:
    with pytest.raises(UserError, match=r"lcbench convert .* --out"):
        ModelSource(str(pickled)).model()


def test_code_in_a_pickle_does_not_run(pickled: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    (pickled / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps({"x": Bomb()}))
    with pytest.raises(UserError, match="holds more than tensors, or is damaged"):
        convert_checkpoint(str(pickled), tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_nothing_to_convert_and_nothing_overwritten(pickled: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no pytorch_model"):
        convert_checkpoint(str(tmp_path / "empty"), tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        convert_checkpoint(str(tmp_path / "empty"), pickled)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nomodel", "there is no model folder ./nomodel; give a folder, or a Hugging Face id such as owner/name."),
        ("lcbench-tiy", "unknown model 'lcbench-tiy'; did you mean 'lcbench-tiny'?"),
        ("lcbench-tiny", "lcbench-tiny has no pytorch_model*.bin to convert."),
    ],
)
def test_a_name_that_cannot_be_on_the_hub_is_not_asked_for(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    refused = cli("convert", name, "--out", tmp_path / "out")
    assert (refused.code, refused.error) == (2, f"error: {said}") and not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused = cli("convert", "someone/no-such-model", "--out", tmp_path / "out")
    assert refused.code == 2 and "someone/no-such-model is not in the cache, and HF_HUB_OFFLINE is set" in refused.error
    assert refused.error.endswith("; give a local folder, or unset HF_HUB_OFFLINE.")


@pytest.mark.parametrize("content", [{"a": 3}, [1, 2], {"a": {"b": torch.zeros(2)}}, None])
def test_weights_that_are_no_tensors(tmp_path: Path, content: object) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    (model / "config.json").write_text("{}")
    shard = model / "pytorch_model.bin"
    torch.save(content, shard) if content else shard.write_bytes(b"")
    refused = cli("convert", model, "--out", out)
    assert refused.code == 2 and "pytorch_model.bin" in refused.error and not any(out.glob("*"))


def test_an_out_that_is_a_file_or_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    (model / "config.json").write_text("{}")
    torch.save({"a": torch.zeros(2)}, model / "pytorch_model.bin")
    refused = cli("convert", model, "--out", model / "config.json")
    assert refused.code == 2 and "config.json is a file; choose another --out" in refused.error

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copy", full)
    refused = cli("convert", model, "--out", out)
    assert refused.code == 2 and f"cannot write to {out}: No space left on device" in refused.error
    assert not any(out.iterdir())
