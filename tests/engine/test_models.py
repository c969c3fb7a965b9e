"""Models that cannot be run, each refused in one sentence before it can give a wrong number."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.methods.trained_length import trained_length
from tests.cli.test_errors import assert_refused
from tests.helpers import TINY, cli, model_folder


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def gpt2(folder: Path) -> None:
    """Learned positions, no rotation."""
    model_folder(folder, drop=("model.safetensors", "config.json"))
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=1344, n_positions=256, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def with_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (model_folder(folder) / name).write_text(text) and None


def pickled(folder: Path) -> None:
    """Weights as a pickle, which can run code when it is read."""
    model_folder(folder, drop=("model.safetensors",))
    torch.save(load_file(TINY / "model.safetensors"), folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    """As a download that broke off leaves it."""
    weights = model_folder(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def without_a_layer(folder: Path) -> None:
    tensors = load_file(model_folder(folder) / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.2.mlp." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def changed(**config: object) -> Callable[[Path], None]:
    return lambda folder: model_folder(folder, **config) and None


def lacking(*names: str) -> Callable[[Path], None]:
    return lambda folder: model_folder(folder, drop=names) and None


def minimax(folder: Path) -> None:
    """Lightning attention beside full attention, with a cache class that no other model has."""
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    model_folder(folder, model_type="minimax", architectures=["MiniMaxForCausalLM"], **layers, **experts)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (minimax, "MiniMaxForCausalLM keeps its keys and states in a cache class of its own"),
        (gpt2, "GPT2LMHeadModel has no rotary_emb module: it is not a RoPE model that lcbench can steer"),
        (lacking("tokenizer.json", "tokenizer_config.json"), "has no tokenizer: copy its tokenizer files"),
        (lacking("tokenizer.json"), "cannot load the tokenizer of ./mine: "),
        (with_text("tokenizer.json", "{"), "cannot load the tokenizer of ./mine: "),
        (with_text("tokenizer.json", "{}"), "cannot load the tokenizer of ./mine: its files lack "),
        (lacking("config.json"), "./mine is not a model folder: it has no config.json"),
        (with_text("config.json", "{"), "cannot load the config of ./mine: "),
        (with_text("config.json", "[]"), "cannot load the config of ./mine: "),
        (with_text("config.json", "{}"), "cannot load the config of ./mine: "),
        (changed(model_type="from_the_future"), "does not recognize this architecture"),
        (
            changed(max_position_embeddings=0),
            "max_position_embeddings in its config.json must be a whole number of tokens",
        ),
        (changed(model_type="t5"), "./mine is not a causal language model: Unrecognized configuration class"),
        (
            changed(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
            "Pass --trust-remote-code if you trust it",
        ),
        (lacking("model.safetensors"), "./mine has no *.safetensors file, the only format that is loaded"),
        (pickled, "./mine has no *.safetensors file, the only format that is loaded"),
        (cut_off, "cannot load the model of ./mine: "),
        (with_text("model.safetensors", ""), "cannot load the model of ./mine: "),
        (without_a_layer, "that are missing or of another shape: 3, such as model.layers.2.mlp.down_proj.weight"),
        (changed(num_hidden_layers=5), "that are missing or of another shape: 9, such as model.layers.4."),
        (changed(hidden_size=64), "do not fit its config.json"),
        (changed(num_hidden_layers=3), "that no module of LlamaForCausalLM reads: 9, such as model.layers.3."),
        (changed(vocab_size=2000), "missing or of another shape: 1, such as model.embed_tokens.weight"),
        (changed(vocab_size=100), "tokens that its embedding of 100 rows lacks, such as"),
    ],
)
def test_refused(make: Callable[[Path], None], fragment: str) -> None:
    make(Path("mine"))
    small = ["run", "passkey", "-m", "./mine", "--seq-len", "256", "--samples", "1"]
    assert_refused(cli(*small), fragment)
    assert_refused(cli("table"), "there is no run in results")  # what failed to start hides no run that did


def test_a_dry_run_names_what_greedy_answers_leave_out() -> None:
    folder = model_folder(Path("mine"))
    given = {"repetition_penalty": 1.05, "suppress_tokens": [3], "min_length": 0, "temperature": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(given))
    outcome = cli("run", "passkey", "-m", "./mine", "--seq-len", "256", "--dry-run")
    said = " ".join((outcome.out + outcome.err).split())
    assert "./mine: repetition_penalty, suppress_tokens of its generation_config.json are not applied" in said


def test_a_dry_run_refuses_what_is_no_language_model() -> None:
    model_folder(Path("mine"), model_type="t5")
    assert_refused(cli("run", "passkey", "-m", "./mine", "--dry-run"), "./mine is not a causal language model: ")


def test_a_dry_run_refuses_a_model_without_rope_and_no_folder_is_made() -> None:
    gpt2(Path("mine"))
    for extra in (["--dry-run"], []):
        assert_refused(cli("run", "passkey", "-m", "./mine", "--seq-len", "256", *extra), "has no rotary_emb module")
    assert not Path("results").exists()


def test_retrained_weights_are_another_run() -> None:
    small = ["run", "passkey", "-m", "./mine", "--seq-len", "256", "--samples", "1", "-o", "run"]
    model_folder(Path("mine"))
    assert cli(*small).code == 0
    weights = Path("mine/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert_refused(cli(*small), "it differs in model_fingerprint")


def test_a_folder_runs_as_the_embedded_model_does() -> None:
    model_folder(Path("mine"))
    small = ["run", "passkey", "--seq-len", "256", "--samples", "1", "-o"]
    assert cli(*small, "embedded").code == cli(*small, "folder", "-m", "./mine").code == 0
    one, other = ((Path(name) / "records.jsonl").read_text() for name in ("embedded", "folder"))
    assert json.loads(one)["prediction"] == json.loads(other)["prediction"]


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model_folder(tmp_path / "mine")
    assert trained_length(ModelSource("~/mine").config()) == 256
    assert cli("show", "passkey", "-m", "~/mine", "--seq-len", "200").code == 0


@pytest.mark.parametrize(
    ("offline", "way_out"),
    [
        (False, "; give a local folder, or set HF_HUB_OFFLINE=1 if it is in the cache."),
        (True, "; give a local folder, or unset HF_HUB_OFFLINE."),
    ],
)
def test_a_hub_that_cannot_be_reached_is_told_once(
    offline: bool, way_out: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        try:
            raise LocalEntryNotFoundError("nothing here")
        except LocalEntryNotFoundError as error:
            raise OSError("We couldn't connect to 'https://huggingface.co'. See https://elsewhere") from error

    hub = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(hub, "propagate", True)
    caplog.set_level(logging.WARNING, "huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("lcbench.engine.checkpoint.StockConfig.from_pretrained", unreachable)
    monkeypatch.setattr(
        "lcbench.engine.checkpoint.require_model", lambda *_: None
    )  # as if its config were in the cache
    refused = cli("run", "passkey", "-m", "someone/no-such-model")
    assert_refused(refused, f"someone/no-such-model: We couldn't connect to 'https://huggingface.co'{way_out}")
    assert not caplog.records
    monkeypatch.setattr("lcbench.engine.checkpoint.StockConfig.from_pretrained", lambda *_, **__: {}["weight"])
    broken = cli("run", "passkey", "-m", "someone/no-such-model").error
    assert broken.endswith("its files lack 'weight'.")  # which the hub has nothing to do with


def test_fingerprint_tells_models_apart() -> None:
    model_folder(Path("same"))
    model_folder(Path("other"), rms_norm_eps=1e-6)

    def fingerprint(name: str) -> str:
        source = ModelSource(name)
        return source.checkpoint.fingerprint(source.config())

    assert fingerprint("./same") == fingerprint("lcbench-tiny") != fingerprint("./other")
    before = fingerprint("./same")
    assert before.startswith("sha256:")
    (Path("same") / "chat_template.jinja").write_text("{{ messages }}")  # a run with other prompts does not go on
    assert fingerprint("./same") != before


@pytest.mark.parametrize(
    ("dtype", "named", "expected"),
    [
        ("auto", "bfloat16", torch.bfloat16),
        ("auto", None, torch.float32),
        ("float32", "bfloat16", torch.float32),
        ("float16", None, torch.float16),
    ],
)
def test_dtype(dtype: str, named: str | None, expected: torch.dtype) -> None:
    model_folder(Path("mine"), dtype=named)
    source = ModelSource("./mine", dtype=dtype)
    assert source.torch_dtype(source.config()) == expected
    assert {parameter.dtype for parameter in source.model().parameters()} == {expected}


def with_tensors(**named: int) -> Path:
    """A copy of the embedded model with further tensors in its file of weights."""
    folder = model_folder(Path("more"))
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): torch.ones(size) for name, size in named.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "model__layers__0__self_attn__q_proj__bias",
        "model__layers__1__mlp__down_proj__lora_A__weight",
        "model__layers__4__input_layernorm__weight",
        "model__norm__bias",
        "lm_head__bias",
    ],
)
def test_weights_that_nobody_reads_are_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        ModelSource(str(with_tensors(**{name: 128}))).model()
    assert f"that no module of LlamaForCausalLM reads: 1, such as {name.replace('__', '.')}." in str(error.value)


def test_weights_of_another_part_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lcbench"):
        ModelSource(
            str(with_tensors(vision_tower__patch__weight=3, model__layers__0__self_attn__rotary_emb__inv_freq=16))
        ).model()
    assert [record.getMessage() for record in caplog.records] == [
        "more: 1 tensors are not read, such as vision_tower.patch.weight"
    ]


def test_a_tied_head_in_the_file_is_no_surplus() -> None:
    folder = model_folder(Path("tied"), tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert ModelSource(str(folder)).model().config.tie_word_embeddings


ROPE: dict[str, tuple[object, str]] = {
    "old spelling": ({"type": "su", "long_factor": [1.0] * 16, "short_factor": [1.0] * 16}, "write 'longrope' instead"),
    "unknown": ({"rope_type": "banana", "factor": 2.0}, "type 'banana', which transformers does not implement"),
    "a number": ({"rope_type": 5}, "has the type 5, which"),
    "a factor in words": ({"rope_type": "linear", "factor": "2"}, "factor in the rope_scaling .* not '2'"),
    "a base of 0": (
        {"rope_type": "default", "rope_theta": 0},
        "rope_theta .* must be a number above 0",
    ),
    "a base that is NaN": ({"rope_type": "default", "rope_theta": float("nan")}, "above 0, not nan"),
    "too few factors": (
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "original_max_position_embeddings": 128},
        "short_factor in the rope_scaling of its config.json has 1 numbers for 32 frequencies",
    ),
    "no type": ({"factor": 4.0}, "has the factor 4 but no type that uses it"),
}


@pytest.mark.parametrize("name", ROPE)
def test_rope_settings_that_nothing_computes_are_named(name: str, tmp_path: Path) -> None:
    scaling, sentence = ROPE[name]
    base = scaling.get("rope_theta", 10000.0) if isinstance(scaling, dict) else 10000.0
    folder = model_folder(tmp_path / "model", rope_parameters=None, rope_scaling=scaling, rope_theta=base)
    checkpoint = ModelSource(str(folder)).checkpoint

    def read() -> None:
        checkpoint.skeleton(checkpoint.config())

    with pytest.raises(UserError, match=sentence):
        read()


@pytest.mark.parametrize("scaling", [{"factor": 1.0}, {"rope_type": "linear", "factor": 2.0}])
def test_other_rope_settings_are_not(scaling: dict[str, Any], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", rope_parameters=None, rope_scaling=scaling, rope_theta=10000.0)
    checkpoint = ModelSource(str(folder)).checkpoint
    assert checkpoint.skeleton(checkpoint.config())


def test_layers_without_number_are_refused_at_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", num_hidden_layers=10**6)
    with pytest.raises(UserError, match="no model has 1,000,000 layers"):
        ModelSource(str(folder)).config()


@pytest.mark.parametrize("kind", ["bos", "eos"])
@pytest.mark.parametrize("rows", [1341, 2000])
def test_an_end_of_texts_that_the_vocabulary_lacks_is_refused(kind: str, rows: int, tmp_path: Path) -> None:
    """Whether the embedding has a row at its place or not: no training has touched it."""
    folder = model_folder(tmp_path / "model", vocab_size=rows)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {f"{kind}_token": "<foo>"}))
    with pytest.raises(UserError, match=f"has the {kind.upper()} token '<foo>', which its vocabulary lacks"):
        ModelSource(str(folder)).tokenizer()
    listed = {"1341": {"content": "<foo>", "special": True}}  # by the model's makers: then it is a token of theirs
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": listed}))
    if rows > 1341:
        assert getattr(ModelSource(str(folder)).tokenizer(), f"{kind}_token_id") == 1341


def test_tokens_beyond_the_embedding() -> None:
    source = ModelSource()
    rows = source.checkpoint.skeleton(source.config()).get_input_embeddings().weight.shape[0]
    tokenizer = source.tokenizer()
    source.checkpoint.check_tokenizer(tokenizer, rows)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|extra{n}|>" for n in range(10)]})
    assert len(tokenizer) > rows
    source.checkpoint.check_tokenizer(tokenizer, rows)  # nothing writes them
    tokenizer.chat_template = "{% for m in messages %}<|extra9|>{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match=rf"embedding of {rows} rows lacks, such as .*'<\|extra9\|>'"):
        source.checkpoint.check_tokenizer(tokenizer, rows)
    tokenizer.chat_template = None
    tokenizer.add_tokens(["zyxw"])
    with pytest.raises(UserError, match="'zyxw'"):
        source.checkpoint.check_tokenizer(tokenizer, rows)
