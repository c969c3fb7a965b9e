"""Find out by experiment how a model rotates its queries and keys.

No config is read and no architecture is special-cased. A few tokens run through the model twice, with its rotation and
without, and every layer's queries and keys are compared: which rotary module, which pairing of channels, or none. A
layer that no known rotation explains is refused by name.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lcbench.attention.mask import Span, span_mask
from lcbench.attention.no_rotation import no_rotation
from lcbench.attention.rope import Pairing, Rope, RopeTables, TableLayout
from lcbench.core.errors import UnsupportedModelError, UserError, out_of_memory
from lcbench.methods.base import Lengths, Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = "lcbench-probe"
PROBE_TOKENS = 12
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3}  # relative error; the true rotation stays below a third of it


@dataclass(frozen=True)
class ProbedLayer:
    """The rotation of one attention layer; its own sliding window in tokens, or None; and the earlier layer whose keys
    and values it reads if it computes none (Gemma 3n)."""

    rope: Rope
    window: int | None
    keys_of: nn.Module | None = None


@dataclass
class _Call:
    """The attention function's arguments as one layer of the probed model passed them."""

    q_BHTD: Tensor
    k_BKSD: Tensor
    span: Span


# Calls are recorded by module, so that several models can be probed at once from several threads.
_notes: weakref.WeakKeyDictionary[nn.Module, list[_Call]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def _spy(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **_: Any
) -> tuple[Tensor, None]:
    if not isinstance(attention_mask, Span):
        raise UnsupportedModelError("its attention does not use the mask from transformers' mask interface")
    _notes[module].append(_Call(query, key, attention_mask))
    # Zeros, so that the inputs of later layers do not depend on the rotation of earlier ones.
    B, H, T = query.shape[:3]
    return query.new_zeros(B, T, H, value.shape[-1]), None


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that return (cos, sin), found by the naming convention of `transformers`: `*rotary_emb`, or the class
    `*RotaryEmbedding` under LFM2-MoE's name."""
    return [
        module
        for name, module in model.named_modules()
        if (own := name.split(".")[-1]).endswith("rotary_emb")
        or (own == "pos_emb" and type(module).__name__.endswith("RotaryEmbedding"))
    ]


def own_frequencies(model: nn.Module) -> list[Tensor] | None:
    """The inverse frequencies [M], on the CPU, of the rotary modules that methods scale. The modules are made anew from
    their configs, since `model` may be on the meta device; None if one of them cannot be made.

    Sliding-window layers with a rotation of their own (Gemma 3) keep it, see `lcbench.attention.rope.scales`.
    """
    found = []
    for rotary in rotary_modules(model):
        try:
            made = type(rotary)(rotary.config)
        except Exception:  # a class from a model's own repository may take other arguments
            return None
        found += [
            buffer.float()
            for name, buffer in made.named_buffers()
            if name.endswith("inv_freq") and not name.endswith("original_inv_freq") and "sliding_attention" not in name
        ]
    return found or None


def require_rotary(model: nn.Module) -> None:
    """Raises: UnsupportedModelError for a model without rotary position embedding."""
    if not rotary_modules(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no rotary_emb module: it is not a RoPE model that lcbench can steer."
        )


@contextlib.contextmanager
def attention_set_to(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Inside, the model calls the attention and mask functions registered as `name`."""
    configs = {id(config): config for config in _configs(model.config)}.values()
    before = [(config, config._attn_implementation) for config in configs]
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise UnsupportedModelError("it does not use transformers' AttentionInterface")
        yield
    finally:
        model.set_attn_implementation(before[0][1])
        for config, implementation in before:  # parts of a composite model may have different ones
            config._attn_implementation_internal = implementation


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _configs(part)


@contextlib.contextmanager
def unrotated(model: nn.Module) -> Iterator[None]:
    """Inside, queries and keys reach the attention function, and the cache, without rotation."""

    def hide(module: nn.Module, args: Any, output: Any) -> Any:
        return no_rotation(*output)

    handles = [rotary.register_forward_hook(hide) for rotary in rotary_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def rotary_state_kept(model: nn.Module) -> Iterator[None]:
    """Restore the state of the rotary modules afterwards: dynamic NTK and longrope keep the longest input length."""
    kept = [
        (
            rotary,
            {name: value for name, value in vars(rotary).items() if isinstance(value, int | float | Tensor)},
            [(name, buffer, buffer.clone()) for name, buffer in rotary._buffers.items() if buffer is not None],
        )
        for rotary in rotary_modules(model)
    ]
    try:
        yield
    finally:
        for rotary, plain, buffers in kept:
            vars(rotary).update(plain)
            for name, buffer, content in buffers:
                rotary._buffers[name] = buffer
                if not torch.equal(buffer, content):
                    buffer.copy_(content)


@torch.no_grad()
def probe(model: PreTrainedModel) -> dict[nn.Module, ProbedLayer]:
    """Every attention layer of the model, by module, in the order in which they run.

    Raises: UnsupportedModelError, naming the layer, for a model whose attention it cannot explain.
    """
    require_rotary(model)
    name = type(model).__name__
    modules = list(model.modules())
    were_training = [module.training for module in modules]
    with _lock:
        _notes.update({module: [] for module in modules})
    try:
        model.eval()
        with rotary_state_kept(model):
            ropes = _run_twice(model)
        calls = {module: _notes[module] for module in modules if _notes[module]}
    except UserError as error:
        raise UnsupportedModelError(f"{name} cannot be steered: {error}.") from error
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError, ValueError, AssertionError) as error:
        if out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"{name} cannot be steered: it failed under the probe ({type(error).__name__}: {reason})."
        ) from error
    finally:
        for module, training in zip(modules, were_training, strict=True):
            module.training = training
        with _lock:
            for module in modules:
                _notes.pop(module, None)
    if not calls:
        raise UnsupportedModelError(f"{name} never called the attention function.")
    computed: dict[int, nn.Module] = {}  # the first layer that attends to these keys
    layers = {}
    for module, runs in calls.items():
        layer, first = _explain(name, module, runs, ropes), computed.setdefault(id(runs[-1].k_BKSD), module)
        layers[module] = layer if first is module else replace(layer, keys_of=first)
    return layers


def _run_twice(model: PreTrainedModel) -> list[Rope]:
    """Run the probe's tokens with and without rotation; returns the distinct calls of rotary modules."""
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
    )  # imports modelling code, which a loaded model has done already

    AttentionInterface.register(PROBE, _spy)
    AttentionMaskInterface.register(PROBE, span_mask)
    seen: dict[tuple[nn.Module, str], Rope] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not (isinstance(output, tuple) and len(output) == 2 and all(isinstance(part, Tensor) for part in output)):
            raise UnsupportedModelError(f"{type(module).__name__} does not return (cos, sin)")
        extra = {key: value for key, value in kwargs.items() if key not in ("x", "position_ids")}
        extra |= dict(zip(("layer_type",), args[2:], strict=False))
        seen.setdefault((module, str(extra)), Rope(module, extra))

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(PROBE_TOKENS, device=execution_device(model))[None] % vocabulary
    with attention_set_to(model, PROBE):
        handles = [rotary.register_forward_hook(record, with_kwargs=True) for rotary in rotary_modules(model)]
        try:
            model(ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        with unrotated(model):
            model(ids, use_cache=False)
    return list(seen.values())


def execution_device(model: PreTrainedModel) -> torch.device:
    """The device for the model's inputs. Weights that accelerate has offloaded are on meta; its hooks know the
    device."""
    embedding = model.get_input_embeddings()
    for module in (model, embedding):
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    device = next(embedding.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def _explain(model_name: str, module: nn.Module, runs: list[_Call], ropes: list[Rope]) -> ProbedLayer:
    layer = getattr(module, "layer_idx", "?")
    if len(runs) != 2:
        raise UnsupportedModelError(f"layer {layer} of {model_name} attends {len(runs) / 2:g} times per forward pass.")
    rotated, plain = runs
    window = plain.span.window
    if window == 0:
        raise UnsupportedModelError(f"layer {layer} of {model_name} attends within a window of 0 tokens.")
    tolerance = TOLERANCE.get(plain.q_BHTD.dtype, 1e-4)
    # Two modules may return equal tables (equal bases): prefer the one for this layer's type.
    types = getattr(getattr(module, "config", None), "layer_types", None)
    own = types[layer] if types and isinstance(layer, int) and layer < len(types) else None
    ropes = sorted(ropes, key=lambda rope: rope.kwargs.get("layer_type") != own)
    tables = RopeTables(Method(), Lengths(PROBE_TOKENS, PROBE_TOKENS))
    positions = torch.arange(PROBE_TOKENS)
    best = Rope(None)
    best_error = max(_distance(plain.q_BHTD, rotated.q_BHTD), _distance(plain.k_BKSD, rotated.k_BKSD))
    for rope, pairing, layout in product(ropes, get_args(Pairing), get_args(TableLayout)):
        candidate = Rope(rope.rotary, rope.kwargs, pairing, layout)
        try:
            error = max(
                _distance(tables.rotate(plain.q_BHTD, positions, candidate), rotated.q_BHTD),
                _distance(tables.rotate(plain.k_BKSD, positions, candidate), rotated.k_BKSD),
            )
        except (RuntimeError, IndexError):  # tables wider than the head, or of another rank
            continue
        if error < best_error:
            best_error, best = error, candidate
    if not math.isfinite(best_error) and plain.q_BHTD.shape == rotated.q_BHTD.shape:
        raise UnsupportedModelError(
            f"layer {layer} of {model_name}: even without a method, its queries or keys are NaN or infinite in "
            f"{plain.q_BHTD.dtype}: an earlier layer overflows; use --dtype bfloat16 or float32, or check the weights."
        )
    if not best_error < tolerance:
        raise UnsupportedModelError(
            f"layer {layer} of {model_name}: no known rotation turns its unrotated queries and keys into the rotated "
            f"ones (best relative error {best_error:.2g}); it may normalise after rotating, or rotate in its own way."
        )
    return ProbedLayer(best, window)


def _distance(x: Tensor, y: Tensor) -> float:
    """Relative distance of two tensors; infinite for different shapes."""
    if x.shape != y.shape:
        return float("inf")
    return float((x.double() - y.double()).norm() / y.double().norm().clamp(min=1e-9))
