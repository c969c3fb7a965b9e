"""What a prefill takes beside weights and KV cache, counted to the byte at the real size, without a GPU.

The model lies on PyTorch's meta device, where tensors have shapes and no numbers: a chunk of Llama 3 8B at a million
tokens runs in a fraction of a second and takes no memory. Every storage that is made there is counted until it goes.
Kernels have stand-ins that make what they make. Not counted: what an operator needs inside itself (the workspaces of
matrix products, some ten MiB) and what the allocator of a GPU cannot use of its blocks.

    python -c "from tests.attention.test_prefill_memory import peak_beside; print(peak_beside('dca', 'flash', 2**20))"
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

import lcbench
from lcbench.apps.bench.shapes import shape_config
from lcbench.attention import attend, steering
from lcbench.attention import rope as rotation
from lcbench.attention.backends import dispatch as backends
from lcbench.attention.backends import flash, flex, matmul
from lcbench.attention.backends.dispatch import Backend
from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.window import WindowLayer
from lcbench.attention.probe import ProbedLayer
from lcbench.attention.rope import Rope, RopeTables
from lcbench.engine.generate import PREFILL_CHUNK
from lcbench.methods import Lengths, parse_method
from tests.attention import zoo
from tests.attention.test_attention_functions import rope_of

GIB = 2**30
GATE = 2 * GIB
TOKENS = 2**20
METHODS = ["vanilla", "dca", "self_extend"]
KERNELS = ["flash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flex", "triton"))]
FOT = "fot:memory_layers=[0]"


class Counted(TorchDispatchMode):
    """Bytes of the storages on the meta device that were made since the last reset, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in _on_meta((args, kwargs))}
        if given and func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            return True  # a question about numbers: whether positions, or buffers, are what they should be
        answer = func(*args, **(kwargs or {}))
        for x in _on_meta(answer):
            storage = x.untyped_storage()
            key = storage._cdata
            if key not in given and key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key)
        return answer

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _on_meta(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.is_meta]


def peak_beside(
    spec: str,
    backend: str,
    tokens: int,
    chunk: int = PREFILL_CHUNK,
    layers: int = 2,
    shape: str = "llama-3-8b",
    *,
    whole: bool = False,
) -> int:
    """Bytes that prefill of so many tokens takes at its peak, in bfloat16, beside weights and KV cache.

    Only the last chunk runs, which sees the most, on a cache that is full up to there; with `whole`, every chunk.
    Two layers show what all take: they run one after another.
    """
    config = shape_config(shape, layers)
    with no_numbers(backend), torch.no_grad(), Counted() as counted:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager").eval()
        cache = DynamicCache(config=config)
        cache.expected_length = cache.prompt_length = tokens

        def call(size: int) -> None:
            ids = torch.zeros(1, size, dtype=torch.long, device="meta")
            model(ids, past_key_values=cache, logits_to_keep=1)

        with lcbench.extend(model, spec, length=tokens, attention=backend):
            call(chunk)  # now there are layers, preallocated for all tokens
            if not whole:
                for layer in cache.layers:
                    _skip(layer, tokens - 2 * chunk)
            before = sum(map(_bytes_not_preallocated, cache.layers))
            counted.reset()
            while cache.get_seq_length() < tokens:
                call(chunk)
        return counted.most - (sum(map(_bytes_not_preallocated, cache.layers)) - before)


def _skip(layer: Any, tokens: int) -> None:
    """Put so many tokens into a layer, as if they had been prefilled; a window keeps as many as before."""
    kept = layer.keys.shape[2]
    layer.update(*(x.new_empty(1, x.shape[1], tokens, x.shape[3]) for x in (layer.keys, layer.values)))
    if isinstance(layer, WindowLayer):
        layer.release(layer.get_seq_length() - kept)


