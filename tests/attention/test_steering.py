"""A steered block changes what it says and nothing else; what it cannot do right it refuses in one clear sentence."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

import lcbench
from lcbench.attention import probe, steering
from lcbench.core.errors import UserError
from tests.attention import zoo
from tests.attention.test_sweep import tiny_config

SELF_EXTEND = "self_extend:group_size=3,neighbor_window=10"
DCA = "dca:chunk_size=18,max_position=21"
N = 60


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


@torch.no_grad()
def logits(model: PreTrainedModel, n: int = N) -> Tensor:
    return model(zoo.tokens(2, n)).logits


@torch.no_grad()
def under(method: str, model: PreTrainedModel) -> Tensor:
    with lcbench.extend(model, method, length=N):
        return logits(model)


def hooks(model: PreTrainedModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class TestRestore:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    @pytest.mark.parametrize("arch", ["llama", "llama-longrope", "gemma3", "gpt-oss"])
    @pytest.mark.parametrize("method", [DCA, "vanilla"])
    def test_the_model_is_as_before(self, arch: str, method: str, implementation: str) -> None:
        model = zoo.build(zoo.ARCHITECTURES[arch]())
        if arch != "gpt-oss":  # has no sdpa
            model.set_attn_implementation(implementation)
        native, state = logits(model), copy.deepcopy(model.state_dict())
        implementation = model.config._attn_implementation
        steered = under(method, model)
        assert torch.equal(logits(model), native)
        assert method == "vanilla" or (steered - native).abs().max() > 0.02
        assert model.config._attn_implementation == implementation
        assert hooks(model) == 0 and not steering._steered and not probe._notes
        assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())

    @pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, torch.OutOfMemoryError])
    def test_after_an_exception_inside(self, model: PreTrainedModel, error: type[BaseException]) -> None:
        native = logits(model)

        def work() -> None:
            with lcbench.extend(model, DCA):
                logits(model)
                raise error("in the middle")

        with pytest.raises(error):
            work()
        assert torch.equal(logits(model), native) and hooks(model) == 0 and not steering._steered

    def test_after_an_exception_in_the_middle_of_a_forward_pass(self, model: PreTrainedModel) -> None:
        native, expected = logits(model), under(DCA, model)

        def fail(*_: object) -> None:
            raise RuntimeError("in the middle")

        with lcbench.extend(model, DCA):
            handle = model.model.layers[1].register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="in the middle"):
                logits(model)
            handle.remove()
            assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model), native)

    @pytest.mark.parametrize("arch", ["mistral-sliding", "llama-dynamic"])
    def test_after_a_refusal(self, arch: str) -> None:
        model = zoo.build(zoo.ARCHITECTURES[arch]())
        native = logits(model)
        refused = "dca" if arch == "mistral-sliding" else "yarn"
        with pytest.raises(UserError), lcbench.extend(model, refused, length=N):
            pass
        assert torch.equal(logits(model), native) and hooks(model) == 0 and not steering._steered
        assert model.config._attn_implementation == "eager"

    @pytest.mark.parametrize("training", [True, False])
    def test_training_mode_is_kept(self, model: PreTrainedModel, training: bool) -> None:
        model.train(training)
        model.lm_head.train(not training)
        with lcbench.extend(model, DCA):
            assert model.training is training
        assert model.training is training and model.model.layers[0].self_attn.training is training
        assert model.lm_head.training is not training

    def test_random_state_is_kept(self, model: PreTrainedModel) -> None:
        state = torch.random.get_rng_state()
        under(DCA, model)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_one_steering_serves_many_blocks(self, model: PreTrainedModel) -> None:
        block, expected = lcbench.extend(model, DCA), under(DCA, model)
        for _ in range(2):
            with block:
                assert torch.equal(logits(model), expected)
        assert hooks(model) == 0

    def test_save_inside_a_block_saves_the_model_itself(self, model: PreTrainedModel, tmp_path: Path) -> None:
        native = logits(model)
        with lcbench.extend(model, DCA):
            model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
        assert torch.equal(logits(loaded), native)
        assert "lcbench" not in (tmp_path / "config.json").read_text()


class TestSeveralModels:
    def test_nested_blocks_are_refused_and_the_outer_one_goes_on(self, model: PreTrainedModel) -> None:
        expected = under(DCA, model)
        with lcbench.extend(model, DCA):
            for _ in range(2):
                with pytest.raises(UserError, match="this LlamaForCausalLM is steered already"):
                    lcbench.extend(model, SELF_EXTEND).__enter__()
            assert torch.equal(logits(model), expected)

    def test_a_part_of_a_steered_model_cannot_be_steered_again(self, model: PreTrainedModel) -> None:
        with (
            lcbench.extend(model, DCA),
            pytest.raises(UserError, match="this LlamaModel is steered already"),
            lcbench.extend(model.model, SELF_EXTEND),
        ):
            pass

    def test_two_models_at_once(self, model: PreTrainedModel) -> None:
        other = zoo.build(zoo.ARCHITECTURES["qwen3"]())
        alone = under(DCA, model), under(SELF_EXTEND, other)
        with lcbench.extend(model, DCA), lcbench.extend(other, SELF_EXTEND):
            assert torch.equal(logits(model), alone[0]) and torch.equal(logits(other), alone[1])
        outer, inner = lcbench.extend(model, DCA), lcbench.extend(other, SELF_EXTEND)
        outer.__enter__(), inner.__enter__()
        outer.__exit__(None, None, None)  # the blocks need not be nested
        assert torch.equal(logits(other), alone[1])
        inner.__exit__(None, None, None)

    def test_two_models_in_two_threads(self, model: PreTrainedModel) -> None:
        jobs = [(model, DCA), (zoo.build(zoo.ARCHITECTURES["qwen3"]()), SELF_EXTEND)]
        alone = [under(method, model) for model, method in jobs]
        same: list[list[bool]] = [[], []]
        barrier = threading.Barrier(2)

        def work(index: int) -> None:
            barrier.wait()
            for _ in range(8):
                same[index].append(torch.equal(under(jobs[index][1], jobs[index][0]), alone[index]))

        threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert same == [[True] * 8, [True] * 8]

    def test_a_model_that_shares_the_config_says_so(self, model: PreTrainedModel) -> None:
        other = type(model)(model.config)
        native = logits(other)
        with (
            lcbench.extend(model, DCA),
            pytest.raises(UserError, match="belongs to no steered model: its model shares a config"),
        ):
            logits(other)
        assert torch.equal(logits(other), native)

    def test_a_steered_model_cannot_be_copied(self, model: PreTrainedModel) -> None:
        with lcbench.extend(model, DCA), pytest.raises(UserError, match="a steered LlamaForCausalLM cannot be copied"):
            copy.deepcopy(model)
        assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def packed(ids: Tensor) -> Tensor:
    return (torch.arange(ids.shape[1]) % 20).expand_as(ids)


class TestRefusedInputs:
    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize(
        "positions",
        [
            packed,
            lambda ids: torch.arange(N).expand_as(ids) + 5,
            lambda ids: torch.arange(N).expand_as(ids).flip(1),
            lambda ids: torch.zeros_like(ids),
            lambda ids: torch.stack([torch.arange(N), torch.arange(N) + 1]),
        ],
        ids=["packed", "shifted", "backwards", "zeros", "one row shifted"],
    )
    def test_other_positions(self, model: PreTrainedModel, positions: Callable[[Tensor], Tensor], cached: bool) -> None:
        ids = zoo.tokens(2, N)
        with lcbench.extend(model, DCA), pytest.raises(UserError, match="packed sequences"), torch.no_grad():
            model(ids, position_ids=positions(ids), past_key_values=DynamicCache() if cached else None)

    def test_shifted_positions_while_decoding(self, model: PreTrainedModel) -> None:
        ids, cache = zoo.tokens(1, N), DynamicCache()
        with lcbench.extend(model, DCA), torch.no_grad():
            model(ids[:, :50], past_key_values=cache)
            with pytest.raises(UserError, match="these position_ids differ"):
                model(ids[:, 50:51], position_ids=torch.tensor([[52]]), past_key_values=cache)

    def test_a_model_that_counts_from_0_in_every_call(self) -> None:
        """Bamba, unless it is given positions: it has no say in them here."""
        model, ids = zoo.build(tiny_config("bamba")), zoo.tokens(1, 30)
        with lcbench.extend(model, "vanilla"), torch.no_grad():
            cache = DynamicCache(config=model.config)
            calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in ((0, 20), (20, 29), (29, 30))]
        torch.testing.assert_close(torch.cat(calls, dim=1), model(ids).logits, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("pad_position", [0, 1, None], ids=["clamped", "filled", "shared"])
    def test_the_usual_positions_are_fine(self, model: PreTrainedModel, pad_position: int | None) -> None:
        """Whatever the padded places say: clamped, filled as generate() does, or one row for all without padding."""
        ids, mask = zoo.left_padded(zoo.tokens(2, N), [7, 0])
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, pad_position or 0)
        with lcbench.extend(model, DCA), torch.no_grad():
            expected = model(ids, attention_mask=mask).logits
            if pad_position is None:
                expected, mask, positions = model(ids).logits, None, torch.arange(N)[None]
            actual = model(ids, attention_mask=mask, position_ids=positions).logits
        assert torch.equal(actual, expected)

    def test_prepared_masks(self, model: PreTrainedModel) -> None:
        mask = torch.zeros(1, 1, N, N).masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
        with lcbench.extend(model, DCA), pytest.raises(UserError, match="not a prepared Tensor"), torch.no_grad():
            model(zoo.tokens(1, N), attention_mask=mask)

    @pytest.mark.parametrize("hole", [slice(50, 60), slice(20, 25), slice(59, 60)], ids=["right", "hole", "last"])
    def test_padding_elsewhere_than_left(self, model: PreTrainedModel, hole: slice) -> None:
        mask = torch.ones(2, N, dtype=torch.long)
        mask[1, hole] = 0
        with lcbench.extend(model, DCA), pytest.raises(UserError, match="left padding only"), torch.no_grad():
            model(zoo.tokens(2, N), attention_mask=mask)

    def test_a_cache_that_forgets_what_the_method_sees(self, model: PreTrainedModel) -> None:
        """One of transformers' own gets layers that keep all keys; another is refused once it has lost some."""

        class Own(DynamicCache):
            pass

        ids, config = zoo.tokens(1, N), zoo.ARCHITECTURES["mistral-sliding"]()
        with lcbench.extend(model, DCA), torch.no_grad():
            ours, cache = DynamicCache(config=config), Own(config=config)
            parts = [model(part, past_key_values=ours).logits for part in (ids[:, :40], ids[:, 40:])]
            torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).logits, atol=1e-4, rtol=0)
            model(ids[:, :40], past_key_values=cache)
            with pytest.raises(UserError, match=r"layer of LlamaForCausalLM got only the last .* its cache drops keys"):
                model(ids[:, 40:], past_key_values=cache)

    def test_attention_dropout(self, model: PreTrainedModel) -> None:
        expected = under(DCA, model)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
        with lcbench.extend(model, DCA), torch.no_grad():
            assert torch.equal(logits(model), expected)  # none in evaluation
            model.train()
            with pytest.raises(UserError, match="not support attention dropout"):
                logits(model)

    def test_another_attention_implementation(self, model: PreTrainedModel) -> None:
        """It would run without any rotation."""
        native = logits(model)
        with lcbench.extend(model, DCA):
            model.set_attn_implementation("sdpa")
            with pytest.raises(UserError, match="set it outside"):
                logits(model)
        assert torch.equal(logits(model), native)

    def test_length_of_the_run_is_asked_for(self, model: PreTrainedModel) -> None:
        with pytest.raises(UserError, match=r"yarn: factor follows from the length of the run.*length="):
            lcbench.extend(model, "yarn")


def test_how_many_layers_are_steered_is_logged(model: PreTrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lcbench"), lcbench.extend(model, DCA):
        pass
    assert "steers 2 of 2 attention layers" in caplog.text


def test_a_whole_row_of_padding_answers_without_nan(model: PreTrainedModel) -> None:
    ids, mask = zoo.left_padded(zoo.tokens(2, N), [N, 0])
    with lcbench.extend(model, DCA), torch.no_grad():
        actual, expected = model(ids, attention_mask=mask).logits, logits(model)
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual[1], expected[1], atol=1e-5, rtol=0)
