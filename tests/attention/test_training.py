"""Gradients, checkpointing, compilation and precision of a steered model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from tests.attention import zoo
from tests.attention.oracle import reference_logits, reference_model

N = 60
LENGTHS = Lengths(zoo.PRETRAINING, N)
METHODS = [
    "self_extend:group_size=3,neighbor_window=10",
    "dca:chunk_size=18,max_position=21+yarn:factor=2",
    "streaming:window=12+logn:base=9",
]
every_method = pytest.mark.parametrize("spec", METHODS)


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


def loss(model: PreTrainedModel) -> Tensor:
    ids = zoo.tokens(2, N)
    return model(ids, labels=ids, use_cache=False).loss


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    assert all(grad is not None and grad.abs().max() > 0 for grad in found.values())
    return found


def relative_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float((actual[name] - grad).norm() / grad.norm()) for name, grad in expected.items())


@every_method
@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt-oss"])
def test_gradients_equal_the_float64_reference(spec: str, arch: str) -> None:
    model = zoo.build(zoo.ARCHITECTURES[arch]())
    if arch == "gpt-oss" and "yarn" in spec:
        spec = spec.split("+")[0]  # it has a yarn of its own
    with reference_model(model, parse_method(spec).resolve(LENGTHS), LENGTHS) as reference:
        loss(reference).backward()
        expected = gradients(reference)
    with lcbench.extend(model, spec, length=N):
        loss(model).backward()
        assert relative_error(gradients(model), expected) < 1e-4


@every_method
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(model: PreTrainedModel, spec: str, reentrant: bool) -> None:
    model.train()
    with lcbench.extend(model, spec, length=N):
        loss(model).backward()
        expected = gradients(model)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss(model).backward()
        assert relative_error(gradients(model), expected) < 1e-5


def test_checkpoints_recomputed_outside_their_block_are_refused(model: PreTrainedModel) -> None:
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with lcbench.extend(model, METHODS[0], length=N):
        late = loss(model)
    with pytest.raises(UserError, match="block"):
        late.backward()


def test_checkpoints_recomputed_in_another_block_are_refused(model: PreTrainedModel) -> None:
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with lcbench.extend(model, METHODS[0], length=N):
        late = loss(model)
    with lcbench.extend(model, METHODS[1], length=N), pytest.raises(UserError, match="block"):
        late.backward()


def test_a_step_of_training_leaves_the_model_unsteered(model: PreTrainedModel) -> None:
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with lcbench.extend(model, METHODS[0], length=N):
        first = loss(model)
        first.backward()
        optimizer.step()
        assert loss(model) < first
    before.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loss(model), loss(before))


@pytest.mark.slow
class TestCompile:
    """Graph capture is what a steered model could break; which backend runs the graphs makes no difference."""

    @torch.no_grad()
    def test_inside_a_block_and_across_methods(self, model: PreTrainedModel) -> None:
        ids = zoo.tokens(2, N)
        compiled = torch.compile(model, backend="eager", dynamic=True)
        for spec in METHODS[:2]:
            with lcbench.extend(model, spec, length=N):
                expected = model(ids, use_cache=False).logits
                torch.testing.assert_close(compiled(ids, use_cache=False).logits, expected, atol=1e-5, rtol=0)
        native = model(ids, use_cache=False).logits
        torch.testing.assert_close(compiled(ids, use_cache=False).logits, native, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_generation_with_a_compiled_forward(self, model: PreTrainedModel) -> None:
        ids = zoo.tokens(1, 40)
        with lcbench.extend(model, METHODS[0], length=50):
            expected = model.generate(ids, max_new_tokens=6, do_sample=False)
            model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
            assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), expected)


class TestPrecision:
    @every_method
    @torch.no_grad()
    def test_float64_models(self, model: PreTrainedModel, spec: str) -> None:
        """Only the tables of cos and sin are float32, as they are in the model itself."""
        expected = reference_logits(model, zoo.tokens(2, N), parse_method(spec).resolve(LENGTHS), LENGTHS)
        with lcbench.extend(model.double(), spec, length=N):
            actual = model(zoo.tokens(2, N)).logits
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)

    @every_method
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("ends", [[N], [31, 32, 40, N]], ids=["prefill", "cached"])
    @torch.no_grad()
    def test_half_precision_is_as_good_as_native(
        self, model: PreTrainedModel, spec: str, dtype: torch.dtype, ends: list[int]
    ) -> None:
        ids = zoo.tokens(2, N)
        exact = {name: self.exact(model, name) for name in ("vanilla", spec)}
        model.to(dtype)
        native_error = self.error(model(ids).logits, exact["vanilla"])
        with lcbench.extend(model, spec, length=N):
            cache, calls = None, []
            for a, b in zip([0, *ends], ends):
                call = model(ids[:, a:b], past_key_values=cache, use_cache=True)
                cache = call.past_key_values
                calls.append(call.logits)
        assert calls[0].dtype == dtype
        assert self.error(torch.cat(calls, dim=1), exact[spec]) < 1.5 * native_error

    @staticmethod
    def exact(model: PreTrainedModel, spec: str) -> Tensor:
        return reference_logits(model, zoo.tokens(2, N), parse_method(spec).resolve(LENGTHS), LENGTHS)

    @staticmethod
    def error(actual: Tensor, expected: Tensor) -> float:
        return float((actual.double() - expected).norm() / expected.norm())
