"""What a block cannot know by itself is refused, not guessed."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, Gemma3Config, Gemma3ForConditionalGeneration

import lcbench
from lcbench.attention.probe import probe
from lcbench.core.errors import UserError
from tests.attention import zoo

PLAN = "dca:chunk_size=18,max_position=21"


@torch.no_grad()
def test_a_mask_of_a_part_of_the_sequence_is_refused() -> None:
    model, cache = zoo.llama(), DynamicCache()
    ids, mask = zoo.left_padded(zoo.tokens(2, 40), [7, 0])
    with lcbench.extend(model, PLAN):
        model(ids[:, :30], attention_mask=mask[:, :30], past_key_values=cache)
        with pytest.raises(UserError, match="covers 10 of 40 tokens"):
            model(ids[:, 30:], attention_mask=mask[:, 30:], past_key_values=cache)


@torch.no_grad()
def test_a_cache_filled_outside_is_refused_and_a_copy_of_one_filled_inside_is_not() -> None:
    model, ids = zoo.llama(), zoo.tokens(1, 40)
    outside, inside = DynamicCache(), DynamicCache()
    model(ids[:, :30], past_key_values=outside)
    with lcbench.extend(model, PLAN):
        with pytest.raises(UserError, match="filled outside the block"):
            model(ids[:, 30:], past_key_values=outside)
        expected = model(ids).logits[:, 30:]
        model(ids[:, :30], past_key_values=inside)
        fork = copy.deepcopy(inside)
        for cache in (inside, fork):
            torch.testing.assert_close(model(ids[:, 30:], past_key_values=cache).logits, expected, atol=1e-5, rtol=0)


def test_the_parts_of_a_composite_model_get_their_own_attention_back() -> None:
    layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
    text = {**zoo.SHAPE, **layers, "head_dim": 16, "query_pre_attn_scalar": 16}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    model = Gemma3ForConditionalGeneration(config).eval()
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})
    parts = (config, config.text_config, config.vision_config)
    before = [part._attn_implementation for part in parts]
    assert before[1] == "eager"
    with lcbench.extend(model, "yarn:factor=4"):
        pass
    assert [part._attn_implementation for part in parts] == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_slow_rotation_is_not_taken_for_none_in_half_precision(dtype: torch.dtype) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 500.0}
    model = zoo.llama(rope_parameters=rope).to(dtype)
    assert all(layer.rope.rotary is not None for layer in probe(model).values())


@pytest.mark.parametrize("length", [0, -5, "4k", 2.5])
def test_a_length_is_a_number_of_tokens(length: object) -> None:
    with pytest.raises(UserError, match="whole number of tokens from 1"):
        lcbench.extend(zoo.llama(), "yarn", length=length)  # type: ignore[arg-type]
