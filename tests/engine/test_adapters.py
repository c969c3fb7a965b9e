"""Adapters in the weights, and weights of fewer bits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcbench.core.errors import UserError
from lcbench.engine.adapters import Adapter
from lcbench.engine.models import ModelSource
from tests.cli.test_errors import assert_refused
from tests.gguf_models import logits, tiny_model, write_gguf
from tests.helpers import TINY, cli, model_folder

IDS = list(range(40, 80))
RUN = ["run", "passkey", "--seq-len", "200", "--samples", "1"]
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_adapter(folder: Path, base: str = "lcbench-tiny", seed: int = 1, **options: Any) -> torch.Tensor:
    """A LoRA with random weights; returns the logits of the model under it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    chosen = {"target_modules": ["q_proj", "down_proj"], **options}
    config = LoraConfig(r=4, init_lora_weights=False, **chosen)
    adapted = get_peft_model(tiny_model(), config)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)
    return logits(adapted.eval(), IDS)


@needs_peft
def test_a_merged_adapter_computes_what_peft_does() -> None:
    expected = write_adapter(Path("mine"))
    merged = ModelSource(adapter="mine").model()
    torch.testing.assert_close(logits(merged, IDS), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(tiny_model(), IDS)).abs().max() > 0.1
    assert type(merged.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    (note,) = ModelSource(adapter="mine").notes(merged.config)
    assert note == "adapter mine is merged into the weights of lcbench-tiny."


@needs_peft
@pytest.mark.parametrize(
    "options", [{"target_modules": ["embed_tokens", "lm_head"]}, {"layer_replication": [[0, 2], [1, 4]]}]
)
@pytest.mark.filterwarnings("ignore")  # of peft, that merging would go wrong
def test_weights_that_modules_share_are_merged_into_the_adapted_one_alone(options: dict[str, Any]) -> None:
    """The embedded model's output head is its embedding; replicated layers have one set of weights."""
    expected = write_adapter(Path("mine"), **options)
    merged = ModelSource(adapter="mine").model()
    torch.testing.assert_close(logits(merged, IDS), expected, rtol=1e-4, atol=1e-4)


@needs_peft
def test_a_run_with_an_adapter_says_so_and_is_another_run() -> None:
    write_adapter(Path("mine"), base="someone/another-model")
    done = cli(*RUN, "--adapter", "mine", "-o", "run")
    assert done.code == 0
    merged = (
        "note: adapter mine is merged into the weights of lcbench-tiny, though it was trained on someone/another-model."
    )
    assert merged in done.err
    identity = json.loads(Path("run/run.json").read_text())["identity"]
    assert identity["adapter"] == "mine" and identity["adapter_fingerprint"].startswith("sha256:")
    assert identity["model"] == json.loads(Path("run/records.jsonl").read_text())["model"] == "lcbench-tiny + mine"
    write_adapter(Path("mine"), base="lcbench-tiny", seed=2)
    assert "it differs in adapter_fingerprint" in cli(*RUN, "--adapter", "mine", "-o", "run").error
    assert "it differs in model, adapter" in cli(*RUN, "-o", "run").error


@needs_peft
def test_an_adapter_goes_onto_a_gguf_file() -> None:
    write_gguf(Path("base.gguf"), tiny_model())
    expected = write_adapter(Path("mine"), base="base.gguf")
    merged = ModelSource("base.gguf", adapter="mine").model()
    torch.testing.assert_close(logits(merged, IDS), expected, rtol=1e-4, atol=1e-4)


def for_another_shape(folder: Path) -> None:
    write_adapter(folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: x[..., : x.shape[-1] // 2].contiguous() for name, x in load_file(path).items()}, path)


def with_more_tokens(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model()
    model.resize_token_embeddings(1349, mean_resizing=False)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)


def for_other_modules(folder: Path) -> None:
    write_adapter(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["c_attn"]}))


def without_some(folder: Path) -> None:
    write_adapter(folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: x for name, x in load_file(path).items() if ".layers.3." not in name}, path)


