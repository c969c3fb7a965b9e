"""RoPE scalings equal those of transformers, as numbers and as logits of a model configured that way."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

import lcbench
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.scaling import rope_theta
from tests.attention import oracle, zoo

ROPES = [(16, 1e4), (64, 1e4), (80, 25e4), (128, 5e5), (128, 1e7)]
every_rope = pytest.mark.parametrize(("dim", "theta"), ROPES)


def assert_same_rope(method: Method, lengths: Lengths, dim: int, theta: float, kind: str, **parameters: Any) -> None:
    inv_freq, _ = oracle.rope(lengths.pretraining, dim, theta)
    actual, factor = method.resolve(lengths).frequencies(inv_freq.float(), lengths)
    expected, expected_factor = oracle.rope(lengths.pretraining, dim, theta, lengths.run, rope_type=kind, **parameters)
    torch.testing.assert_close(actual, expected.float(), rtol=2e-5, atol=0)
    assert math.isclose(factor, expected_factor)


@every_rope
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
def test_linear(dim: int, theta: float, factor: float) -> None:
    assert_same_rope(parse_method("pi", factor=factor), Lengths(4096), dim, theta, "linear", factor=factor)


@every_rope
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
def test_ntk_is_a_larger_base(dim: int, theta: float, factor: float) -> None:
    larger = theta * factor ** (dim / (dim - 2))
    inv_freq, _ = oracle.rope(4096, dim, theta)
    actual, attention_factor = parse_method("ntk", factor=factor).frequencies(inv_freq, Lengths(4096))
    torch.testing.assert_close(actual, oracle.rope(4096, dim, larger)[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(actual[-1] * factor, inv_freq[-1])  # the slowest channel is stretched by the factor
    assert attention_factor == 1


@every_rope
@pytest.mark.parametrize("run", [100, 4096, 4097, 20000])
@pytest.mark.parametrize("factor", [1.0, 2.5, 8.0])
def test_dynamic(dim: int, theta: float, run: int, factor: float) -> None:
    method = parse_method("dynamic_ntk", factor=factor)
    assert_same_rope(method, Lengths(4096, run), dim, theta, "dynamic", factor=factor)


@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_dynamic_with_factor_one_is_ntk_of_the_run(factor: float) -> None:
    inv_freq, _ = oracle.rope(4096, 64, 1e4)
    lengths = Lengths(4096, int(factor * 4096))
    dynamic, _ = parse_method("dynamic_ntk:factor=1").frequencies(inv_freq, lengths)
    torch.testing.assert_close(dynamic, parse_method("ntk").resolve(lengths).frequencies(inv_freq, lengths)[0])


@every_rope
@pytest.mark.parametrize("pretraining", [64, 2048, 4096, 131072])
@pytest.mark.parametrize("options", [{}, {"beta_fast": 8.0, "beta_slow": 2.0}], ids=["paper", "other ramp"])
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
def test_yarn(dim: int, theta: float, pretraining: int, options: dict[str, float], factor: float) -> None:
    method = parse_method("yarn", factor=factor, **options)
    original = {"original_max_position_embeddings": pretraining}
    assert_same_rope(method, Lengths(pretraining), dim, theta, "yarn", factor=factor, **options, **original)


@every_rope
@pytest.mark.parametrize("pretraining", [64, 4096])
@pytest.mark.parametrize("factor", [1.0, 32.0])
@pytest.mark.parametrize(
    "options",
    [
        {"truncate": False},
        {"attention_factor": 1.25},
        {"mscale": 1.0, "mscale_all_dim": 0.707},
        {"mscale": 0.707, "mscale_all_dim": 0.707, "truncate": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_yarn_of_deepseek_and_gpt_oss(
    dim: int, theta: float, pretraining: int, options: dict[str, float], factor: float
) -> None:
    method = parse_method("yarn", factor=factor, **options)
    original = {"original_max_position_embeddings": pretraining}
    assert_same_rope(method, Lengths(pretraining), dim, theta, "yarn", factor=factor, **options, **original)


def test_yarns_mscale_alone_counts_as_in_deepseeks_code() -> None:
    method = parse_method("yarn:factor=40,mscale=0.5").resolve(Lengths(4096))
    assert math.isclose(method.options()["attention_factor"], 0.1 * 0.5 * math.log(40) + 1)


@every_rope
def test_abf_has_the_frequencies_of_another_base(dim: int, theta: float) -> None:
    inv_freq, _ = oracle.rope(4096, dim, theta)
    actual, factor = parse_method("abf:base=700000").frequencies(inv_freq, Lengths(4096))
    torch.testing.assert_close(actual, oracle.rope(4096, dim, 700000.0)[0], rtol=1e-9, atol=0)
    assert factor == 1


@pytest.mark.parametrize(("p", "kept"), [(0.0, 0), (0.25, 10), (0.74, 29), (0.75, 30), (1.0, 40)])
def test_p_rope_stops_the_slowest_channels(p: float, kept: int) -> None:
    inv_freq, _ = oracle.rope(4096, 80, 1e4)
    actual, _ = parse_method("p_rope", p=p).frequencies(inv_freq, Lengths(4096))
    assert torch.equal(actual[:kept], inv_freq[:kept]) and not actual[kept:].any()


@every_rope
@pytest.mark.parametrize("scaling", ["", "+yarn:factor=8", "+p_rope"])
def test_resonance_repeats_after_whole_tokens(dim: int, theta: float, scaling: str) -> None:
    """Whatever the other scaling is, and in whichever order they are written; channels that stand still do so."""
    inv_freq, lengths = oracle.rope(4096, dim, theta)[0], Lengths(4096)
    methods = [parse_method(spec).resolve(lengths) for spec in (f"resonance{scaling}", f"{scaling}+resonance"[1:])]
    actual, factor = methods[0].frequencies(inv_freq, lengths)
    assert all(torch.equal(each.frequencies(inv_freq, lengths)[0], actual) for each in methods)
    turning = actual[actual > 0]
    wavelengths = 2 * math.pi / turning
    torch.testing.assert_close(wavelengths, wavelengths.round(), rtol=1e-12, atol=0)
    other, other_factor = parse_method(scaling[1:] or "vanilla").resolve(lengths).frequencies(inv_freq, lengths)
    assert factor == other_factor and torch.equal(actual > 0, other > 0)
    assert ((2 * math.pi / other)[other > 0] - wavelengths).abs().max() <= 0.5 + 1e-9


def test_yarns_ramp_ends_with_the_channels() -> None:
    """A base so small that even the last channel turns within the pretraining length."""
    original = {"original_max_position_embeddings": 1800}
    assert_same_rope(parse_method("yarn:factor=4"), Lengths(1800), 16, 20.0, "yarn", factor=4.0, **original)


@every_rope
@pytest.mark.parametrize("pretraining", [64, 8192])
@pytest.mark.parametrize("bounds", [(1.0, 4.0), (0.5, 3.0)])
@pytest.mark.parametrize("factor", [1.0, 2.5, 32.0])
def test_llama3(dim: int, theta: float, pretraining: int, bounds: tuple[float, float], factor: float) -> None:
    options = {"factor": factor, "low_freq_factor": bounds[0], "high_freq_factor": bounds[1]}
    original = {"original_max_position_embeddings": pretraining}
    assert_same_rope(
        parse_method("llama3", **options), Lengths(pretraining), dim, theta, "llama3", **options, **original
    )


@every_rope
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_the_base_is_found_under_the_models_own_scaling(dim: int, theta: float, kind: str) -> None:
    options = {key: value for key, value in zoo.OWN_SCALING[kind].items() if key != "rope_theta"}
    if kind != "linear":
        options["original_max_position_embeddings"] = 8192
    own, _ = oracle.rope(8192, dim, theta, **options)
    assert math.isclose(rope_theta(own), theta, rel_tol=1e-4)


NATIVE = {
    "abf:base=777": {"rope_type": "default", "rope_theta": 777.0},
    "pi:factor=4": {"rope_type": "linear", "factor": 4.0},
    "dynamic_ntk:factor=3": {"rope_type": "dynamic", "factor": 3.0},
    "yarn:factor=4": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": zoo.PRETRAINING},
    "llama3:factor=8": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": zoo.PRETRAINING,
    },
}


@pytest.mark.parametrize("arch", ["llama", "phi", "gpt-neox", "glm", "qwen3", "gemma2"])
@pytest.mark.parametrize("spec", NATIVE)
@torch.no_grad()
def test_logits_equal_a_model_configured_so(spec: str, arch: str) -> None:
    ids = zoo.tokens(2, 100)
    plain = zoo.build(zoo.ARCHITECTURES[arch]())
    scaled_config = zoo.ARCHITECTURES[arch]()
    scaled_config.rope_parameters = {**copy.deepcopy(scaled_config.rope_parameters), **NATIVE[spec]}
    expected = zoo.build(scaled_config)(ids).logits
    assert (plain(ids).logits - expected).abs().max() > 0.05
    with lcbench.extend(plain, spec, length=100) as model:
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("arch", ["llama", "llama-linear", "llama-llama3", "llama-yarn", "glm"])
@torch.no_grad()
def test_pi_squeezes_positions(arch: str) -> None:
    """On top of a scaling of the model's own, too: rotary modules take fractions of positions."""
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(2, 100)
    expected = model(ids, position_ids=torch.arange(100)[None] / 4).logits
    assert (model(ids).logits - expected).abs().max() > 0.05
    with lcbench.extend(model, "pi:factor=4"):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sliding_theta", [500.0, 10000.0], ids=["other base", "same base"])
