"""A cache that forgets: the length of the prompt, drafts, and where forgetting would lose something."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.core.errors import UserError
from lcbench.engine import generate as engine
from tests.attention import zoo
from tests.attention.memory_truth import (
    FIRST_CALL,
    LONGLLAMA,
    METHODS,
    NEW,
    PROMPT,
    STATIC,
    STREAMING,
    WINDOWS,
    assert_close,
    continued,
    every_method,
    in_calls,
    model_for,
    prompt,
    truth,
)
from tests.attention.test_generation import generate, greedy
from tests.attention.test_sweep import MORE, tiny_config


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


class TestPromptLength:
    def test_it_is_what_the_first_call_brings(self, model: PreTrainedModel) -> None:
        ids = zoo.tokens(1, 90)
        typed = [in_calls(model, f"{FIRST_CALL},prompt_length={n}", ids, [90]) for n in (31, 70, 90)]
        for ends, expected in (([31, 70, 90], typed[0]), ([70, 90], typed[1]), ([70, 71, 72, 90], typed[1])):
            assert_close(in_calls(model, FIRST_CALL, ids, ends), expected)
            past = StaticCache(config=model.config, max_cache_len=90)
            assert_close(in_calls(model, FIRST_CALL, ids, ends, past), expected)
        assert_close(in_calls(model, FIRST_CALL, ids, [90]), typed[2])
        assert_close(in_calls(model, FIRST_CALL, ids, [90], use_cache=False), typed[2])
        assert min((a - b).abs().max() for a in typed for b in typed if a is not b) > 0.05

    def test_generate_counts_from_its_prompt(self, model: PreTrainedModel) -> None:
        with lcbench.extend(model, FIRST_CALL):
            assert torch.equal(continued(model, prompt()), truth(LONGLLAMA))
            assert torch.equal(continued(model, prompt(), **STATIC), truth(LONGLLAMA))

    def test_prefill_in_chunks_takes_the_first_for_the_prompt_unless_told(self, model: PreTrainedModel) -> None:
        """A chunk does not tell that more is to come: `prompt_length` does, typed or on the cache."""
        with lcbench.extend(model, FIRST_CALL):
            chunked = continued(model, prompt(), prefill_chunk_size=32)
            past = DynamicCache()
            past.prompt_length = PROMPT
            told = continued(model, prompt(), prefill_chunk_size=32, past_key_values=past)
        with lcbench.extend(model, f"{FIRST_CALL},prompt_length=32"):
            assert torch.equal(chunked, continued(model, prompt()))
        assert torch.equal(told, truth(LONGLLAMA)) and not torch.equal(chunked, told)

    def test_a_second_turn_goes_on_with_the_windows_of_the_first(self, model: PreTrainedModel) -> None:
        """LongLLaMA's would start anew with each call."""
        past = DynamicCache()
        with lcbench.extend(model, FIRST_CALL):
            first = continued(model, prompt(), past_key_values=past, max_new_tokens=9)
            question = torch.cat([first, zoo.tokens(1, 11, seed=3)], dim=1)
            second = continued(model, question, past_key_values=past, max_new_tokens=9)
        with lcbench.extend(model, LONGLLAMA):
            assert torch.equal(second, greedy(model, question, 9))
        with lcbench.extend(model, FIRST_CALL):
            again = DynamicCache()
            assert torch.equal(continued(model, prompt(), past_key_values=again, max_new_tokens=9), first)

    def test_a_cache_that_is_reset_has_a_new_prompt(self, model: PreTrainedModel) -> None:
        """A dynamic and a static one alike."""
        ids = zoo.tokens(1, 90)
        for past in (DynamicCache(), StaticCache(config=model.config, max_cache_len=90)):
            in_calls(model, FIRST_CALL, ids, [33, 60], past)
            past.reset()
            expected = in_calls(model, f"{FIRST_CALL},prompt_length=70", ids, [90])
            assert_close(in_calls(model, FIRST_CALL, ids, [70, 90], past), expected)

    def test_each_row_of_a_batch_has_its_own(self, model: PreTrainedModel) -> None:
        ids, mask = zoo.left_padded(zoo.tokens(2, 70), [0, 19])
        with torch.no_grad(), lcbench.extend(model, FIRST_CALL):
            actual = model(ids, attention_mask=mask).logits
            for row, pad in ((0, 0), (1, 19)):
                assert_close(actual[row, pad:], model(ids[row : row + 1, pad:]).logits[0])

    @pytest.mark.parametrize("chunk", [7, 32, 69, 70])
    def test_the_engine_says_it_on_the_cache(
        self, model: PreTrainedModel, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So chunks of the prefill change no result."""
        monkeypatch.setattr("lcbench.engine.generate.PREFILL_CHUNK", chunk)
        with lcbench.extend(model, FIRST_CALL):
            tokens = engine.generate(model, prompt()[0].tolist(), NEW).tokens
        assert tokens == truth(LONGLLAMA)[0, PROMPT:].tolist()

    def test_a_cache_that_was_filled_under_another_method_does_not_tell(self, model: PreTrainedModel) -> None:
        """Of a block that counts no prompt it tells all the same: what the first call brought."""
        ids, past = zoo.tokens(1, 90), DynamicCache()
        in_calls(model, "vanilla", ids[:, :70], [70], past)
        with torch.no_grad(), lcbench.extend(model, FIRST_CALL):
            assert torch.isfinite(model(ids[:, 70:], past_key_values=past).logits).all()
        assert past.first_call == 70


class TestWhereForgettingWouldLoseSomething:
    """Refused in a sentence, or not forgotten; never a wrong number."""

    def test_cropped_by_more_than_a_window(self, model: PreTrainedModel) -> None:
        past = DynamicCache()
        in_calls(model, STREAMING, zoo.tokens(1, 61), [60, 61], past)
        with pytest.raises(UserError, match="keeps the last 21 tokens of a layer and cannot be cropped by 22"):
            past.crop(-22)

    @pytest.mark.parametrize(
        "spec",
        [
            *METHODS,
            f"fot:memory_layers=[0,1],{WINDOWS},variant=streaming",
        ],
    )
    def test_cropped_into_a_window_that_was_let_go_of(self, spec: str) -> None:
        """Streaming: at 85 the window began at 64, at 77 it would at 56. Exact, or refused."""
        model, ids, past = model_for(spec), zoo.tokens(1, 100), DynamicCache()
        in_calls(model, spec, ids[:, :90], [85, 90], past)
        with contextlib.suppress(UserError):
            past.crop(-13)
            assert_close(in_calls(model, spec, ids[:, 77:], [23], past), in_calls(model, spec, ids, [100])[:, 77:])

    def test_then_the_sentence_says_so(self, model: PreTrainedModel) -> None:
        ids, past = zoo.tokens(1, 100), DynamicCache()
        in_calls(model, STREAMING, ids[:, :90], [85, 90], past)
        with pytest.raises(UserError, match="be cropped"):
            past.crop(-13) or in_calls(model, STREAMING, ids[:, 77:], [23], past)

    @every_method
    def test_drafts_across_the_edge_of_a_window(self, spec: str) -> None:
        """As prompt lookup and assisted decoding do: a few tokens come in, some of them are taken back."""
        model, past = model_for(spec), DynamicCache()
        edge = 78 if "prompt_length" in spec else 80
        ids = zoo.tokens(1, 100)
        with lcbench.extend(model, spec), torch.no_grad():
            model(ids[:, :PROMPT], past_key_values=past)
            model(torch.cat([ids[:, PROMPT : edge - 3], zoo.tokens(1, 5, seed=9)], dim=1), past_key_values=past)
            past.crop(-5)
            actual = model(ids[:, edge - 3 :], past_key_values=past).logits
            assert_close(actual, model(ids).logits[:, edge - 3 :])

    @pytest.mark.parametrize("spec", METHODS[::2])
    def test_prompt_lookup(self, model: PreTrainedModel, spec: str) -> None:
        with lcbench.extend(model, spec):
            assert torch.equal(continued(model, prompt(), prompt_lookup_num_tokens=4), truth(spec))

    @pytest.mark.parametrize("spec", METHODS[1::2])
    def test_assisted_decoding(self, model: PreTrainedModel, spec: str) -> None:
        assistant = zoo.build(zoo.config("LlamaConfig", num_hidden_layers=1), seed=3)
        with lcbench.extend(model, spec):
            assert torch.equal(continued(model, prompt(), assistant_model=assistant), truth(spec))

    def test_drafts_are_no_part_of_a_prompt_whose_length_is_said(self, model: PreTrainedModel) -> None:
        """The first call of assisted decoding brings drafts too: nobody else can tell."""
        assistant = zoo.build(zoo.config("LlamaConfig", num_hidden_layers=1), seed=3)
        with lcbench.extend(model, f"{FIRST_CALL},prompt_length={PROMPT}"):
            actual = generate(model, prompt(), max_new_tokens=12, assistant_model=assistant)
        assert torch.equal(actual, truth(LONGLLAMA)[:, : PROMPT + 12])

    @pytest.mark.parametrize("other", ["vanilla", "dca:chunk_size=18,max_position=21"])
    def test_a_cache_that_forgot_under_a_method_that_does_not(self, model: PreTrainedModel, other: str) -> None:
        past = DynamicCache()
        in_calls(model, STREAMING, zoo.tokens(1, 60), [50, 60], past)
        with pytest.raises(UserError, match="its cache drops keys that its attention needs"):
            in_calls(model, other, zoo.tokens(1, 5), [5], past)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (",mem_dtype=bfloat16", ""),
            ("", ",mem_dtype=bfloat16"),
            ("", ",memory=knn,top_k=5"),
            (",memory=knn", ""),
        ],
    )
    def test_a_memory_of_another_kind(self, first: str, second: str) -> None:
        """Refused, or as if it had been of the second kind from the beginning."""
        model, ids, past = model_for("bfloat16"), zoo.tokens(1, 90), DynamicCache()
        in_calls(model, STREAMING + first, ids[:, :60], [60], past)
        try:
            actual = in_calls(model, STREAMING + second, ids[:, 60:], [30], past)
        except UserError:
            return
        assert_close(actual, in_calls(model, STREAMING + second, ids, [90])[:, 60:])

    def test_a_cache_that_is_passed_by_position(self, model: PreTrainedModel) -> None:
        ids, past = zoo.tokens(1, 60), DynamicCache()
        with torch.no_grad(), lcbench.extend(model, STREAMING):
            model(ids[:, :40], None, None, past)
            actual = model(ids[:, 40:], None, None, past).logits
            assert_close(actual, model(ids).logits[:, 40:])

    def test_gradient_checkpointing(self, model: PreTrainedModel) -> None:
        """Checkpointed layers are run without the cache that came with the call."""
        ids = zoo.tokens(2, 60)
        gradients = []
        for checkpointing in (False, True):
            model.train().zero_grad()
            if checkpointing:
                model.gradient_checkpointing_enable()
            with lcbench.extend(model, STREAMING):
                model(ids, labels=ids).loss.backward()
            gradients.append([weight.grad.clone() for weight in model.parameters()])
        for one, other in zip(*gradients, strict=True):
            assert_close(one, other)

    def test_gradients_through_a_cache_that_forgets(self, model: PreTrainedModel) -> None:
        ids, gradients = zoo.tokens(2, 60), []
        for use_cache in (False, True):
            model.zero_grad()
            with lcbench.extend(model, STREAMING):
                model(ids, labels=ids, use_cache=use_cache).loss.backward()
            gradients.append([weight.grad.clone() for weight in model.parameters()])
        for one, other in zip(*gradients, strict=True):
            assert_close(one, other)

    def test_layers_that_hold_other_states_beside_keys(self) -> None:
        """Falcon-H1 runs attention and a state space side by side in every layer."""
        model, ids = zoo.build(tiny_config("falcon_h1")), zoo.tokens(1, 40)
        calls = in_calls(model, STREAMING, ids, [20, 37, 40])
        assert_close(calls, in_calls(model, STREAMING, ids, [40], use_cache=False))

    def test_keys_that_the_model_changes_behind_its_cache(self) -> None:
        """JetMoE repeats them, head by head, once they come out of it. Exact, or refused."""
        model, ids = zoo.build(tiny_config("jetmoe")), zoo.tokens(1, 60)
        try:
            calls = in_calls(model, STREAMING, ids, [30, 50, 60])
        except UserError:
            return
        assert_close(calls, in_calls(model, STREAMING, ids, [60], use_cache=False))

    def test_a_model_with_a_cache_of_its_own(self) -> None:
        model, ids = zoo.build(tiny_config("minimax")), zoo.tokens(1, 40)
        with torch.no_grad(), lcbench.extend(model, STREAMING):
            assert_close(model(ids).logits, model(ids, use_cache=False).logits)

    def test_layers_that_share_the_keys_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Gemma 3n's last layers attend to the keys of earlier ones. Exact, or refused."""
        layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
        monkeypatch.setitem(MORE, "gemma3n_text", {"num_kv_shared_layers": 2, **layers})
        config = tiny_config("gemma3n_text")
        model, ids = zoo.build(config), zoo.tokens(1, 60)
        try:
            calls = in_calls(model, STREAMING, ids, [30, 50, 60])
        except UserError:
            return
        assert_close(calls, in_calls(model, STREAMING, ids, [60], use_cache=False))

    def test_a_sliding_layer_cannot_hold_memory(self) -> None:
        model = zoo.build(zoo.ARCHITECTURES["gemma3"]())
        with pytest.raises(UserError, match="layer 0"), lcbench.extend(model, f"fot:memory_layers=[0,1],{WINDOWS}"):
            pass
