"""Which methods change nothing at a length: the decision against every pair of positions, and against logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from lcbench import extend
from lcbench.attention.probe import own_frequencies
from lcbench.engine.models import ModelSource
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.base import REGISTRY
from lcbench.methods.identity import equals_vanilla
from lcbench.methods.pieces import Memory, Piece
from tests.attention import oracle, strategies

TRAINED = 256  # of the embedded model
IDS = torch.randint(3, 500, (1, TRAINED + 1), generator=torch.Generator().manual_seed(0))


@given(strategies.methods(), st.integers(1, 60))
def test_equal_means_all_pairs_at_their_distance_with_their_frequencies_and_scores(method: Method, run: int) -> None:
    lengths = Lengths(32, run)
    method = method.resolve(lengths)
    equal = True
    for layer in (0, 1):
        rel, seen = oracle.matrices(oracle.plan(method, layer), run)
        i = torch.arange(run)
        equal &= torch.equal(seen, i[:, None] >= i) and torch.equal(rel, (i[:, None] - i) * seen)
    equal &= bool((oracle.score_scale(method, run, lengths) == 1).all())
    equal &= not any((part.options().get("factor") or 1) != 1 for part in oracle.parts(method))
    own, _ = oracle.rope(32, 16, 10_000.0)
    assert equals_vanilla(method, lengths, 2, [own.float()]) == equal


class ExactRotary(nn.Module):
    """The embedded model's rotation in float64: its own is rounded to float32 at every absolute position, so that equal
    relative positions give equal logits up to that rounding only."""

    attention_scaling = 1.0

    def __init__(self, inv_freq: Tensor) -> None:
        super().__init__()
        self.register_buffer("inv_freq", inv_freq.double())

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None].double() * self.inv_freq).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = ModelSource().model().double()
    model.model.rotary_emb = ExactRotary(model.model.rotary_emb.inv_freq)
    return model


@pytest.fixture(scope="module")
def own(model: PreTrainedModel) -> Tensor:
    return logits(model, "vanilla", IDS)


# The longest run that a method leaves alone on the embedded model; one token more, and it differs.
BORDERS = {
    "self_extend": TRAINED,
    "dca": TRAINED,
    "dca:variant=chunkllama": 193,
    "rerope": TRAINED // 2 + 1,  # a distance of the window itself is still exact
    "streaming": TRAINED,
    "logn": TRAINED,
    "ntk": TRAINED,
    "dynamic_ntk:factor=4": TRAINED,
    "yarn": TRAINED,
    "dca:chunk_size=64+ntk": 128,  # two chunks, within which no position is clamped
}
MORE_BORDERS = {
    "self_extend:group_size=2": TRAINED // 4 + 1,
    "self_extend:group_size=3,neighbor_window=100": 101,
    "dca:chunk_size=64": 128,
    "dca:chunk_size=100,max_position=149": 150,
    "dca:mscale=0.1": TRAINED,
    "rerope:window=100": 101,
    "streaming:window=100,sinks=3": 103,
    "streaming:window=100,sinks=0": 100,
    "logn:base=100": 100,
    "dynamic_ntk": TRAINED,
    "pi": TRAINED,
    "llama3": TRAINED,
    "dca+yarn": TRAINED,
    "rerope:window=140+logn": 141,
}


@pytest.mark.parametrize(
    ("spec", "border"),
    [*BORDERS.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_BORDERS.items())],
)
def test_the_border_is_where_logits_begin_to_differ(
    spec: str, border: int, model: PreTrainedModel, own: Tensor
) -> None:
    for run in (border, border + 1):
        equal = equals(parse_method(spec), run, model)
        difference = (logits(model, spec, IDS[:, :run]) - own[:, :run]).abs().max()
        assert equal == (run == border) and (difference < 1e-9) == equal, (run, float(difference))


@pytest.mark.parametrize("spec", ["yarn:factor=1.001", "ntk:factor=2", "pi:factor=1.5", "llama3:factor=4"])
def test_a_factor_changes_every_length(spec: str, model: PreTrainedModel) -> None:
    assert not equals(parse_method(spec), 2, model)
    assert equals(parse_method(f"{spec.partition(':')[0]}:factor=1"), 10_000, model)


def test_scalings_that_leave_the_channels_of_a_model_alone_are_equal() -> None:
    """llama3 keeps what turns often enough; whether all channels of a model do is a matter of its frequencies."""
    method, lengths = parse_method("llama3:factor=4").resolve(Lengths(1000, 1000)), Lengths(1000, 1000)
    fast, slow = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.001])
    assert equals_vanilla(method, lengths, 1, [fast])
    assert not equals_vanilla(method, lengths, 1, [fast, slow])
    assert not equals_vanilla(method, lengths, 1, None)  # not known


def test_methods_of_other_packages_are_tested_like_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.methods.base.REGISTRY", dict(REGISTRY))

    @dataclass(frozen=True)
    class Shifted(Method):
        """All positions `by` further, keys in memory of `memory`, in layer 1 a hole, after the prompt another."""

        name: ClassVar[str] = "shifted"
        by: int = 0
        memory: Memory | None = None
        hole: bool = False
        prompt: int = 0
        after: bool = False

        @property
        def layerwise(self) -> bool:
            return self.hole

        def for_prompt(self, length: int | None) -> Shifted:
            return Shifted(self.by, self.memory, self.hole, length or 0, True) if self.after else self

        def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
            k_pos = j + self.by + ((j == 3).long() if layer == 1 else 0)
            k_pos = k_pos + ((j >= self.prompt).long() if self.after and 2 < self.prompt < 6 else 0)
            return [Piece(i + self.by, k_pos, torch.zeros_like(i), i + 1, self.memory)]

    run = Lengths(10, 10)
    assert equals_vanilla(Shifted(), run, 2, None)
    assert equals_vanilla(Shifted(by=7), run, 2, None)  # only differences of positions matter
    assert not equals_vanilla(Shifted(memory=Memory(dtype=torch.float16)), run, 2, None)
    assert not equals_vanilla(Shifted(hole=True), run, 2, None)
    assert equals_vanilla(Shifted(hole=True), run, 1, None)
    assert not equals_vanilla(Shifted(after=True), run, 2, None)  # a prompt of 4 tokens tells


def test_frequencies_are_known_before_the_model_is_loaded(model: PreTrainedModel) -> None:
    source = ModelSource()
    (before,) = own_frequencies(source.checkpoint.skeleton(source.config())) or []
    assert torch.equal(before, model.model.rotary_emb.inv_freq.float())
    assert own_frequencies(model) is None  # a rotary module that cannot be made from a config


def equals(method: Method, run: int, model: PreTrainedModel) -> bool:
    lengths = Lengths(TRAINED, run)
    layers = model.config.num_hidden_layers
    return equals_vanilla(method.resolve(lengths), lengths, layers, [model.model.rotary_emb.inv_freq.float()])


def test_equal_logits_of_the_model_as_it_is_differ_by_rounding() -> None:
    model = ModelSource().model()
    with torch.no_grad():
        own, dca, yarn = (logits(model, spec, IDS[:, :TRAINED]) for spec in ("vanilla", "dca", "yarn"))
    assert torch.equal(yarn, own)
    assert (dca - own).abs().max() < 1e-3 * own.abs().max()


@torch.no_grad()
def logits(model: PreTrainedModel, spec: str, ids: Tensor) -> Tensor:
    with extend(model, spec, length=ids.shape[1]) as steered:
        return steered(ids, use_cache=False).logits
