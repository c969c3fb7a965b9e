"""DuoAttention: pieces that hold for some KV heads; which heads are full, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

import lcbench
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.duo_attention import DuoAttention
from tests.attention import zoo
from tests.attention.oracle import reference_logits

N = 60
# A layer of full heads, one of none, and two of both, which are those that a model with sliding layers has in full.
SPEC = "duo_attention:full_heads=[0:0,0:1,1:1,3:0],sinks=3,window=11"


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Four layers of two KV heads."""
    return zoo.build(zoo.config("LlamaConfig"))


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt-oss", "smollm3", "glm"])
@torch.no_grad()
def test_equals_the_reference(arch: str) -> None:
    """Sinks that are logits of a head, soft caps, sliding and NoPE layers; in chunks, and padded."""
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(2, N)
    lengths = Lengths(model.config.max_position_embeddings, N)
    expected = reference_logits(model, ids, parse_method(SPEC).for_model(model.config).resolve(lengths), lengths)
    assert (model(ids).logits - expected).abs().max() > 0.02
    padded, mask = zoo.left_padded(ids, [13, 0])
    with lcbench.extend(model, SPEC, length=N):
        cache, ends = DynamicCache(config=model.config), [25, 26, 58, 59, N]
        calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in zip([0, *ends], ends)]
        torch.testing.assert_close(torch.cat(calls, dim=1).double(), expected, atol=1e-4, rtol=0)
        actual = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(actual[0, 13:].double(), expected[0, : N - 13], atol=1e-4, rtol=0)


@torch.no_grad()
def test_every_head_full_is_vanilla(model: PreTrainedModel) -> None:
    ids = zoo.tokens(1, N)
    with lcbench.extend(model, "vanilla"):
        expected = model(ids).logits
    every = ",".join(f"{layer}:{head}" for layer in range(4) for head in range(2))
    with lcbench.extend(model, f"duo_attention:full_heads=[{every}],window=5"):
        assert torch.equal(model(ids).logits, expected)


def test_a_table_of_gates_names_the_full_heads(tmp_path: Path, model: PreTrainedModel) -> None:
    """As the authors publish them: a line a layer, and a number a KV head."""
    file = tmp_path / "full_attention_heads.tsv"
    file.write_text("0.9\t0.1\n\n5.0e-01\t0.49\n0\t0\n1e0\t0.7\n")
    for options, expected in (
        ({}, ("0:0", "1:0", "3:0", "3:1")),
        ({"threshold": 0.8}, ("0:0", "3:0")),
        ({"full_heads": ("2:1",)}, ("2:1",)),
    ):
        block = lcbench.extend(model, DuoAttention(file=str(file), **options))
        assert block.method.options()["full_heads"] == expected
    resolved = DuoAttention(file=str(file)).resolve(Lengths(64))
    file.unlink()
    assert parse_method(str(resolved)).resolve(Lengths(64)) == resolved


@pytest.mark.parametrize(("trained", "sinks", "window"), [(131072, 64, 256), (256, 16, 64), (3, 0, 1)])
def test_defaults_are_the_authors_for_long_models(trained: int, sinks: int, window: int) -> None:
    method = DuoAttention(full_heads=()).resolve(Lengths(trained))
    assert (method.sinks, method.window) == (sinks, window)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("duo_attention", r"say which KV heads are full, full_heads=\[LAYER:HEAD,...\], or file=PATH"),
        ("duo_attention:full_heads=[1]", r"full_heads must be LAYER:HEAD, as in \[0:1,2:0\], not '1'"),
        ("duo_attention:full_heads=[a:1]", "full_heads must be LAYER:HEAD"),
        ("duo_attention:full_heads=[-1:1]", "full_heads must be LAYER:HEAD"),
        ("duo_attention:full_heads=[4:0]", "there is no KV head 4:0; the model has 4 layers of 2"),
        ("duo_attention:full_heads=[0:2]", "there is no KV head 0:2"),
        ("duo_attention:full_heads=[0:1],window=0", "window must be at least 1, not 0"),
        ("duo_attention:full_heads=[0:1],sinks=-1", "sinks must be at least 0, not -1"),
        ("duo_attention:file=missing.tsv", "missing.tsv is not a table with a number for each KV head"),
        ("duo_attention+dca", "duo_attention and dca are both position plans"),
    ],
)
def test_refused(model: PreTrainedModel, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        lcbench.extend(model, spec)
    assert str(error.value).startswith("duo_attention") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1 0\n0 1\n", "1 0\n0 1\n1 1\n1 1 0\n", "", "1 x\n"])
def test_tables_of_another_model_are_refused(tmp_path: Path, model: PreTrainedModel, text: str) -> None:
    (tmp_path / "gates.tsv").write_text(text)
    with pytest.raises(UserError, match=r"gates\.tsv is (not about 4 layers of 2 KV heads|not a table with a number)"):
        lcbench.extend(model, DuoAttention(file=str(tmp_path / "gates.tsv")))


def test_a_part_of_the_heads_is_refused() -> None:
    """Under tensor parallelism a layer gets its own share of them, numbered from 0."""
    model, ids = zoo.llama(), zoo.tokens(1, 9)
    with torch.no_grad(), lcbench.extend(model, "duo_attention:full_heads=[0:1]", length=N):
        model.config.num_key_value_heads = 4
        with pytest.raises(
            UserError,
            match="treats KV heads differently, and attention of LlamaForCausalLM gets 2 of them here instead of 4",
        ):
            model(ids)
