"""What the papers and their authors' code say about each method, beyond its formula."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.dca import DualChunkAttention
from lcbench.methods.self_extend import SelfExtend, default_group, smallest_group
from tests.attention import zoo
from tests.attention.test_exactness import METHODS

P = zoo.PRETRAINING


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return zoo.llama()


@torch.no_grad()
def logits(model: PreTrainedModel, method: str | Method, n: int, length: int | None = None) -> Tensor:
    with lcbench.extend(model, method, length=length) as steered:
        return steered(zoo.tokens(1, n)).logits[0]


def rows_that_differ(a: Tensor, b: Tensor) -> list[int]:
    return [i for i in range(len(a)) if (a[i] - b[i]).abs().max() > 1e-4]


def test_dca_of_the_paper_is_vanilla_up_to_the_pretraining_length(model: PreTrainedModel) -> None:
    changed = rows_that_differ(logits(model, "dca", P + 20), logits(model, "vanilla", P + 20))
    assert changed == list(range(P, P + 20))


def test_released_dca_is_vanilla_up_to_its_clamp_only(model: PreTrainedModel) -> None:
    c = 3 * P // 4
    changed = rows_that_differ(logits(model, "dca:variant=chunkllama,mscale=0", P), logits(model, "vanilla", P))
    assert changed == list(range(c + 1, P))


@pytest.mark.parametrize(
    ("variant", "chunk", "clamp", "mscale"), [("paper", 3072, 4095, 0), ("chunkllama", 2560, 3072, 0.05)]
)
def test_dca_parameters_of_a_4k_model(variant: str, chunk: int, clamp: int, mscale: float) -> None:
    method = parse_method("dca", variant=variant).resolve(Lengths(4096, 16384))
    assert method == DualChunkAttention(4096, chunk, clamp, mscale, variant)


def test_dca_pretraining_length_option_replaces_the_models(model: PreTrainedModel) -> None:
    given_length = parse_method("dca:pretraining_length=4096").resolve(Lengths(99, 16384))
    assert given_length == parse_method("dca").resolve(Lengths(4096, 16384))


def test_dca_local_window_of_the_released_code_is_an_eighth() -> None:
    method = parse_method("dca:variant=chunkllama,max_position=3072,pretraining_length=4096").resolve(Lengths(8, 99))
    assert method.options()["chunk_size"] == 3072 - 512


@pytest.mark.parametrize("options", ["chunk_size=48,max_position=40", "max_position=10", "chunk_size=200"])
def test_dca_clamp_below_a_chunks_last_position_is_refused(options: str) -> None:
    with pytest.raises(UserError, match="below the last position of a chunk"):
        parse_method(f"dca:{options}").resolve(Lengths(64, 128))


def test_mscale_is_never_sticky(model: PreTrainedModel) -> None:
    """The released code scales a short prompt by the longest one it saw before."""
    short, spec = zoo.tokens(1, 40), "dca:mscale=0.1"
    with torch.no_grad(), lcbench.extend(model, spec, length=200) as steered:
        alone = steered(short).logits
        steered(zoo.tokens(1, 200))
        assert torch.equal(steered(short).logits, alone)
    assert torch.equal(logits(model, spec, 40, length=40), logits(model, "dca", 40))
    assert (logits(model, spec, 40, length=400) - logits(model, "dca", 40)).abs().max() > 0.01


@pytest.mark.parametrize(
    "spec", ["self_extend:group_size=1,neighbor_window=9", "self_extend:group_size=7,neighbor_window=150"]
)
def test_self_extend_without_groups_is_vanilla(model: PreTrainedModel, spec: str) -> None:
    assert not rows_that_differ(logits(model, spec, 150), logits(model, "vanilla", 150))


def test_self_extend_changes_from_its_window_on(model: PreTrainedModel) -> None:
    """There is no switch at the pretraining length."""
    spec = "self_extend:group_size=4,neighbor_window=16"
    assert rows_that_differ(logits(model, spec, 40), logits(model, "vanilla", 40))[0] in (16, 17, 18, 19)
    assert len(rows_that_differ(logits(model, spec, 40), logits(model, "vanilla", 40))) >= 20


@given(st.integers(2, 400), st.integers(1, 4000), st.data())
def test_smallest_group_fits_and_the_next_smaller_does_not(pretraining: int, run: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, pretraining - 1))

    def largest(group: int) -> int:
        return max(min(run, window) - 1, (run - 1) // group + window - window // group if run > window else 0)

    group = smallest_group(run, window, pretraining)
    assert largest(group) < pretraining
    assert group == 1 or largest(group - 1) >= pretraining


@given(st.integers(2, 400), st.integers(1, 4000), st.data())
def test_self_extends_default_is_the_smallest_group_of_the_authors_rule(
    pretraining: int, run: int, data: st.DataObject
) -> None:
    """In exact fractions; within the pretraining length no group, and never a position beyond it."""
    window = data.draw(st.integers(1, pretraining - 1))
    group = default_group(run, window, pretraining)
    lengths = Lengths(pretraining, run)
    resolved = SelfExtend(neighbor_window=window).resolve(lengths)
    assert resolved.group_size == group and resolved.advice(lengths) is None

    def within(group: int) -> bool:
        return window + Fraction(run - window, group) <= Fraction(2 * pretraining, 3)

    if run <= pretraining:
        assert group == 1
    elif 3 * window >= 2 * pretraining:
        assert group == smallest_group(run, window, pretraining)
    else:
        fits = smallest_group(run, window, pretraining)
        assert within(group) and (group == 1 or group == fits or not within(group - 1)) and group >= fits


def test_self_extends_default_for_common_lengths() -> None:
    """A model of 4,096 tokens with the window of 1,024: 1,024 + (n - 1,024) / G <= 2,730."""
    groups = {n: SelfExtend().resolve(Lengths(4096, n)).group_size for n in (4096, 8192, 16384, 32768, 131072)}
    assert groups == {4096: 1, 8192: 5, 16384: 9, 32768: 19, 131072: 77}


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 200))
def test_self_extend_reaches_the_papers_maximum_length(group: int, groups_in_window: int, room: int) -> None:
    """(P - W) G + W tokens fit with groups of G, where G divides W."""
    window = group * groups_in_window
    assert smallest_group(room * group + window, window, pretraining=window + room) <= group


def test_self_extend_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="neighbor_window=64 must be below the pretraining length 64"):
        SelfExtend(neighbor_window=64).resolve(Lengths(64, 65))
    with pytest.raises(UserError, match="log_scale_base must be above 1"):
        SelfExtend(group_size=2, log_scale_base=0.5).resolve(Lengths(64))


@pytest.mark.parametrize(
    ("group", "run", "advised"), [(4, 8192, True), (8, 16384, True), (10, 16384, False), (2, 4096, False)]
)
def test_self_extends_rule_of_thumb(group: int, run: int, advised: bool) -> None:
    """W + (n - W) / G within two thirds of P, for runs beyond P: 1024 + 7168 / 4 = 2816 of 4096 is too much."""
    lengths = Lengths(4096, run)
    advice = parse_method("self_extend", group_size=group).resolve(lengths).advice(lengths)
    assert (advice is not None) == advised
    if advice is not None:
        better = int(advice.rstrip(".").split("group_size=")[-1])
        assert parse_method("self_extend", group_size=better).resolve(lengths).advice(lengths) is None
        assert parse_method("self_extend", group_size=better - 1).resolve(lengths).advice(lengths) is not None
    assert (parse_method("self_extend", group_size=group) + parse_method("yarn")).resolve(lengths).advice(
        lengths
    ) == advice


def test_llama4s_temperature_is_that_of_layers_without_rotation() -> None:
    """Where the config names such layers, else of all."""
    model = zoo.build(zoo.ARCHITECTURES["smollm3"]())
    block = lcbench.extend(model, "llama4_temperature:floor_scale=9", length=40)
    assert block.method.options()["layers"] == (1, 3)
    with block:
        assert block.layers_steered == 2
    assert lcbench.extend(zoo.llama(), "llama4_temperature").method.options()["layers"] is None
    with pytest.raises(UserError, match=r"llama4_temperature: there is no layer 2; the model's are 0 to"):
        lcbench.extend(zoo.llama(), "llama4_temperature:layers=[2]")


def test_entropy_abf_is_abf_in_its_first_layers(model: PreTrainedModel) -> None:
    """All layers unscaled is ABF, none is ABF with log-length scaling."""
    abf = "abf:base=900"
    for layers, same in ((2, abf), (0, f"{abf}+logn:base=20")):
        spec = f"entropy_abf:base=900,length=20,unscaled_layers={layers}"
        assert torch.equal(logits(model, spec, 60), logits(model, same, 60))


def test_logn_changes_nothing_within_the_pretraining_length(model: PreTrainedModel) -> None:
    assert rows_that_differ(logits(model, "logn", P + 9), logits(model, "vanilla", P + 9)) == list(range(P, P + 9))


def test_self_extends_log_scaling_is_logn(model: PreTrainedModel) -> None:
    own = logits(model, "self_extend:group_size=2,log_scale_base=20", 100)
    assert torch.equal(own, logits(model, "self_extend:group_size=2+logn:base=20", 100))


def test_streaming_forgets_what_is_between(model: PreTrainedModel) -> None:
    """With one layer, what lies between the sinks and the window is invisible."""
    single = zoo.build(zoo.config("LlamaConfig", num_hidden_layers=1))
    ids = zoo.tokens(1, 60)
    other = ids.clone()
    other[0, 4:40] = 7
    with torch.no_grad(), lcbench.extend(single, "streaming:sinks=4,window=20") as steered:
        assert torch.equal(steered(ids).logits[0, -1], steered(other).logits[0, -1])
        assert not torch.equal(steered(ids).logits[0, 58], steered(other).logits[0, 57])


@pytest.mark.parametrize(
    ("spec", "exact"),
    [
        ("string:shift=20,window=5", 20),
        ("lm_infinite:sinks=4,window=30", 31),
        ("leaky_rerope:window=20,k=4", 21),
        ("tri_shape:sinks=4,window=30,dense=10", 34),  # the first key after the sinks leaves the window
        ("llama4_temperature:floor_scale=40", 39),
    ],
)
def test_the_first_query_that_is_not_vanillas(model: PreTrainedModel, spec: str, exact: int) -> None:
    assert rows_that_differ(logits(model, spec, 90), logits(model, "vanilla", 90))[0] == exact


def test_a_prompt_within_the_dense_queries_of_tri_shape_is_vanilla(model: PreTrainedModel) -> None:
    assert not rows_that_differ(logits(model, "tri_shape:sinks=0,window=5,dense=90", 90), logits(model, "vanilla", 90))


def test_strings_far_keys_are_those_of_a_query_moved_back(model: PreTrainedModel) -> None:
    """The released decoding: one softmax over the last S keys at their places, and over the others from i - S + W."""
    method = parse_method("string:shift=20,window=5").resolve(Lengths(P, 90))
    near, far = method.pieces(torch.tensor([70]), torch.arange(71), 0)
    assert (int(near.start), int(near.stop), int(near.q_pos)) == (51, 71, 70)
    assert (int(far.start), int(far.stop), int(far.q_pos)) == (0, 51, 70 - 20 + 5)


@torch.no_grad()
def test_drope_is_the_model_with_its_rotation_left_out(model: PreTrainedModel) -> None:
    """cos = 1 and sin = 0, as its authors' attention has them."""
    from lcbench.attention.probe import unrotated

    actual = logits(model, "drope", 90)
    with unrotated(model):
        assert not rows_that_differ(actual, model(zoo.tokens(1, 90)).logits[0])


@pytest.mark.parametrize("spec", METHODS)
def test_prefix_stable_says_whether_a_prefix_depends_on_the_length_of_the_run(
    model: PreTrainedModel, spec: str
) -> None:
    method = parse_method(spec).resolve(Lengths(P, 100))
    short, long = (logits(model, method, 50, length=length) for length in (100, 200))
    assert torch.equal(short, long) == method.prefix_stable
    assert method.prefix_stable or (short - long).abs().max() > 1e-3


@pytest.mark.parametrize("spec", METHODS)
def test_resolving_again_changes_nothing(spec: str) -> None:
    method = parse_method(spec).resolve(Lengths(P, 100))
    assert method.resolve(Lengths(P, 100)) == method
    unset = {name for name, value in method.options().items() if value is None}
    assert unset <= {
        "layers",
        "prompt_length",
        "mem_dtype",
        "mem_device",
        "mem_attention_grouping",
    }  # the model's, all; no bound