def _bytes_not_preallocated(layer: Any) -> int:
    """What the KV cache takes of the storages that are made while chunks run: windows, and a memory at its start."""
    if isinstance(layer, GrowingLayer):
        return 0
    store = layer.store
    memory = [x[:, :, :1] for x in (store.keys, store.values)] if store is not None and store.length else []
    rows = 0 if store is None else store.size
    return sum(x.nbytes for x in (layer.keys, layer.values)) + sum(rows * x.nbytes for x in memory)


@contextmanager
def no_numbers(backend: str) -> Iterator[None]:
    """Every backend runs on the meta device, and models there have the layers of Llama: none can be probed."""
    everywhere = {
        name: Backend(name, b.run, lambda device: None, lambda call: None) for name, b in backends.BACKENDS.items()
    }
    scores = {**matmul.SCORES_AT_ONCE, "meta": matmul.SCORES_AT_ONCE["cuda"]}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(backends, "BACKENDS", everywhere))
        stack.enter_context(mock.patch.object(flash, "varlen_attn", _varlen_attn))
        stack.enter_context(mock.patch.object(flex, "flex_attention", _flex_attention))
        stack.enter_context(mock.patch.object(matmul, "SCORES_AT_ONCE", scores))
        stack.enter_context(mock.patch.object(steering, "probe", _llama_layers))
        if backend == "triton":
            stack.enter_context(mock.patch("lcbench.attention.backends.triton_fused._launch", _launch))
        yield


def _llama_layers(model: PreTrainedModel) -> dict[Any, ProbedLayer]:
    return {layer.self_attn: ProbedLayer(Rope(model.model.rotary_emb), None) for layer in model.model.layers}


def _varlen_attn(query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[1], len(query), dtype=torch.float32)


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, AuxOutput]:
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    return query.new_empty(*query.shape[:3], value.shape[3]), AuxOutput(lse)


def _launch(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, borders: Any, *_: Any) -> None:
    for x in borders:
        x.to(q.device, torch.int32)


def test_bytes_are_counted() -> None:
    with Counted() as counted:
        x = torch.empty(100, device="meta")
        y = x.view(10, 10)[2:] * 2  # views take nothing
        assert (counted.now, counted.most) == (400 + 320, 720)
        del x
        assert counted.now == 720 - 400
        z = torch.cat([y, y]).add_(1)
        del y, z
        assert (counted.now, counted.most) == (0, 320 + 640)
        kept = torch.empty(7, device="meta")
        counted.reset()
        kept[:3].add_(1)
        del kept
        assert (counted.now, counted.most) == (0, 0)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("spec", [*METHODS, FOT])
def test_the_gate(spec: str, backend: str) -> None:
    """At most 2 GiB at any length: it is 0.9 to 1.4, most of it the MLP's and the queries' of a chunk."""
    if backend == "triton":
        pytest.importorskip("triton")
    peaks = [peak_beside(spec, backend, n * TOKENS) for n in (1, 2)]
    assert max(peaks) < 1.4 * GIB < GATE
    assert peaks[1] < peaks[0] + 0.1 * GIB


@pytest.mark.parametrize(("backend", "tokens"), [("flash", 2**17), ("triton", 2**16)])
def test_no_chunk_before_the_last_takes_more(backend: str, tokens: int) -> None:
    """Of a method that forgets, whose windows move to the memory on the way. Each chunk's pieces take time."""
    if backend == "triton":
        pytest.importorskip("triton")
    last, whole = (peak_beside(FOT, backend, tokens, whole=whole) for whole in (False, True))
    assert last <= whole < last + 0.1 * GIB


