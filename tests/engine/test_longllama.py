"""LongLLaMA checkpoints as they are published: stock classes, untouched weights, options of `fot` from the config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import lcbench
from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.methods import Lengths, parse_method
from lcbench.methods.trained_length import trained_length
from lcbench.tasks import Cell, load_task
from tests.attention import zoo
from tests.attention.memory_truth import bfloat16, explicit_logits, in_calls
from tests.attention.oracle import reference_logits
from tests.cli.test_errors import assert_refused
from tests.helpers import TINY, cli, lines_of

# syzymon/long_llama_3b_v1_1, to the letter.
LONG_LLAMA_3B_V1_1: dict[str, Any] = {
    "architectures": ["LongLlamaForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_longllama.LongLlamaConfig",
        "AutoModel": "modeling_longllama.LongLlamaModel",
        "AutoModelForCausalLM": "modeling_longllama.LongLlamaForCausalLM",
        "AutoModelForSequenceClassification": "modeling_longllama.LongLlamaForSequenceClassification",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "gradient_checkpoint_every_ith": 1,
    "hidden_act": "silu",
    "hidden_size": 3200,
    "initializer_range": 0.02,
    "intermediate_size": 8640,
    "last_context_length": 1024,
    "max_position_embeddings": 2048,
    "mem_attention_grouping": None,
    "mem_dtype": "bfloat16",
    "mem_layers": [6, 12, 18],
    "mem_positionals": True,
    "model_type": "longllama",
    "num_attention_heads": 32,
    "num_hidden_layers": 26,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_attention": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.30.0",
    "use_cache": True,
    "vocab_size": 32000,
}
LONG_LLAMA_3B = {
    key: value
    for key, value in LONG_LLAMA_3B_V1_1.items()
    if key not in ("last_context_length", "mem_attention_grouping")
}
LONG_LLAMA_CODE_7B = LONG_LLAMA_3B_V1_1 | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "last_context_length": 3072,
    "max_position_embeddings": 4096,
    "mem_layers": [8, 16, 24],
    "num_hidden_layers": 32,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "vocab_size": 32016,
}
PUBLISHED = {"3b": LONG_LLAMA_3B, "3b_v1_1": LONG_LLAMA_3B_V1_1, "code_7b": LONG_LLAMA_CODE_7B}
VOCABULARY = json.loads((TINY / "config.json").read_text())["vocab_size"]
# Two heads of 100 channels, which is the head size of the 3B; everything else small.
SMALL: dict[str, Any] = {
    "hidden_size": 200,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "mem_layers": [1, 3],
    "max_position_embeddings": 64,
    "vocab_size": VOCABULARY,
}
IDS = zoo.tokens(1, 140)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stock(rope_theta: float = 10000.0) -> LlamaForCausalLM:
    """The LLaMA that such a checkpoint is without memory, with random weights in bfloat16."""
    shape = {key: value for key, value in SMALL.items() if key != "mem_layers"}
    config = LlamaConfig(**shape, rms_norm_eps=1e-6, pad_token_id=0, attn_implementation="sdpa")
    config.rope_parameters = {"rope_type": "default", "rope_theta": rope_theta}
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0) if weight.ndim > 1 else weight.add_(torch.randn_like(weight) * 0.3)
            weight.data = weight.bfloat16()  # the weights alone: RoPE stays in float32
    return model


def checkpoint(published: dict[str, Any] = LONG_LLAMA_3B_V1_1, **changed: Any) -> ModelSource:
    """Folder ./mine as the hub has it, made small: weights in bfloat16, and what old checkpoints saved of RoPE."""
    folder = Path("mine")
    folder.mkdir()
    last = {"last_context_length": 32} if "last_context_length" in published else {}
    config = published | SMALL | last | changed
    (folder / "config.json").write_text(json.dumps(config))
    theta = config.get("rope_theta", 10000.0)
    tensors = {name: tensor.contiguous() for name, tensor in stock(theta).state_dict().items()}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = theta ** -(torch.arange(0, 100, 2) / 100)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return ModelSource("./mine", device="cpu")


@torch.no_grad()
def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    return model(ids).logits


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_config_is_that_of_a_llama(name: str) -> None:
    """Word for word, unshrunk: nothing of a config needs weights or the repository's code."""
    Path("mine").mkdir()
    published = PUBLISHED[name]
    Path("mine/config.json").write_text(json.dumps(published))
    source = ModelSource("./mine")
    config = source.config()
    assert type(config) is LlamaConfig and config.model_type == "llama"
    assert config.architectures == ["LlamaForCausalLM"] and not hasattr(config, "auto_map")
    assert config.head_dim == (128 if name == "code_7b" else 100)
    assert config.num_key_value_heads == config.num_attention_heads == 32
    assert config.rope_parameters["rope_theta"] == (1e6 if name == "code_7b" else 1e4)
    assert config.rope_parameters["rope_type"] == "default"
    assert trained_length(config) == published["max_position_embeddings"]
    assert source.torch_dtype(config) == torch.bfloat16
    same = ("hidden_size", "intermediate_size", "rms_norm_eps", "vocab_size", "pad_token_id", "bos_token_id")
    assert all(getattr(config, key) == published[key] for key in same)
    assert type(source.checkpoint.skeleton(config)) is LlamaForCausalLM


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("3b", "fot:memory_layers=[6,12,18],context_length=2048,last_context_length=1024"),
        ("3b_v1_1", "fot:memory_layers=[6,12,18],context_length=2048,last_context_length=1024"),
        ("code_7b", "fot:memory_layers=[8,16,24],context_length=4096,last_context_length=3072"),
    ],
)
def test_fot_takes_its_defaults_from_it(name: str, resolved: str) -> None:
    Path("mine").mkdir()
    Path("mine/config.json").write_text(json.dumps(PUBLISHED[name]))
    config = ModelSource("./mine").config()
    method = parse_method("fot").for_model(config).resolve(Lengths(trained_length(config)))
    assert str(method) == f"{resolved},mem_positionals=true,mem_dtype=bfloat16"


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_fot_it_is_the_llama_bit_for_bit(name: str) -> None:
    """Also far beyond its context, where a LLaMA is at a loss, and what LongLLaMA would do is not done."""
    model = checkpoint(PUBLISHED[name]).model()
    assert type(model) is LlamaForCausalLM and not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected = stock(PUBLISHED[name].get("rope_theta", 10000.0))
    for (one, weight), (other, its) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert one == other and torch.equal(weight, its)
    assert torch.equal(model.model.rotary_emb.inv_freq, expected.model.rotary_emb.inv_freq)
    assert torch.equal(logits(model), logits(expected))
    assert model.config.head_dim == 100