def a_prompt(folder: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    get_peft_model(tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).save_pretrained(
        folder
    )


def of_old(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"")


def damaged(file: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_adapter(folder)
        (folder / file).write_text("{")

    return make


@needs_peft
@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda folder: None, "there is no adapter folder ./mine; give a folder, or a Hugging Face id."),
        (Path.mkdir, "./mine is not an adapter: it has no adapter_config.json."),
        (lambda folder: model_folder(folder), "./mine is not an adapter: it has no adapter_config.json."),
        (damaged("adapter_config.json"), "adapter_config.json of ./mine cannot be read: "),
        (damaged("adapter_model.safetensors"), "adapter ./mine (LORA) cannot be merged into lcbench-tiny: "),
        (for_another_shape, "]; give the base that it was trained on."),
        (
            with_more_tokens,
            "[1349, 128], where the model has [1344, 128]: it was trained with an extended vocabulary",
        ),
        (for_other_modules, "adapter ./mine (LORA) cannot be merged into lcbench-tiny: Target modules"),
        (without_some, "adapter ./mine does not fit lcbench-tiny: 4 tensors are on one side only, such as base_model."),
        (a_prompt, "adapter ./mine (PROMPT_TUNING) is a prompt before every text, and no change of weights that could"),
        (of_old, "./mine has no adapter_model.safetensors, and weights are read from this format only; load an older"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(make: Callable[[Path], None], fragment: str) -> None:
    make(Path("mine"))
    outcome = cli(*RUN, "--adapter", "./mine")
    assert outcome.code == 2 and outcome.out == "" and fragment in outcome.error, outcome.err


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed."""
    find = importlib.util.find_spec
    for module in ("adapters", "quantization"):
        monkeypatch.setattr(f"lcbench.engine.{module}.find_spec", lambda name: None if name in packages else find(name))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--adapter", "mine"], "--adapter needs peft, which is not installed; pip install 'lcbench[adapter]'."),
        (
            ["--quantization", "4bit"],
            "--quantization 4bit needs bitsandbytes, which is not installed; pip install bitsandbytes.",
        ),
        (
            ["--quantization", "8bit"],
            "--quantization 8bit needs bitsandbytes, which is not installed; pip install bitsandbytes.",
        ),
        (["--quantization", "int8"], "--quantization int8 needs torchao, which is not installed; pip install torchao."),
        (["--quantization", "8bits"], "unknown quantization '8bits'; did you mean '8bit'?"),
    ],
)
def test_a_missing_package_is_named(options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "peft", "bitsandbytes", "torchao")
    assert_refused(cli(*RUN, *options), sentence)
    assert_refused(cli("ask", str(TINY / "config.json"), "What?", "-m", "lcbench-tiny", *options), sentence)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({"quant_method": "gptq", "bits": 4}, "./mine, quantized by gptq, needs optimum and gptqmodel, which is not"),
        ({"quant_method": "awq", "bits": 4}, "./mine, quantized by awq, needs gptqmodel, which is not installed; pip "),
        ({"quant_method": "compressed-tensors"}, "needs compressed-tensors, which is not installed; pip install compr"),
        ({"load_in_4bit": True}, "./mine, quantized by bitsandbytes, needs bitsandbytes, which is not installed; pip"),
        ({"quant_method": "from-the-future"}, "./mine is quantized by 'from-the-future', which transformers does not"),
        (
            {"quant_method": "aqlm"},
            "./mine, quantized by aqlm, cannot be loaded here: Using `aqlm` quantization requires",
        ),
        ({"bits": 4}, "./mine: the quantization_config in its config.json has no quant_method."),
    ],
)
def test_quantized_checkpoints_name_what_they_need(
    stored: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "optimum", "gptqmodel", "compressed_tensors", "bitsandbytes")
    model_folder(Path("mine"), quantization_config=stored)
    assert_refused(cli(*RUN, "-m", "./mine"), sentence)


def test_bits_are_not_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("quantization", "adapters"):
        monkeypatch.setattr(f"lcbench.engine.{module}.find_spec", lambda name: object())
    monkeypatch.setattr("lcbench.engine.adapters.Adapter.config", {})
    write_gguf(Path("mine.gguf"), tiny_model())
    fewer = ["--quantization", "4bit"]
    assert_refused(cli(*RUN, "-m", "mine.gguf", *fewer), "mine.gguf is already quantized; leave --quantization out.")
    assert_refused(cli(*RUN, "--adapter", "x", *fewer), "an adapter cannot be merged into --quantization 4bit without")
    model_folder(Path("stored"), quantization_config={"quant_method": "gptq", "bits": 4})
    assert_refused(cli(*RUN, "-m", "./stored", *fewer), "./stored is already quantized; leave --quantization out.")
    split = ModelSource(quantization="4bit", tensor_parallel=True)
    config = split.config()
    with pytest.raises(UserError, match="--tensor-parallel cannot be combined with"):
        split.check_weights(config)


@pytest.mark.parametrize(
    ("scheme", "package"), [("4bit", "bitsandbytes"), ("8bit", "bitsandbytes"), ("int8", "torchao")]
)
def test_weights_of_fewer_bits(scheme: str, package: str) -> None:
    pytest.importorskip(package)
    done = cli(*RUN, "--quantization", scheme, "-o", "run")
    assert done.code == 0, done.err
    assert f"note: lcbench-tiny: weights are quantized ({scheme}, {package})." in done.err
    identity = json.loads(Path("run/run.json").read_text())["identity"]
    assert identity["quantization"] == scheme and identity["model"] == f"lcbench-tiny ({scheme})"
    model = ModelSource(quantization=scheme).model()
    assert type(model.model.layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    difference = (logits(model, IDS) - logits(tiny_model(), IDS)).abs().max()
    assert 0 < difference < 8


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "{", "3"])
def test_a_config_that_is_none(content: str) -> None:
    Path("mine").mkdir()
    Path("mine/adapter_config.json").write_text(content)
    Path("mine/adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_config\.json of mine (cannot be read|must be a mapping)"):
        _ = Adapter("mine").config


def test_a_template_beside_an_adapter_is_told_to_be_unread() -> None:
    Path("mine").mkdir()
    Path("mine/adapter_config.json").write_text("{}")
    Path("mine/adapter_model.safetensors").write_bytes(b"")
    Path("mine/chat_template.jinja").write_text("{{ messages }}")
    assert (
        Adapter("mine")
        .note("base")
        .endswith("merged into the weights of base; its own chat_template.jinja is not read.")
    )
