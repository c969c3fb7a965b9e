"""Models in one GGUF file: what transformers makes of it, and files that cannot be run."""

from __future__ import annotations

import copy
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from lcbench.apps.train.lm import described
from lcbench.attention.options import AttentionOptions
from lcbench.core.errors import UserError
from lcbench.engine.endpoint.address import Address
from lcbench.engine.endpoint.source import EndpointSource
from lcbench.engine.gguf_config import complete_config
from lcbench.engine.models import ModelSource
from tests.cli.test_errors import assert_refused
from tests.gguf_models import IDS, SIZES, Stated, logits, small, tiny_model, write_gguf
from tests.helpers import cli


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
        ("llama", {"tie_word_embeddings": False}),
        ("nemotron", {"head_dim": 32}),
    ],
)
def test_a_file_computes_what_its_model_does(architecture: str, options: dict[str, Any]) -> None:
    model = small(architecture, **options)
    write_gguf(Path("mine.gguf"), model)
    source = ModelSource("mine.gguf")
    config = source.config()
    assert config.rope_parameters["rope_theta"] == 100000.0 and config.max_position_embeddings == 512
    assert config.tie_word_embeddings is model.config.tie_word_embeddings
    torch.testing.assert_close(logits(source.model(), IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


GEMMA_3 = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
GEMMA = {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32}
EXPERTS = {"head_dim": 32, "num_experts_per_tok": 2, "tie_word_embeddings": False}
OF_EXPERTS = {".expert_count": 4, ".expert_used_count": 2, ".expert_gating_func": 2}
PARTIAL = {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("architecture", "options", "extra"),
    [
        ("gemma2", {**GEMMA, "final_logit_softcapping": 5.0}, {".final_logit_softcapping": 5.0}),
        ("gemma3_text", {**GEMMA, "num_hidden_layers": 6, "rope_parameters": GEMMA_3}, {".rope.scaling.factor": 8.0}),
        ("phi3", {"sliding_window": 8, "pad_token_id": 0, "rope_parameters": PARTIAL}, {}),
        ("starcoder2", {}, {}),
        (
            "qwen3_moe",
            {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": True},
            {**OF_EXPERTS, ".expert_feed_forward_length": 32},
        ),
        ("minimax_m2", {**EXPERTS, "num_local_experts": 4, "rope_parameters": PARTIAL}, OF_EXPERTS),
        (
            "lfm2",
            {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
            {".attention.head_count_kv": [0, 2], ".shortconv.l_cache": 3},
        ),
    ],
)
def test_what_transformers_leaves_out_of_the_config_is_added(
    architecture: str, options: dict[str, Any], extra: dict[str, Any]
) -> None:
    """Window, soft caps, scales, scaling and share of the rotated channels: without one the logits are others."""
    model = small(architecture, **options)
    write_gguf(Path("mine.gguf"), model, extra=extra)
    torch.testing.assert_close(logits(ModelSource("mine.gguf").model(), IDS), logits(model, IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_scales_its_scores_by_its_width(architecture: str, layers: int) -> None:
    """27 billion weights are told by their layers, as llama.cpp does; the file does not say it."""
    family = "gemma3_text" if architecture == "gemma3" else architecture
    for count, scale in ((2, 32), (layers, 16)):
        config = CONFIG_MAPPING[family](
            **{name: value for name, value in SIZES.items() if name != "rope_parameters"}
            | copy.deepcopy(GEMMA)
            | {"num_hidden_layers": count, "query_pre_attn_scalar": 1}
        )
        complete_config(Stated(architecture), config)
        assert config.query_pre_attn_scalar == scale


@pytest.mark.parametrize(("kind", "dtype"), [("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", None), ("Q4_1", None)])
def test_dequantized_weights_are_those_of_transformers(kind: str, dtype: str | None) -> None:
    write_gguf(Path("mine.gguf"), small(), kind)
    source = ModelSource("mine.gguf", dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(".", gguf_file="mine.gguf", dtype=torch.float32)
    assert torch.equal(logits(source.model(), IDS), logits(plain, IDS))
    config = source.config()
    facts = source.inspect(source.tokenizer(), AttentionOptions())
    assert source.identity(facts)["weights"] == f"GGUF {kind}"
    assert config.dtype == (getattr(torch, dtype) if dtype else None)


def test_the_embedded_model_answers_from_a_file_as_it_does_from_its_folder() -> None:
    write_gguf(Path("mine.gguf"), tiny_model())
    run = ["run", "passkey", "--chat", "off", "--seq-len", "200", "--samples", "1", "-o"]
    assert cli(*run, "folder").code == cli(*run, "file", "-m", "mine.gguf").code == 0
    one, other = (json.loads(Path(name, "records.jsonl").read_text()) for name in ("folder", "file"))
    assert one["prompt_sha256"] == other["prompt_sha256"]
    assert one["prediction"] == other["prediction"] and one["scores"] == other["scores"]
    identity = json.loads(Path("file/run.json").read_text())["identity"]
    assert identity["weights"] == "GGUF F32"
    assert "weights" not in json.loads(Path("folder/run.json").read_text())["identity"]


def test_a_note_tells_what_is_dequantized_and_other_weights_are_another_run() -> None:
    path = write_gguf(Path("mine.gguf"), tiny_model(), "Q8_0")
    run = ["run", "passkey", "--seq-len", "200", "--samples", "1", "-m", "mine.gguf", "--dtype", "float32", "-o", "run"]
    assert "note: mine.gguf: weights of Q8_0 are dequantized to float32." in cli(*run).err
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert cli(*run).error == "error: run holds another run (it differs in model_fingerprint); pass another --output."


def test_a_served_model_is_counted_with_the_tokenizer_of_a_file() -> None:
    write_gguf(Path("mine.gguf"), tiny_model())
    source = EndpointSource("m", Address.parse("http://localhost:1/v1"), ModelSource("mine.gguf"))
    assert source.tokenizer()("a  12").input_ids == ModelSource("mine.gguf").tokenizer()("a  12").input_ids


LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def divisors(model: PreTrainedModel) -> np.ndarray:
    """Of the rotary frequencies, as llama.cpp's converter computes them for Llama 3.1."""
    rope = model.model.rotary_emb
    size = 2 * len(rope.inv_freq)
    plain = model.config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2) / size)
    return (plain / rope.inv_freq).float().numpy()


def test_scaled_frequencies_are_those_of_the_model() -> None:
    """What transformers leaves out of the config, with which a model would compute something else."""
    model = small(rope_parameters=LLAMA_3, head_dim=64)
    write_gguf(Path("llama3.gguf"), model, tensors={"rope_freqs.weight": divisors(model)})
    source = ModelSource("llama3.gguf")
    assert source.config().rope_parameters == LLAMA_3
    torch.testing.assert_close(logits(source.model(), IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "parameters"),
    [
        ({".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {
                ".rope.scaling.type": "yarn",
                ".rope.scaling.factor": 4.0,
                ".rope.scaling.original_context_length": 128,
                ".rope.scaling.yarn_attn_factor": 1.25,
                ".rope.scaling.yarn_beta_fast": 16.0,
                ".rope.scaling.yarn_beta_slow": 2.0,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "attention_factor": 1.25,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        ),
        ({".rope.scaling.type": "none"}, {"rope_type": "default"}),
        ({".rope.scaling.type": "none", ".rope.scaling.factor": 4.0}, {"rope_type": "default"}),
        ({".rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({".rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({".rope.scaling.factor": 0.0}, {"rope_type": "default"}),
    ],
)
def test_rope_scaling_reaches_the_config(extra: dict[str, Any], parameters: dict[str, Any]) -> None:
    write_gguf(Path("mine.gguf"), small(), extra=extra)
    assert ModelSource("mine.gguf").config().rope_parameters == parameters | {"rope_theta": 100000.0}


def biased(path: Path) -> None:
    write_gguf(path, small(attention_bias=True))


def with_rope(**tensors: np.ndarray) -> Callable[[Path], None]:
    names = {"freqs": "rope_freqs.weight", "long": "rope_factors_long.weight"}
    return lambda path: write_gguf(path, small(), tensors={names[key]: x for key, x in tensors.items()}) and None


def cut(share: float) -> Callable[[Path], None]:
    """As a download that broke off leaves it."""

    def make(path: Path) -> None:
        content = write_gguf(path, small()).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return make


def endless(path: Path) -> None:
    """A list that says it has 2 ** 60 numbers."""
    key = b"general.numbers"
    listed = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 4, 2**60)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + listed)


def named(architecture: str) -> Callable[[Path], None]:
    return lambda path: write_gguf(path, small(), architecture=architecture) and None


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda path: None, "cannot read mine.gguf: No such file or directory."),
        (os.mkfifo, "mine.gguf is not a regular file; give a GGUF file."),
        (lambda path: path.symlink_to("/dev/zero"), "mine.gguf is not a regular file; give a GGUF file."),
        (Path.mkdir, "mine.gguf is not a model folder: it has no config.json."),
        (lambda path: path.write_text("{}"), "mine.gguf is not a GGUF file: it does not begin with the letters GGUF."),
        (lambda path: path.write_bytes(b"GGUF"), "mine.gguf is damaged or truncated; download it again."),
        (cut(0.01), "mine.gguf is damaged or truncated; download it again."),
        (cut(0.99), "mine.gguf is damaged or truncated; download it again."),
        (endless, "mine.gguf is damaged or truncated; download it again."),
        (named("clip"), "mine.gguf holds only the vision part of a model"),
        (
            named("gpt-oss"),
            "is a model of the architecture gpt-oss, of whose GGUF files transformers reads a part only",
        ),
        (named("gemma4"), "of the architecture gemma4, of whose GGUF files transformers reads a part only; take the"),
        (named("rwkv7"), "cannot load the config of mine.gguf: GGUF model with architecture rwkv7 is not supported"),
        (biased, "mine.gguf has tensors that no module of LlamaForCausalLM reads: 8, such as blk.0.attn_q.bias."),
        (with_rope(freqs=np.ones(8, np.float32) * 3), "in a way that is not Llama 3's"),
        (with_rope(long=np.ones(8, np.float32)), "scales its rotary frequencies as 'longrope', which transformers"),
    ],
)
def test_refused(make: Callable[[Path], None], fragment: str) -> None:
    make(Path("mine.gguf"))
    assert_refused(cli("run", "passkey", "-m", "mine.gguf", "--seq-len", "200", "--samples", "1"), fragment)
    assert not Path("results").exists()


def test_a_part_of_a_split_model_is_refused() -> None:
    write_gguf(Path("mine-00001-of-00003.gguf"), small())
    assert_refused(cli("show", "passkey", "-m", "mine-00001-of-00003.gguf"), "is a part of a split model")
    hosted = "owner/name:mine-00001-of-00003.gguf"  # refused before it is downloaded
    assert_refused(cli("show", "passkey", "-m", hosted), "is a part of a split model")


def test_a_file_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lcbench.core.hub.is_reachable", lambda: False)
    name = "owner/name:mine.gguf"
    assert_refused(cli("run", "passkey", "-m", name), "owner/name is not in the cache, and ")
    asked: list[Any] = []

    def download(repository: str, file: str, **options: Any) -> str:
        asked.append((repository, file, options["revision"]))
        return str(write_gguf(tmp_path / file, small()))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("lcbench.engine.checkpoint.require_model", lambda *_: None)
    source = ModelSource(name, revision="main")
    assert source.config().vocab_size == 1344 and source.tokenizer().pad_token_id == 1
    assert asked == [("owner/name", "mine.gguf", "main")]
    config, local = source.config(), ModelSource("mine.gguf")
    assert source.checkpoint.fingerprint(config) == local.checkpoint.fingerprint(config)


def test_options_that_do_not_go_with_a_file() -> None:
    write_gguf(Path("mine.gguf"), small())
    run = ["run", "passkey", "-m", "mine.gguf", "--seq-len", "200"]
    assert_refused(cli(*run, "--revision", "main"), "mine.gguf is a file; --revision is for models on the hub.")
    assert_refused(cli(*run, "--tensor-parallel"), "--tensor-parallel does not split a GGUF file")
    assert_refused(cli("convert", "mine.gguf", "--out", "new"), "is a GGUF file, which every command accepts as it is")


@pytest.mark.slow
def test_other_commands_take_a_file() -> None:
    write_gguf(Path("mine.gguf"), tiny_model())
    Path("text.txt").write_text("The grass is green. The sky is blue. ")
    assert cli("show", "passkey", "-m", "mine.gguf", "--seq-len", "200").code == 0
    assert cli("ask", "text.txt", "What is green?", "-m", "mine.gguf", "--max-new-tokens", "2").code == 0
    assert cli("bench", "-m", "mine.gguf", "--seq-len", "64", "--what", "decode", "--rounds", "1").code == 0


def test_a_loaded_file_can_be_trained_and_saved_as_any_model() -> None:
    write_gguf(Path("mine.gguf"), small(), "Q8_0")
    source = ModelSource("mine.gguf", dtype="float32")
    model = source.model()
    assert described(source, model)["name"] == "mine.gguf"
    model(input_ids=torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
    model.save_pretrained("saved")
    source.tokenizer().save_pretrained("saved")
    assert torch.equal(logits(ModelSource("./saved").model(), IDS), logits(model, IDS))
    assert ModelSource("./saved").tokenizer()("a  12").input_ids == source.tokenizer()("a  12").input_ids


def test_the_loader_of_transformers_is_left_as_it_was() -> None:
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    write_gguf(Path("mine.gguf"), small())
    ModelSource("mine.gguf").model()
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    with pytest.raises(UserError, match="cannot read"):
        ModelSource("absent.gguf").model()