def test_the_base_of_its_rotation_matters() -> None:
    """Otherwise the test above would prove nothing of rope_theta."""
    assert (logits(stock(1e6)).float() - logits(stock()).float()).abs().max() > 0.1


@pytest.mark.parametrize("name", ["3b_v1_1", "code_7b"])
def test_with_fot_it_equals_the_reference(name: str) -> None:
    """Heads of 100 channels, in float32; mem_dtype as in the model, the rest as the config says."""
    model = checkpoint(PUBLISHED[name]).model().float()
    block = lcbench.extend(model, "fot:mem_dtype=float32")
    assert block.method.options()["memory_layers"] == (1, 3)
    expected = reference_logits(model, IDS, block.method, block.lengths)
    with block:
        torch.testing.assert_close(logits(model).double(), expected, atol=2e-4, rtol=0)
        assert block.layers_steered == 4
    cached = in_calls(model, "fot:mem_dtype=float32,prompt_length=140", IDS, [50, 51, 100, 140])
    torch.testing.assert_close(cached.double(), expected, atol=2e-4, rtol=0)
    assert (logits(model) - expected).abs().max() > 0.1


def test_memory_is_rounded_as_the_config_says() -> None:
    model = checkpoint().model().double()
    block = lcbench.extend(model, "fot:memory_layers=[0]")  # its keys are the same to the last bit however they are run
    assert block.method.options()["mem_dtype"] == "bfloat16"
    expected = explicit_logits(model, IDS, block.method, held=bfloat16)
    with block:
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    assert (explicit_logits(model, IDS, block.method) - expected).abs().max() > 1e-3


RUN = ["run", "passkey", "-m", "./mine", "--seq-len", "300", "--samples", "1"]


@pytest.mark.parametrize(
    ("typed", "resolved"),
    [
        (
            "fot",
            "memory_layers=[1,3],context_length=64,last_context_length=32,mem_positionals=true,mem_dtype=bfloat16",
        ),
        (
            "fot:memory_layers=[0,2],last_context_length=9,mem_dtype=float32,mem_attention_grouping=[1,50]",
            "memory_layers=[0,2],context_length=64,last_context_length=9,mem_positionals=true,mem_dtype=float32,"
            "mem_attention_grouping=[1,50]",
        ),
        (
            "fot:mem_positionals=false,context_length=50",
            "memory_layers=[1,3],context_length=50,last_context_length=32,mem_positionals=false,mem_dtype=bfloat16",
        ),
    ],
)
def test_a_dry_run_tells_the_options_that_it_would_use(typed: str, resolved: str) -> None:
    checkpoint()
    outcome = cli(*RUN, "--method", typed, "--dry-run")
    assert outcome.code == 0 and outcome.err.startswith("note: estimated time: ")
    assert f"resolved: fot:{resolved}\n" in outcome.out
    assert not Path("results").exists()


