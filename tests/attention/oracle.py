"""Every method once more, as its paper writes it: one pair (i, j) at a time, no pieces, no tables, no tiles.

Only a method's name and options are read here, never its hooks. Together with `reference_attention` these functions
answer what a model must compute; the engine is held against that.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lcbench.attention.backends.reference import reference_attention
from lcbench.attention.probe import ProbedLayer, attention_set_to, probe, unrotated
from lcbench.methods import Composition, Lengths, Method

NAME = "lcbench-test-reference"
Relative = Callable[[int, int], float | None]


def self_extend(i: int, j: int, group_size: int, neighbor_window: int, **_: Any) -> int:
    if i - j < neighbor_window:
        return i - j
    return i // group_size - j // group_size + neighbor_window - neighbor_window // group_size


def dca(i: int, j: int, chunk_size: int, max_position: int, **_: Any) -> int:
    chunks_back = i // chunk_size - j // chunk_size
    if chunks_back == 0:
        return i % chunk_size - j % chunk_size
    if chunks_back == 1:
        return min(i % chunk_size + chunk_size, max_position) - j % chunk_size
    return min(2 * chunk_size - 1, max_position) - j % chunk_size


def rerope(i: int, j: int, window: int) -> int:
    return min(i - j, window)


def leaky_rerope(i: int, j: int, window: int, k: int) -> float:
    return i - j if i - j < window else window + (i - j - window) / k


def string(i: int, j: int, shift: int, window: int, **_: Any) -> int:
    """Shifted beyond the diagonal, then the first keys of what is shifted moved away by the window."""
    return i - j if i - j < shift else (i - j) - (shift - window)


def lm_infinite(i: int, j: int, sinks: int, window: int) -> int | None:
    """A Lambda-shaped mask, and a bound on the distance."""
    seen = j < sinks or i - j < window
    return min(i - j, window) if seen else None


def tri_shape(i: int, j: int, n: int, sinks: int, window: int, dense: int, **_: Any) -> int | None:
    seen = j < sinks or i - j < window or n - i <= dense
    return i - j if seen else None


def streaming(i: int, j: int, sinks: int, window: int) -> int | None:
    """Positions count what is kept, from the oldest sink to the query itself."""
    kept = _kept(i, sinks, window)
    return len(kept) - 1 - kept.index(j) if j in kept else None


@lru_cache(maxsize=100_000)
def _kept(i: int, sinks: int, window: int) -> list[int]:
    return sorted(set(range(min(sinks, i + 1))) | set(range(max(0, i - window + 1), i + 1)))


def fot(
    i: int,
    j: int,
    layer: int,
    n: int,
    memory_layers: tuple[int, ...],
    context_length: int,
    last_context_length: int,
    variant: str,
    mem_positionals: bool,
    **_: Any,
) -> int | None:
    """Windows drawn one after another, as LongLLaMA's prefill of n tokens and its decoding do."""
    start = _window_start(i, n, context_length, last_context_length, variant)
    if variant == "streaming":  # blocks; the local window reaches back from the block's start
        start = max(start - last_context_length, 0)
    if layer in memory_layers and not mem_positionals:
        return 0
    if j >= start:
        return i - j
    return i - start if layer in memory_layers else None


@lru_cache(maxsize=100_000)
def _window_start(i: int, n: int, context: int, last: int, variant: str) -> int:
    return max(start for start in _window_starts(n, context, last, variant) if start <= i)


@lru_cache(maxsize=100)
def _window_starts(n: int, context: int, last: int, variant: str) -> list[int]:
    if variant == "streaming":
        return list(range(0, 10_000, context - last))
    split = max(n - last, 0)
    return [*range(0, split, context), *range(split, 10_000, context)]


def duo_attention(
    i: int, j: int, layer: int, head: int, full_heads: tuple[str, ...], sinks: int, window: int
) -> int | None:
    seen = f"{layer}:{head}" in full_heads or j < sinks or i - j < window
    return i - j if seen else None


def within(window: int) -> Relative:
    """A model's own sliding-window layer."""
    return lambda i, j: i - j if i - j < window else None


def infllm(i: int, j: int, n_local: int, **_: Any) -> int:
    """Of the keys that are seen, which content decides."""
    return min(i - j, n_local)


PLANS: dict[str, Callable[..., float | None]] = {
    "leaky_rerope": leaky_rerope,
    "lm_infinite": lm_infinite,
    "string": string,
    "self_extend": self_extend,
    "dca": dca,
    "rerope": rerope,
    "infllm": infllm,
    "streaming": streaming,
}


def parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Composition) else (method,)


def plan(method: Method, layer: int = 0, n: int = 0, head: int = 0) -> Relative:
    """The position plan of a resolved method: relative position of query i and key j <= i, None where i sees not j.

    One that differs from layer to layer or from KV head to KV head, or counts from the end of the prompt, asks for
    `layer`, `head` and its length n.
    """
    for part in parts(method):
        if part.name == "fot":
            options = part.options()
            return lambda i, j: fot(i, j, layer, options["prompt_length"] or n, **options)
        if part.name == "duo_attention":
            given = {key: part.options()[key] for key in ("full_heads", "sinks", "window")}
            return lambda i, j: duo_attention(i, j, layer, head, **given)
        if part.name == "tri_shape":
            options = part.options()
            return lambda i, j: tri_shape(i, j, options["prompt_length"] or n, **options)
        if part.name in PLANS:
            options = part.options()
            return lambda i, j: PLANS[part.name](i, j, **options)
    return lambda i, j: i - j


def matrices(relative: Relative, n: int, queries: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Relative positions [T, n], and which of n keys each query sees [T, n]; for all queries or for those named."""
    queries = list(range(n)) if queries is None else queries
    rows = [[relative(i, j) if j <= i else None for j in range(n)] for i in queries]
    rel = torch.tensor([[distance or 0 for distance in row] for row in rows], dtype=torch.float64)
    return rel, torch.tensor([[distance is not None for distance in row] for row in rows])


def score_scale(method: Method, n: int, lengths: Lengths, layer: int = 0) -> Tensor:
    """Factor [n] on the scores of each query of a run of n tokens, in one layer."""
    scale = torch.ones(n, dtype=torch.float64)
    for part in parts(method):
        options = part.options()
        base = options["base"] if part.name == "logn" else options.get("log_scale_base")
        if part.name == "entropy_abf" and layer >= options["unscaled_layers"]:
            base = options["length"]
        if base:
            scale *= torch.tensor([max(1.0, math.log(i + 1) / math.log(base)) for i in range(n)], dtype=torch.float64)
        if part.name == "string":
            scale *= options["attention_factor"] ** 2
        if part.name == "drope":
            scale *= options["scale"]
        if part.name == "llama4_temperature" and layer in (options["layers"] or [layer]):
            steps = [math.floor((i + 1) / options["floor_scale"]) for i in range(n)]
            scale *= torch.tensor([options["attn_scale"] * math.log(step + 1) + 1 for step in steps])
        if part.name == "dca" and options["mscale"]:
            trained = options["pretraining_length"] if options["variant"] == "paper" else lengths.pretraining
            assert lengths.run is not None
            m = max(1.0, 1 + options["mscale"] * math.log(lengths.run / trained))
            scale *= m * m  # queries and keys are both multiplied by m
    return scale


def rope(trained: int, dim: int, theta: float, run: int | None = None, **parameters: Any) -> tuple[Tensor, float]:
    """Inverse frequencies [dim / 2] and attention factor as transformers computes them from a config."""
    parameters = {"rope_type": "default", **parameters}
    if parameters["rope_type"] == "default":
        return theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim), 1.0
    config = LlamaConfig(head_dim=dim, max_position_embeddings=trained)
    config.rope_parameters = {"rope_theta": theta, **parameters}
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"), seq_len=run)


def frequencies(method: Method, lengths: Lengths, dim: int, theta: float) -> tuple[Tensor, float]:
    """What the method makes of a RoPE of that many channels and that base."""
    inv_freq, factor = _scaled(method, lengths, dim, theta)
    if any(part.name == "resonance" for part in parts(method)):
        inv_freq = 2 * math.pi / torch.round(2 * math.pi / inv_freq.double())
    return inv_freq, factor


def _scaled(method: Method, lengths: Lengths, dim: int, theta: float) -> tuple[Tensor, float]:
    for part in parts(method):
        options = part.options()
        if part.name == "ntk":
            return rope(lengths.pretraining, dim, theta * options["factor"] ** (dim / (dim - 2)))
        if part.name in ("abf", "entropy_abf"):
            return rope(lengths.pretraining, dim, options["base"])
        if part.name in ("p_rope", "drope"):
            inv_freq, factor = rope(lengths.pretraining, dim, theta)
            rotating = math.floor(options.get("p", 0) * dim / 2)
            return torch.tensor([*inv_freq[:rotating].tolist(), *[0.0] * (dim // 2 - rotating)]), factor
        if part.name == "longrope":
            given = {key: list(options["factors"]) for key in ("short_factor", "long_factor")}
            given["attention_factor"] = options["attention_factor"]
            original = {"original_max_position_embeddings": options["original_length"], "factor": 1.0}
            return rope(lengths.pretraining, dim, theta, rope_type="longrope", **given, **original)
        kind = {"pi": "linear", "dynamic_ntk": "dynamic"}.get(part.name, part.name)
        if kind in ("linear", "dynamic", "yarn", "llama3"):
            original = (
                {} if kind in ("linear", "dynamic") else {"original_max_position_embeddings": lengths.pretraining}
            )
            return rope(lengths.pretraining, dim, theta, lengths.run, rope_type=kind, **options, **original)
    return rope(lengths.pretraining, dim, theta)


@contextlib.contextmanager
def reference_model(
    model: PreTrainedModel, method: Method, lengths: Lengths, dtype: torch.dtype = torch.float64
) -> Iterator[PreTrainedModel]:
    """A float64 copy of the model that runs every layer through `reference_attention`; unpadded, without a cache.

    Which channels turn together, and how fast, is read from the probe's findings; the frequencies of methods that
    change them are computed here, for RoPEs without scaling of their own.
    """
    model = copy.deepcopy(model).to(dtype)
    layers = probe(model)
    layerwise = any(part.name in ("fot", "duo_attention") for part in parts(method))

    @cache
    def pairs(window: int | None, layer: int, head: int, n: int) -> tuple[Tensor, Tensor]:
        return matrices(plan(method, layer, n, head) if window is None else within(window), n)

    def attend(
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **extra: Any,
    ) -> tuple[Tensor, None]:
        layer = layers[module]
        n = q.shape[2]
        inv_freq, attention_factor = _layer_rope(layer, method, lengths)
        index, kinds = int(module.layer_idx), k.shape[1] if method.headwise else 1
        groups, scale = q.shape[1] // kinds, q.shape[-1] ** -0.5 if scaling is None else scaling
        sinks_H = extra.get("s_aux")
        outs = []
        for head in range(kinds):
            of, of_keys = slice(head * groups, (head + 1) * groups), slice(head, head + 1) if kinds > 1 else slice(None)
            out = reference_attention(
                q[:, of],
                k[:, of_keys],
                v[:, of_keys],
                *pairs(layer.window, index if layerwise else 0, head, n),
                inv_freq,
                pairing=layer.rope.pairing,
                attention_factor=attention_factor,
                scale=scale,
                score_scale_T=score_scale(method, n, lengths, index) if layer.window is None else None,
                softcap=extra.get("softcap"),
                sinks_H=None if sinks_H is None else sinks_H[of],
            )
            outs.append(out)
        out = torch.cat(outs, dim=1)
        return out.to(q.dtype).transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    with attention_set_to(model, NAME), unrotated(model):
        yield model


def _layer_rope(layer: ProbedLayer, method: Method, lengths: Lengths) -> tuple[Tensor, float]:
    rotary = layer.rope.rotary
    if rotary is None:
        return torch.zeros(0), 1.0
    own = not any(part.name == "longrope" for part in parts(method))
    if layer.rope.depends_on_length and own:
        assert "frequencies" not in method.hooks
        return ROPE_INIT_FUNCTIONS[layer.rope.kind](rotary.config, torch.device("cpu"), seq_len=lengths.run)
    inv_freq = getattr(rotary, f"{layer.rope.prefix}inv_freq")
    own_factor = getattr(rotary, f"{layer.rope.prefix}attention_scaling", 1.0)
    if "frequencies" not in method.hooks or layer.rope.kwargs.get("layer_type") == "sliding_attention":
        return inv_freq, own_factor
    assert layer.rope.kind == "default" or not own
    parameters = rotary.config.rope_parameters
    theta = parameters.get("rope_theta") or parameters[layer.rope.kwargs["layer_type"]]["rope_theta"]
    return frequencies(method, lengths, 2 * len(inv_freq), theta)


@torch.no_grad()
def reference_logits(
    model: PreTrainedModel, ids: Tensor, method: Method, lengths: Lengths, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Logits [B, n, vocabulary] that the model must have under a resolved method, for rows without padding.

    `dtype` is that of all but attention, which is float64 in any case: some models run in float32 only.
    """
    with reference_model(model, method, lengths, dtype) as model:
        return model(ids, use_cache=False).logits
