from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaForCausalLM

from lcbench.apps.train.documents import Library
from lcbench.apps.train.recall import repeated_segment
from lcbench.apps.train.start import initial_model, reference_config


def attention_of(model: LlamaForCausalLM, ids_T: torch.Tensor, layer: int) -> torch.Tensor:
    """Attention weights of head 0 of a layer, [T, T]."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(ids_T[None], output_attentions=True).attentions[layer][0, 0]


def copied(model: LlamaForCausalLM, library: Library) -> float:
    """How often the next token of repeated random segments is right."""
    documents = [repeated_segment(random.Random(seed), 256, library) for seed in range(24)]
    ids_BT = torch.tensor([document.ids for document in documents])
    counted_BT = torch.tensor([document.weights for document in documents])[:, 1:] > 0
    with torch.no_grad():
        right_BT = model(ids_BT[:, :-1]).logits.argmax(-1) == ids_BT[:, 1:]
    return right_BT[counted_BT].float().mean().item()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return initial_model(reference_config(), seed=0, structured=True)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_copies_before_the_first_step(library: Library, seed: int) -> None:
    assert copied(initial_model(reference_config(), seed, structured=True), library) > 0.75


def test_the_ordinary_start_does_not(library: Library) -> None:
    assert copied(initial_model(reference_config(), 0, structured=False), library) < 0.02


def test_head_0_of_layer_0_looks_one_token_back_wherever_it_stands(model: LlamaForCausalLM) -> None:
    ids_T = torch.randint(2, 1341, (256,), generator=torch.Generator().manual_seed(0))
    back_T = attention_of(model, ids_T, layer=0).diagonal(-1)
    assert back_T[:64].mean() > 0.8
    assert back_T[-64:].mean() > 0.8


def test_head_0_of_layer_1_finds_what_followed_the_current_token(model: LlamaForCausalLM) -> None:
    segment = torch.randperm(1339, generator=torch.Generator().manual_seed(0))[:32] + 2
    attention_TT = attention_of(model, segment.repeat(2), layer=1)[32:]
    followed_T = torch.arange(32) + 1
    assert (attention_TT.argmax(-1) == followed_T).float().mean() > 0.7
    assert attention_TT[torch.arange(32), followed_T].mean() > 10 / 64


def test_all_other_heads_and_all_mlps_are_silent(model: LlamaForCausalLM) -> None:
    for number, layer in enumerate(model.model.layers):
        output_DH = layer.self_attn.o_proj.weight
        heard = output_DH.abs().sum(0).view(4, 64).sum(1) > 0
        assert heard.tolist() == [number < 2, False, False, False]
        assert not layer.mlp.down_proj.weight.any()
        assert layer.mlp.up_proj.weight.any()


@pytest.mark.parametrize("structured", [True, False])
def test_the_seed_decides_the_weights(structured: bool) -> None:
    models = [initial_model(reference_config(), seed, structured) for seed in (0, 0, 1)]
    same, again, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_size_and_shape(model: LlamaForCausalLM) -> None:
    assert sum(weight.numel() for weight in model.parameters()) == 1_287_296
    assert model.config.vocab_size == 1344
    assert model.config.max_position_embeddings == 256
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