def test_joint_too() -> None:
    """It makes scores for a few queries at a time, so that a few show what it takes beside hidden states."""
    million = peak_beside("self_extend", "matmul", TOKENS, chunk=17)
    assert peak_beside("self_extend", "matmul", 2 * TOKENS, chunk=17) <= million < 1.5 * GIB


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, positions and tables a few at a time, as at a million tokens."""
    monkeypatch.setattr(attend, "ROTATED_AT_ONCE", 13 * 2 * 16 * 8)  # 13 keys of zoo.llama in float64
    monkeypatch.setattr(rotation, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(rotation, "LARGEST_TABLE", 29)


SMALL_FOT = "fot:memory_layers=[1],context_length=24,last_context_length=8"


@pytest.mark.parametrize(
    ("spec", "held", "pads"),
    [
        ("vanilla", {}, (0, 23)),
        ("yarn:factor=2", {"kv_dtype": "bfloat16"}, (0, 0)),
        ("dca:chunk_size=24,max_position=29", {}, (0, 0)),
        ("dca:chunk_size=24,max_position=29", {"kv_dtype": "bfloat16"}, (0, 23)),
        ("self_extend:group_size=3,neighbor_window=16", {}, (0, 23)),
        ("streaming:sinks=4,window=20", {}, (0, 0)),
        (SMALL_FOT, {}, (0, 0)),
        (SMALL_FOT + ",mem_attention_grouping=[2,9]", {}, (0, 23)),
    ],
)
@torch.no_grad()
def test_small_steps_change_no_result(
    spec: str, held: dict[str, str], pads: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    model, logits = zoo.llama().double(), []  # nothing falls to another side of a rounding
    ids, mask = zoo.left_padded(zoo.tokens(2, 90), list(pads))
    for fixture in (None, "in_small_steps"):
        if fixture:
            request.getfixturevalue(fixture)
        cache = DynamicCache(config=model.config)
        cache.prompt_length = 90
        with lcbench.extend(model, spec, length=90, **held):
            calls = [(0, 61), (61, 62), (62, 90)]
            logits.append(
                [model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache).logits for a, b in calls]
            )
    for row, pad in enumerate(pads):
        whole, stepwise = (torch.cat(calls, dim=1)[row, pad:] for calls in logits)
        torch.testing.assert_close(stepwise, whole, atol=1e-9, rtol=0)


def test_gradients_see_all_keys_at_once(in_small_steps: None) -> None:
    model = zoo.llama()
    with mock.patch.object(attend, "_attend_part", wraps=attend._attend_part) as part, lcbench.extend(model, "vanilla"):
        model(zoo.tokens(1, 60), labels=zoo.tokens(1, 60), use_cache=False).loss.backward()
    assert part.call_count == model.config.num_hidden_layers
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn", "dynamic", "longrope"])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotations_are_the_same_in_small_steps(kind: str, pairing: str, request: pytest.FixtureRequest) -> None:
    """Frequencies may follow the length: that of the run, not that of a step."""
    parameters = zoo.OWN_SCALING.get(kind, zoo.rope_parameters("default"))
    rotary = zoo.llama(rope_parameters=dict(parameters)).model.rotary_emb
    rope, x, positions = Rope(rotary, pairing=pairing), torch.randn(2, 3, 50, 20), torch.randperm(50)
    method, found = parse_method("vanilla"), []
    for fixture in (None, "in_small_steps"):
        if fixture:
            request.getfixturevalue(fixture)
        tables = RopeTables(method, Lengths(zoo.PRETRAINING, 64))
        found.append(tables.rotate(x, positions, rope))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
    with torch.enable_grad():
        again = tables.rotate(x.requires_grad_(), positions, rope)
    torch.testing.assert_close(again.detach(), found[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("run", "rows"), [(None, 1024), (700, 700), (601, 601), (600, 1024), (5000, 1024)])
def test_tables_have_no_more_rows_than_the_run(run: int | None, rows: int) -> None:
    """Unless a text outgrows it: then they grow ahead of it as if nobody had said how long it is."""
    tables = RopeTables(parse_method("vanilla"), Lengths(zoo.PRETRAINING, run))
    tables.rotate(torch.zeros(1, 1, 1, 16), torch.tensor([600]), rope_of())
    ((cos, sin),) = tables._tables.values()
    assert len(cos) == len(sin) == rows
