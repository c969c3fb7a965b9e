"""What people type is what they get, and what cannot be is refused in one sentence that helps."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.core.errors import UserError
from lcbench.core.specs import parse_depths, parse_length, parse_lengths, split_list, split_spec
from lcbench.methods import Composition, Lengths, Method, all_methods, parse_method
from lcbench.methods.base import REGISTRY, compose
from lcbench.methods.dca import DualChunkAttention
from lcbench.methods.logn import LogN
from lcbench.methods.ntk import NTK
from lcbench.methods.self_extend import SelfExtend
from lcbench.methods.vanilla import Vanilla
from lcbench.methods.yarn import YaRN
from tests.attention import strategies
from tests.attention.test_exactness import METHODS


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        ("vanilla", Vanilla()),
        ("dca:chunk_size=48,max_position=63", DualChunkAttention(chunk_size=48, max_position=63)),
        ("dca:chunk_size=3k, variant=chunkllama", DualChunkAttention(chunk_size=3072, variant="chunkllama")),
        (" self_extend : group_size = 4 ", SelfExtend(group_size=4)),
        ("yarn:factor=4", YaRN(factor=4.0)),
        ("ntk:factor=1e+2", NTK(factor=100.0)),
        ("dca+yarn:factor=4", Composition((DualChunkAttention(), YaRN(factor=4.0)))),
        ("ntk:factor=2 + logn:base=256", Composition((NTK(factor=2.0), LogN(base=256.0)))),
    ],
)
def test_parse_method(spec: str, method: Method) -> None:
    assert parse_method(spec) == method


@pytest.mark.parametrize(
    ("spec", "options", "method"),
    [
        ("dca", {"chunk_size": 48}, DualChunkAttention(chunk_size=48)),
        ("dca:chunk_size=24", {"max_position": "4k"}, DualChunkAttention(chunk_size=24, max_position=4096)),
        (DualChunkAttention(chunk_size=24), {"mscale": 0.1}, DualChunkAttention(chunk_size=24, mscale=0.1)),
        (
            "dca+yarn",
            {"factor": 4, "variant": "chunkllama"},
            DualChunkAttention(variant="chunkllama") + YaRN(factor=4.0),
        ),
        (NTK() + LogN(), {"base": 9}, NTK() + LogN(base=9.0)),
        ("dca", {"chunk_size": None}, DualChunkAttention()),
    ],
)
def test_options_as_keywords(spec: str | Method, options: dict[str, object], method: Method) -> None:
    assert parse_method(spec, **options) == method


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("yarm", "unknown method 'yarm'; did you mean 'yarn'?"),
        ("selfextend", "did you mean 'self_extend'?"),
        ("xxxxxx", "known: abf, dca"),
        ("", "unknown method ''"),
        ("dca+", "unknown method"),
        ("dca:chunksize=4", "unknown option of dca 'chunksize'; did you mean 'chunk_size'?"),
        ("vanilla:factor=2", "vanilla has no options"),
        ("dca:chunk_size", "'chunk_size' in 'dca:chunk_size' is not option=value"),
        ("dca:chunk_size=", "is not option=value"),
        ("dca:chunk_size=4,chunk_size=5", "gives chunk_size twice"),
        ("dca:chunk_size=four", "dca: chunk_size must be a whole number, not 'four'"),
        ("dca:chunk_size=4.5", "dca: chunk_size must be a whole number, not '4.5'"),
        ("yarn:factor=lots", "yarn: factor must be a number, not 'lots'"),
        ("yarn:factor=nan", "yarn: factor must be a number, not 'nan'"),
        ("yarn:factor=inf", "yarn: factor must be a number, not 'inf'"),
        ("dca:variant=best", "dca: variant must be paper or chunkllama, not 'best'"),
        ("pi+yarn", "pi and yarn are both RoPE scalings; compose one of each at most"),
        ("dca+self_extend", "dca and self_extend are both position plans"),
        ("dca:mscale=0.1+logn", "dca and logn are both score scalings"),
        ("dca:variant=chunkllama+logn", "dca and logn are both score scalings"),
        ("self_extend:log_scale_base=9+logn", "self_extend and logn are both score scalings"),
        ("dca+yarn+logn+ntk", "yarn and ntk are both RoPE scalings"),
        ("resonance+yarn+abf", "yarn and abf are both RoPE scalings"),
        ("entropy_abf+logn", "entropy_abf and logn are both score scalings"),
        ("drope:scale=2+logn", "drope and logn are both score scalings"),
        ("string:attention_factor=2+llama4_temperature", "string and llama4_temperature are both score scalings"),
        ("longrope:factors=[1,x]", "longrope: factors must be a number, not 'x'"),
        ("leaky_rerope+rerope", "leaky_rerope and rerope are both position plans"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_method(spec)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("dca", {"chunksize": 4}, "did you mean 'chunk_size'?"),
        ("vanilla", {"factor": 4}, "vanilla has no options"),
        ("pi+yarn", {"factor": 4}, "factor belongs to several parts"),
        (
            "dca+yarn",
            {"mscale": 0.1},
            "mscale belongs to several parts of dca+yarn; write it after the one that is meant",
        ),
        ("dca", {"chunk_size": "x"}, "dca: chunk_size must be a whole number"),
    ],
)
def test_refused_keywords(spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_method(spec, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "option"),
    [
        ("dca:chunk_size=0", "chunk_size"),
        ("dca:chunk_size=-3", "chunk_size"),
        ("dca:mscale=-1", "mscale"),
        ("dca:pretraining_length=1", "pretraining_length"),
        ("self_extend:group_size=0", "group_size"),
        ("self_extend:neighbor_window=0", "neighbor_window"),
        ("rerope:window=0", "window"),
        ("streaming:window=0", "window"),
        ("streaming:sinks=-1", "sinks"),
        ("yarn:factor=0.9", "factor"),
        ("yarn:beta_fast=1,beta_slow=2,factor=2", "beta_slow"),
        ("yarn:beta_slow=0,factor=2", "beta_slow"),
        ("yarn:mscale=-1,factor=2", "mscale"),
        ("yarn:mscale_all_dim=-1,factor=2", "mscale_all_dim"),
        ("yarn:attention_factor=0,factor=2", "attention_factor"),
        ("llama3:low_freq_factor=4,factor=2", "high_freq_factor"),
        ("abf:base=1", "base"),
        ("entropy_abf:base=1", "base"),
        ("entropy_abf:length=1", "length"),
        ("entropy_abf:unscaled_layers=-1", "unscaled_layers"),
        ("p_rope:p=1.5", "p"),
        ("p_rope:p=-0.1", "p"),
        ("drope:scale=0", "scale"),
        ("longrope:factors=[1,0]", "factors"),
        ("longrope:factors=[]", "factors"),
        ("longrope:factors=[1],original_length=1", "original_length"),
        ("longrope:factors=[1],attention_factor=0", "attention_factor"),
        ("leaky_rerope:window=0", "window"),
        ("leaky_rerope:k=0", "k"),
        ("string:shift=0", "shift"),
        ("string:shift=4,window=5", "window"),
        ("string:window=-1", "window"),
        ("string:attention_factor=0", "attention_factor"),
        ("lm_infinite:sinks=-1", "sinks"),
        ("lm_infinite:window=0", "window"),
        ("tri_shape:sinks=-1", "sinks"),
        ("tri_shape:window=0", "window"),
        ("tri_shape:dense=-1", "dense"),
        ("tri_shape:prompt_length=0", "prompt_length"),
        ("llama4_temperature:floor_scale=0", "floor_scale"),
        ("llama4_temperature:attn_scale=-1", "attn_scale"),
        ("logn:base=1", "base"),
        ("self_extend:log_scale_base=1", "log_scale_base"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(spec: str, option: str) -> None:
    with pytest.raises(UserError, match=rf"{spec.split(':')[0]}: {option} must be"):
        parse_method(spec).resolve(Lengths(64, 128))


@pytest.mark.parametrize("spec", METHODS)
def test_string_of_a_method_reads_back(spec: str) -> None:
    method = parse_method(spec)
    assert parse_method(str(method)) == method
    resolved = method.resolve(Lengths(64, 130))
    assert parse_method(str(resolved)) == resolved


@given(strategies.methods())
def test_string_of_any_method_reads_back(method: Method) -> None:
    assert parse_method(str(method)) == method


def test_labels_and_options_of_a_composition() -> None:
    method = parse_method("dca:chunk_size=48+yarn:factor=4")
    assert method.label == "dca+yarn"
    assert method.options()["dca"]["chunk_size"] == 48 and method.options()["yarn"]["factor"] == 4
    assert method.hooks == {"pieces", "frequencies"}
    assert compose([method, LogN()]) == method + LogN() == parse_method("dca:chunk_size=48+yarn:factor=4+logn")


def test_a_new_method_needs_only_its_class() -> None:
    @dataclasses.dataclass(frozen=True)
    class Halved(Method):
        name = "halved"
        strength: float = 1.0

    try:
        assert parse_method("halved:strength=3") == Halved(3.0)
        assert all_methods()["halved"] is Halved
    finally:
        del REGISTRY["halved"]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("vanilla", ["vanilla"]),
        ("vanilla,dca", ["vanilla", "dca"]),
        (
            "vanilla,dca:chunk_size=48,max_position=63,yarn:factor=4",
            ["vanilla", "dca:chunk_size=48,max_position=63", "yarn:factor=4"],
        ),
        ("dca:chunk_size = 48, max_position = 63 , pi", ["dca:chunk_size = 48,max_position = 63", "pi"]),
        ("dca+yarn:factor=4,beta_fast=8,vanilla", ["dca+yarn:factor=4,beta_fast=8", "vanilla"]),
        ("fot:layers=[1,2],window=4,vanilla", ["fot:layers=[1,2],window=4", "vanilla"]),
        ("fot:layers=[1, 2, 3]", ["fot:layers=[1, 2, 3]"]),
    ],
)
def test_split_list(text: str, entries: list[str]) -> None:
    assert split_list(text) == entries


def test_split_spec_keeps_brackets_together() -> None:
    assert split_spec("fot:layers=[1,2],window=4") == ("fot", {"layers": "[1,2]", "window": "4"})


@pytest.mark.parametrize(
    ("text", "length"), [("4096", 4096), ("4k", 4096), ("128K", 131072), ("1m", 2**20), ("1.5k", 1536), (" 2k ", 2048)]
)
def test_parse_length(text: str, length: int) -> None:
    assert parse_length(text) == length


@pytest.mark.parametrize("text", ["", "k", "0", "-4", "1.3", "4kb", "4 k", "1e3", "4g"])
def test_no_length(text: str) -> None:
    with pytest.raises(UserError, match="is not a length in tokens"):
        parse_length(text)


def test_parse_lengths_keeps_the_order_and_drops_repeats() -> None:
    assert parse_lengths("8k,2k,4096,4k") == [8192, 2048, 4096]


def test_a_range_of_lengths_doubles_up_to_its_end() -> None:
    assert parse_lengths("256..2k") == [256, 512, 1024, 2048]
    assert parse_lengths("300..1000,1k") == [300, 600, 1000, 1024]
    assert parse_lengths("4k..4k") == [4096]
    with pytest.raises(UserError, match="goes down"):
        parse_lengths("4k..2k")
    for wrong in ("..4k", "4k..", "1..2..3"):
        with pytest.raises(UserError, match="not a length in tokens"):
            parse_lengths(wrong)


@pytest.mark.parametrize(
    ("text", "depths"),
    [("3", [0.0, 0.5, 1.0]), ("0,0.5,1", [0.0, 0.5, 1.0]), ("0.25", [0.25]), ("1", [1.0]), ("1,0,1", [1.0, 0.0])],
)
def test_parse_depths(text: str, depths: list[float]) -> None:
    assert parse_depths(text) == depths


def test_eleven_depths() -> None:
    assert parse_depths("11") == pytest.approx([step / 10 for step in range(11)])


@pytest.mark.parametrize("text", ["", "a", "0,2", "-1", "2.5", "nan", "inf", "0.5,", "99999999", "1e30"])
def test_no_depths(text: str) -> None:
    with pytest.raises(UserError, match="is not a list of depths"):
        parse_depths(text)


@given(st.text(max_size=30) | st.text("dcapi+:=,[]km0123456789.-e ", max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Never another exception than UserError."""
    for parse in (parse_method, parse_length, parse_lengths):
        with contextlib.suppress(UserError):
            parse(text)