@torch.no_grad()
def test_a_rotation_for_full_layers_alone_is_scaled_alone(sliding_theta: float) -> None:
    """Gemma 3 has one for each kind of layer, which may be the same numbers."""
    plain, scaled = zoo.ARCHITECTURES["gemma3"](), zoo.ARCHITECTURES["gemma3"]()
    for config, change in ((plain, {}), (scaled, NATIVE["yarn:factor=4"])):
        config.rope_parameters = {
            "full_attention": {**zoo.rope_parameters("default"), **change},
            "sliding_attention": {"rope_type": "default", "rope_theta": sliding_theta},
        }
    model, ids = zoo.build(plain), zoo.tokens(2, 100)
    block = lcbench.extend(model, "yarn:factor=4", length=100)
    with block:
        torch.testing.assert_close(model(ids).logits, zoo.build(scaled)(ids).logits, atol=1e-4, rtol=0)
    assert block.layers_steered == 2


@pytest.mark.parametrize("name", ["pi", "ntk", "yarn", "llama3", "dynamic_ntk"])
def test_factor_follows_from_the_length(name: str) -> None:
    method = parse_method(name)
    assert method.resolve(Lengths(4096, 16384)).options()["factor"] == 4
    assert method.resolve(Lengths(4096, 1000)).options()["factor"] == 1
    with pytest.raises(UserError, match=f"{name}.*length="):
        method.resolve(Lengths(4096))
    with pytest.raises(UserError, match=r"factor must be at least 1, not 0\.5"):
        parse_method(name, factor=0.5).resolve(Lengths(4096, 16384))


def test_a_single_frequency_has_no_base() -> None:
    with pytest.raises(UserError, match="single frequency"):
        parse_method("ntk:factor=2").frequencies(torch.ones(1), Lengths(64))
