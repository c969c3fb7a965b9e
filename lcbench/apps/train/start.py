"""The weights that a reference model starts from.

The heads that retrieve (Olsson et al., 2022, "In-context Learning and Induction Heads", arXiv:2209.11895) appear by
themselves only after a long plateau: 2,200 steps of nothing but copying for a model of this size, and more than 3,000
once anything else is in the mix. The structured start begins with a rough form of them; training makes it exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from lcbench.apps.train.tokenizer import VOCABULARY_SIZE

EMBEDDING_STD = 0.02
MATRIX_SCALE = 0.7  # times 1 / sqrt(hidden size); half of it where a block writes to the residual stream
CONSTANT = 0.06  # the entry that all embeddings share in the structured start
FAST_FREQUENCIES, SLOW_FREQUENCIES = 8, 20
PREVIOUS_TOKEN_PEAK = 48.0  # attention score of the token before, over all others


def reference_config(trained_length: int = 256) -> LlamaConfig:
    """A Llama of 1.3 M parameters; the vocabulary of 1,341 is padded to a multiple of 64."""
    return LlamaConfig(
        vocab_size=math.ceil(VOCABULARY_SIZE / 64) * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=trained_length,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )


def initial_model(config: LlamaConfig, seed: int, structured: bool) -> LlamaForCausalLM:
    """A model with weights drawn from the seed, float32, on the CPU."""
    model = LlamaForCausalLM(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.copy_(torch.randn(weight.shape, generator=rng) * _standard_deviation(name, config))
        if structured:
            _structure(model, rng)
    return model


def _standard_deviation(name: str, config: LlamaConfig) -> float:
    if "embed" in name:
        return EMBEDDING_STD
    writes = "o_proj" in name or "down_proj" in name
    return float(MATRIX_SCALE * (0.5 if writes else 1.0) / math.sqrt(config.hidden_size))


def _structure(model: LlamaForCausalLM, rng: torch.Generator) -> None:
    """Initialise head 0 of the first two layers as rough forms of a previous-token head and an induction head.

    With hidden size D and head dimension d, an embedding is a constant (entry 0) and D - 1 random entries. Two maps
    [d, D] out of one random orthogonal matrix read those: `content` reads what a token is, `before` (all but
    perpendicular to it) is where a token notes what the token before it is.

    - Layer 0, head 0 looks one token back. Its queries and keys see the constant only, on the fastest frequencies of
      RoPE, the keys turned one step ahead: the score of key j for query i is the sum of cos((i - j - 1) f) over these
      frequencies f, highest at j = i - 1, whatever the tokens are and wherever they stand. It writes their
      content to `before`.
    - Layer 1, head 0 finds where the current token stood before and copies what followed (an induction head). Its
      queries are the content of the current token, its keys the note on the token before each key, on the slow
      frequencies, which hardly turn within the window, so that it matches at any distance. It writes the content of the
      token it finds, which, the embeddings being tied, is a vote for that token.
    - All other heads and all MLPs are random and silent: their output projections start at zero, so nothing blurs these
      two before they are trained.
    """
    config = model.config
    hidden, head_dim = config.hidden_size, config.head_dim
    head, half = slice(0, head_dim), head_dim // 2
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()

    embeddings = model.model.embed_tokens.weight
    embeddings[:, 0] = CONSTANT
    mean_square = CONSTANT**2 / hidden + EMBEDDING_STD**2
    constant = CONSTANT / math.sqrt(mean_square)  # entry 0 of an embedding after the RMS norm

    orthogonal = torch.linalg.qr(torch.randn(hidden - 1, hidden - 1, generator=rng))[0]
    content_DhD, before_DhD = torch.zeros(head_dim, hidden), torch.zeros(head_dim, hidden)
    content_DhD[:, 1:], before_DhD[:, 1:] = orthogonal[:head_dim], orthogonal[-head_dim:]

    frequencies = model.model.rotary_emb.inv_freq[:FAST_FREQUENCIES]
    gain = math.sqrt(PREVIOUS_TOKEN_PEAK / FAST_FREQUENCIES * math.sqrt(head_dim)) / constant
    query_DhD, key_DhD = torch.zeros(head_dim, hidden), torch.zeros(head_dim, hidden)
    query_DhD[:FAST_FREQUENCIES, 0] = gain
    key_DhD[:FAST_FREQUENCIES, 0] = gain * frequencies.cos()
    key_DhD[half : half + FAST_FREQUENCIES, 0] = gain * frequencies.sin()
    looks_back = model.model.layers[0].self_attn
    _set_head(looks_back, head, query_DhD, key_DhD, value=content_DhD * 0.5, output=before_DhD.T * 0.04)

    slow_Dh1 = (torch.arange(head_dim) % half >= half - SLOW_FREQUENCIES)[:, None]
    matches = model.model.layers[1].self_attn
    _set_head(
        matches,
        head,
        content_DhD * slow_Dh1 * 1.2,
        before_DhD * slow_Dh1 * 1.2,
        value=content_DhD * 0.5,
        output=content_DhD.T * 0.5,
    )


def _set_head(
    attention: LlamaAttention, head: slice, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> None:
    attention.q_proj.weight[head] = query
    attention.k_proj.weight[head] = key
    attention.v_proj.weight[head] = value
    attention.o_proj.weight[:, head] = output
