"""Logits that are NaN, infinite or all equal are never an answer: they are an error that names layer and way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import NotFiniteError, UnsupportedModelError
from lcbench.engine import generate as engine
from lcbench.engine.finite import unusable
from lcbench.engine.models import ModelSource
from lcbench.engine.score import _States, score_tokens

PROMPT = list(range(20, 60))


def late_layer(model: PreTrainedModel) -> None:
    model.model.layers[3].mlp.down_proj.weight.data.mul_(1e38)


def infinite_weights(model: PreTrainedModel) -> None:
    model.model.layers[2].mlp.down_proj.weight.data.mul_(1e38).mul_(1e38)


def half_precision(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.weight.data.mul_(1e5)
    model.half()


def flat_head(model: PreTrainedModel) -> None:
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))


FAULTS = [
    (late_layer, "are NaN or infinite, first in layer 3 of 4 (from 0), computed in float32; run with --dtype float64"),
    (infinite_weights, "first in layer 2 of 4 (from 0), whose weights are not finite, computed in float32; the checkp"),
    (half_precision, "first in layer 1 of 4 (from 0), computed in float16; run with --dtype bfloat16 or float32."),
    (flat_head, "the logits are all equal, first in the output head"),
]


@pytest.fixture(params=FAULTS, ids=lambda fault: fault[0].__name__)
def fault(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, str]:
    change, message = request.param
    model = ModelSource(dtype="float32").model()
    change(model)
    return model, message


def test_rows() -> None:
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor([[1.0, 2, 3], [1, nan, 3], [1, inf, 3], [1, -inf, 3], [2, 2, 2], [-inf, -inf, -inf]])
    assert unusable(rows).tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("count", [1, 3])
def test_generation(fault: tuple[PreTrainedModel, str], count: int) -> None:
    model, message = fault
    with pytest.raises(NotFiniteError) as error:
        engine.generate_together(model, [engine.Prompt(PROMPT[n:], 4) for n in range(count)])
    assert message in str(error.value)


@pytest.mark.parametrize("layerwise", [False, True])
def test_likelihood(fault: tuple[PreTrainedModel, str], layerwise: bool) -> None:
    model, message = fault
    with pytest.raises(NotFiniteError) as error:
        score_tokens(model, PROMPT, layerwise=layerwise, chunk_size=16)
    assert message in str(error.value)


def test_likelihood_with_one_bad_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelSource(dtype="float32").model()
    monkeypatch.setattr("lcbench.engine.score._nll", lambda logits, targets: targets * float("nan"))
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        score_tokens(model, PROMPT)


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize(("factor", "what"), [(0, "are all equal"), (torch.nan, "are NaN or infinite")])
def test_likelihood_with_one_bad_window(
    layerwise: bool, factor: float, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last token of the chunk is in order."""
    model = ModelSource(dtype="float32").model()
    states = "lcbench.engine.score._States.logits"
    own = _States.logits

    def logits(self: _States, rows: slice) -> Tensor:
        found = own(self, rows)
        if rows.stop - rows.start > 9:
            found[:, 7] *= factor
        return found

    monkeypatch.setattr(states, logits)
    with pytest.raises(NotFiniteError, match=what):
        score_tokens(model, PROMPT, layerwise=layerwise)


def broken_at(model: PreTrainedModel, wrong: Callable[[int], bool]) -> None:
    """The logits of decode steps whose cache has n tokens are NaN where `wrong(n)`."""

    def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        length = kwargs["past_key_values"].get_seq_length()
        if args[0].shape[1] == 1 and wrong(length):
            output.logits *= float("nan")

    model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("count", [1, 2])
def test_a_decode_step(count: int) -> None:
    model = ModelSource(dtype="float32").model()
    broken_at(model, lambda length: length == len(PROMPT) + 3)
    prompts = [engine.Prompt(PROMPT, 6) for _ in range(count)]
    with pytest.raises(NotFiniteError, match="in the output head"):
        engine.generate_together(model, prompts)
    short = [engine.Prompt(PROMPT, 3) for _ in range(count)]
    assert [len(one.tokens) for one in engine.generate_together(model, short)] == [3] * count


def test_a_row_that_has_ended_is_nobodys_answer() -> None:
    model, rows = ModelSource(dtype="float32").model(), []
    prompts = [engine.Prompt(PROMPT, 8, lambda tokens: len(tokens) == 1), *[engine.Prompt(PROMPT[1:], 8)] * 3]

    def hook(module: Any, args: Any, output: Any) -> None:
        if output.logits.shape[:2] == (4, 1):
            rows.append(len(output.logits))
            output.logits[-1] *= float("nan")  # the longest prompt, which has ended, is the last row

    expected = engine.generate_together(model, prompts)
    model.register_forward_hook(hook)
    assert [one.tokens for one in engine.generate_together(model, prompts)] == [one.tokens for one in expected]
    assert rows


def test_options_of_the_method_are_named() -> None:
    model = ModelSource(dtype="float32").model()
    with (
        lcbench.extend(model, "dca:mscale=1e30", length=2048) as steered,
        pytest.raises(NotFiniteError, match=r"first in layer 0 of 4 .* or use other options than dca:.*mscale=1e\+30"),
    ):
        engine.generate(steered, PROMPT, 2)


def test_the_probe_says_overflow() -> None:
    model = ModelSource(dtype="float32").model()
    infinite_weights(model)
    with pytest.raises(UnsupportedModelError, match=r"layer 3 of .*NaN or infinite .* overflows; use --dtype"):
        lcbench.extend(model, "vanilla", length=64).__enter__()


def test_why_an_output_ended() -> None:
    model = ModelSource(dtype="float32").model()
    plain = engine.generate(model, PROMPT, 6)
    assert plain.finish_reason == "length"
    assert engine.generate(model, PROMPT, 6, {plain.tokens[2]}).finish_reason == "stop"
    assert engine.generate(model, PROMPT, 6, watch=lambda tokens: len(tokens) == 6).finish_reason == "stop_string"


def test_one_transfer_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check goes along with the tokens: one `tolist` of logits a step."""
    model, calls = ModelSource(dtype="float32").model(), []
    transfer = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: calls.append(tuple(x.shape)) or transfer(x))
    engine.generate(model, PROMPT, 5)
    assert calls == [(1,)] * 5