def test_a_run() -> None:
    """From the command line, with a tokenizer beside the weights."""
    checkpoint()
    outcome = cli(*RUN, "--method", "vanilla,fot,fot:memory_layers=[1,3],last_context_length=20", "-o", "out")
    assert outcome.code == 0
    vanilla, fot, typed = lines_of(Path("out"))
    assert [record["layers_steered"] for record in (vanilla, fot, typed)] == [4, 4, 4]
    assert [record["error"] for record in (vanilla, fot, typed)] == [None, None, None]
    assert fot["method_options"]["memory_layers"] == [1, 3] and fot["method_options"]["mem_dtype"] == "bfloat16"
    assert fot["method_options"]["last_context_length"] == 32 and typed["method_options"]["last_context_length"] == 20
    assert len({record["prediction"] for record in (vanilla, fot, typed)}) == 3
    again = cli(*RUN, "--method", "fot", "-o", "again")
    assert again.code == 0 and lines_of(Path("again"))[0]["prediction"] == fot["prediction"]


def test_a_run_equals_a_whole_forward_pass_for_every_token() -> None:
    source = checkpoint()
    outcome = cli(*RUN, "--method", "fot", "--dtype", "float32", "-o", "out")
    assert outcome.code == 0
    record, tokenizer = lines_of(Path("out"))[0], source.tokenizer()
    example = load_task("passkey").example(Cell(300, None), 0, tokenizer, 0)
    model, ids = ModelSource("./mine", dtype="float32").model(), torch.tensor([example.prompt])
    with lcbench.extend(model, f"fot:prompt_length={len(example.prompt)},mem_dtype=bfloat16"):
        for _ in range(record["output_tokens"]):
            ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    new = ids[0, len(example.prompt) :]
    assert record["prediction"] == tokenizer.decode(new, skip_special_tokens=True)


def test_a_memory_layer_that_the_model_lacks() -> None:
    checkpoint(mem_layers=[1, 4])
    assert_refused(cli(*RUN, "--method", "fot"), "fot: there is no layer 4; the model's are 0 to 3")


def test_a_shorter_window_than_the_configs_last_one() -> None:
    checkpoint()
    outcome = cli(*RUN, "--method", "fot:context_length=20")
    assert_refused(outcome, "last_context_length=32 is more than 20, a window has 20 tokens")


def test_weights_that_are_missing() -> None:
    checkpoint()
    tensors = load_file("mine/model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, "mine/model.safetensors", metadata={"format": "pt"})
    assert_refused(cli(*RUN), "missing or of another shape: 1, such as model.layers.2.mlp.up_proj.weight")


def test_pickled_weights_are_converted_not_run() -> None:
    """As the hub has them: refused with the way out, and that way leads to the same numbers."""
    source = checkpoint()
    expected = logits(source.model())
    torch.save(load_file("mine/model.safetensors"), "mine/pytorch_model.bin")
    Path("mine/model.safetensors").unlink()
    assert_refused(cli(*RUN, "--method", "fot"), "no *.safetensors file", "`lcbench convert ./mine --out FOLDER`")
    assert cli("convert", "./mine", "--out", "ours").code == 0
    converted = ModelSource("./ours")
    assert torch.equal(logits(converted.model()), expected)
    assert lcbench.extend(converted.model(), "fot").method.options()["memory_layers"] == (1, 3)


def test_a_model_that_is_saved_again_keeps_its_memory() -> None:
    """As after further training."""
    model = checkpoint().model()
    model.save_pretrained("saved")
    saved = ModelSource("./saved").model()
    assert torch.equal(logits(saved), logits(model))
    assert lcbench.extend(saved, "fot").method == lcbench.extend(model, "fot").method


def test_the_published_tokenizer_is_a_sentencepiece_model() -> None:
    """tokenizer.model with a tokenizer_config.json, and no tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    source = checkpoint()
    for path in Path("mine").glob("tokenizer*"):
        path.unlink()
    Path("text").write_text("The pass key is 48213. Remember it.\nThere and back again.\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input="text",
        model_prefix="mine/tokenizer",
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    special = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": special | {"content": "<s>"},
        "clean_up_tokenization_spaces": False,
        "eos_token": special | {"content": "</s>"},
        "model_max_length": 2048,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": special | {"content": "<unk>"},
    }
    Path("mine/tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = source.tokenizer()
    text = "The pass key is 48213. Remember it."
    assert tokenizer(text)["input_ids"][0] == 1
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert cli(*RUN, "--method", "fot", "-o", "out").code == 0


def test_other_models_have_no_defaults_of_memory() -> None:
    stock().save_pretrained("plain")
    with pytest.raises(UserError, match="the model's config has no mem_layers"):
        lcbench.extend(ModelSource("./plain").model(), "fot")
