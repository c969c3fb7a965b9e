"""What each layer holds and forgets, and that nothing of it changes a result, whatever happens to the cache."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.attention.cache import MemoryStore, WindowLayer
from lcbench.attention.pieces import Memory
from lcbench.attention.probe import attention_set_to, probe, unrotated
from lcbench.attention.reference import reference_attention
from lcbench.engine import generate as engine
from lcbench.errors import UserError
from lcbench.methods import Lengths, Method, parse_method
from tests.attention import oracle, zoo
from tests.attention.test_generation import generate, greedy
from tests.attention.test_generation import prompt as prompt_of_70
from tests.attention.test_sweep import MORE, tiny_config

PROMPT, NEW = 70, 16  # decoding moves keys to memory at 78 (longllama), and at 72 and 80 (streaming)
WINDOWS = "context_length=24,last_context_length=16"
STREAMING = f"fot:memory_layers=[1],{WINDOWS},variant=streaming"
LONGLLAMA = f"fot:memory_layers=[1],{WINDOWS},prompt_length={PROMPT}"
FIRST_CALL = f"fot:memory_layers=[1],{WINDOWS}"
METHODS = [
    STREAMING,
    LONGLLAMA,
    f"fot:memory_layers=[0,1],{WINDOWS},variant=streaming,mem_dtype=bfloat16",
    f"{LONGLLAMA},mem_dtype=bfloat16,mem_attention_grouping=[1,5]",
    f"{STREAMING},mem_positionals=false,mem_device=cpu",
    f"{STREAMING},memory=knn,top_k=5",
    f"{LONGLLAMA},memory=knn,top_k=5,mem_dtype=bfloat16",
    f"fot:memory_layers=[0],{WINDOWS},variant=streaming+logn:base=9",
]
every_method = pytest.mark.parametrize("spec", METHODS)
STATIC = {"cache_implementation": "static", "disable_compile": True}


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


def prompt(length: int = PROMPT) -> Tensor:
    return prompt_of_70()[:, PROMPT - length :]


@cache
def truth(spec: str, length: int = PROMPT) -> Tensor:
    """Every token from a whole forward pass, without a cache; of a prompt that is as long as said."""
    with lcbench.extend(zoo.llama(), spec.replace(f"prompt_length={PROMPT}", f"prompt_length={length}")) as model:
        return greedy(model, prompt(length), NEW)


def continued(model: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    """The mask is given, for a token that was generated may be the one that pads."""
    return generate(model, ids, **{"max_new_tokens": NEW, "attention_mask": torch.ones_like(ids), **options})


def model_for(spec: str, **options: Any) -> PreTrainedModel:
    """In float64 where keys are rounded: there two ways of running agree so well that no key falls to either side."""
    model = zoo.llama(**options)
    return model.double() if "bfloat16" in spec else model


def assert_close(actual: Tensor, expected: Tensor, atol: float = 5e-5) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=0)


@torch.no_grad()
def explicit_logits(
    model: PreTrainedModel,
    ids: Tensor,
    method: Method,
    *,
    held: Callable[[Tensor], Tensor] = lambda x: x,
    rounds_window: bool = False,
    top_k: int | None = None,
) -> Tensor:
    """Logits [B, n, vocabulary] in float64 from a memory that is looked up by hand.

    Keys and values stand twice in every row of scores: as they are, seen within the window, and as they are `held`,
    seen before it. With `top_k`, each query and head sees its so many highest scores of the latter.
    """
    model = copy.deepcopy(model).double()
    layers, n, name = probe(model), ids.shape[1], "lcbench-test-memory"
    (method,) = [part for part in oracle.parts(method) if part.name == "fot"]

    def attend(
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **extra: Any,
    ) -> tuple[Tensor, None]:
        layer, rope = layers[module], layers[module].rope
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        inv_freq = getattr(rope.rotary, f"{rope.prefix}inv_freq")
        factor = getattr(rope.rotary, f"{rope.prefix}attention_scaling", 1.0)
        if layer.window is not None:
            rel, local = oracle.matrices(oracle.within(layer.window), n)
            before = torch.zeros_like(local)
        else:
            rel, local, before = matrices(method, int(module.layer_idx), n)
        before = before.expand(len(q), q.shape[1], n, n)
        if top_k is not None:
            scores = torch.einsum(
                "bhtd,bhsd->bhts", turned(q, rel[:, 0], inv_freq, factor), grouped(held(k), q.shape[1])
            )
            best = scores.masked_fill(~before, -torch.inf).topk(min(top_k, n)).indices
            before = before & torch.zeros_like(before).scatter(-1, best, True)
        if rounds_window:
            k, v = held(k), held(v)
        out = reference_attention(
            q,
            torch.cat([k, held(k)], dim=2),
            torch.cat([v, held(v)], dim=2),
            torch.cat([rel, rel], dim=1),
            torch.cat([local.expand_as(before), before], dim=-1),
            inv_freq,
            attention_factor=factor,
            scale=scale,
            softcap=extra.get("softcap"),
            sinks_H=extra.get("s_aux"),
        )
        return out.to(q.dtype).transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
    with attention_set_to(model, name), unrotated(model):
        return model(ids, use_cache=False).logits


def matrices(method: Method, layer: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Relative positions [n, n], which keys each query sees in its window, and which before it."""
    options = method.options()
    context, last = options["context_length"], options["last_context_length"]
    split = max((options["prompt_length"] or n) - last, 0)
    begins = [*range(0, split, context), *range(split, n, context)]
    i = torch.arange(n)
    start = torch.tensor([max(b for b in begins if b <= t) for t in range(n)])
    if options["variant"] == "streaming":
        start = (i // (context - last) * (context - last) - last).clamp(min=0)
    remembers = layer in options["memory_layers"]
    rel = i[:, None] - torch.maximum(i, start[:, None])
    if remembers and not options["mem_positionals"]:
        rel = torch.zeros_like(rel)
    return rel, (i >= start[:, None]) & (i <= i[:, None]), (i < start[:, None]) & remembers


def turned(q_BHTD: Tensor, angle_T: Tensor, inv_freq_M: Tensor, factor: float) -> Tensor:
    """Queries rotated by what they are from the first key, which is where memory stands; `factor` of both sides."""
    m = len(inv_freq_M)
    turn = torch.polar(torch.ones((), dtype=torch.float64), angle_T.double()[:, None] * inv_freq_M.double()) * factor**2
    pairs = torch.complex(q_BHTD[..., :m], q_BHTD[..., m : 2 * m]) * turn
    return torch.cat([pairs.real, pairs.imag, q_BHTD[..., 2 * m :]], dim=-1)


def grouped(k_BKSD: Tensor, heads: int) -> Tensor:
    return k_BKSD.repeat_interleave(heads // k_BKSD.shape[1], dim=1)


def bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


@torch.no_grad()
def in_calls(
    model: PreTrainedModel, spec: str | Method, ids: Tensor, ends: list[int], past: Any = None, **options: Any
) -> Tensor:
    """Logits of a run in calls that end at `ends`."""
    past = DynamicCache() if past is None else past
    with lcbench.extend(model, spec):
        calls = [
            model(ids[:, a:b], past_key_values=past, **options).logits for a, b in zip([0, *ends], ends, strict=False)
        ]
    return torch.cat(calls, dim=1)


class Held(NamedTuple):
    """A run of 16k tokens through four layers, memory in the third; prefill in calls of 2k, then three of a token.

    `counts` are the keys that the layers hold after every call, then those in memory; `lengths` what the cache says.
    """

    kind: str
    counts: list[list[int]]
    lengths: list[set[int]]
    cache: DynamicCache


N, CONTEXT, LAST, CHANNELS = 16384, 256, 64, 16


@pytest.fixture(scope="module", params=["longllama", "streaming", "bfloat16"])
def held(request: pytest.FixtureRequest) -> Held:
    model = zoo.build(zoo.config("LlamaConfig", hidden_size=32, num_attention_heads=2, num_key_value_heads=1))
    spec = f"fot:memory_layers=[2],context_length={CONTEXT},last_context_length={LAST}"
    spec += {"longllama": "", "streaming": ",variant=streaming", "bfloat16": ",mem_dtype=bfloat16"}[request.param]
    caches: list[DynamicCache] = []
    counts, lengths = [], []

    def make_cache(**options: Any) -> DynamicCache:
        caches.append(DynamicCache(**options))
        return caches[0]

    def note(*_: object) -> None:
        layers = caches[0].layers
        counts.append([*(layer.keys.shape[2] for layer in layers), layers[2].store.length])
        lengths.append({caches[0].get_seq_length(layer) for layer in range(4)})

    with pytest.MonkeyPatch.context() as patch, lcbench.extend(model, spec, length=N + 4):
        patch.setattr("lcbench.engine.generate.PREFILL_CHUNK", 2048)
        patch.setattr("lcbench.engine.generate.DynamicCache", make_cache)
        model.register_forward_hook(note)
        engine.generate(model, zoo.tokens(1, N)[0].tolist(), max_new_tokens=4)
    return Held(request.param, counts, lengths, caches[0])


class TestWhatIsHeld:
    def test_other_layers_hold_a_window_and_the_memory_everything_before_it(self, held: Held) -> None:
        """What the last call brought, and the window that its first query saw: keys are released as a call begins."""
        ends = [*range(2048, N + 1, 2048), N + 1, N + 2, N + 3]
        begins = [0, *ends[:-1]]
        for begin, end, (first, second, third, fourth, memory) in zip(begins, ends, held.counts, strict=True):
            assert first == second == third == fourth <= CONTEXT + end - begin
            assert memory + third == end
        streaming = [min(begin, LAST + begin % (CONTEXT - LAST)) for begin in begins]
        longllama = [begin % CONTEXT for begin in begins[:8]] + [LAST, LAST + 1, LAST + 2]
        windows = streaming if held.kind == "streaming" else longllama
        brought = [end - begin for begin, end in zip(begins, ends, strict=True)]
        assert [count[0] for count in held.counts] == [sum(pair) for pair in zip(windows, brought, strict=True)]

    def test_the_length_is_that_of_the_run(self, held: Held) -> None:
        assert held.lengths == [*({2048 * n} for n in range(1, 9)), *({N + n} for n in (1, 2, 3))]

    def test_bytes(self, held: Held) -> None:
        """The store grows by doubling, so at most as much again is room; the full cache of this model takes 8 MiB."""
        layers = held.cache.layers
        assert [layer.store is not None for layer in layers] == [False, False, True, False]
        for layer in layers:
            assert layer.keys.untyped_storage().nbytes() <= CONTEXT * CHANNELS * 4
        store, width = layers[2].store, 2 if held.kind == "bfloat16" else 4
        assert store.keys.nbytes == store.values.nbytes == store.length * CHANNELS * width
        assert sum(x.nbytes for x in store._room) <= 2 * (store.keys.nbytes + store.values.nbytes)
        kept = store.keys.nbytes + sum(layer.keys.nbytes for layer in layers)
        assert kept < 4 * (N + 3) * CHANNELS * 4 * (0.14 if held.kind == "bfloat16" else 0.27)


@pytest.mark.parametrize("spec", [STREAMING, LONGLLAMA, FIRST_CALL])
@torch.no_grad()
def test_nothing_is_lost(model: PreTrainedModel, spec: str) -> None:
    """Memory and window side by side are the keys and values that a cache which keeps everything has."""
    ids, ends = zoo.tokens(2, 90), [31, 70, 71, 90]
    full, past = StaticCache(config=model.config, max_cache_len=90), DynamicCache()
    in_calls(model, spec, ids, ends, full)
    in_calls(model, spec, ids, ends, past)
    window, memory = past.layers
    assert window.first == memory.first == memory.store.length > 0 and window.store is None
    assert_close(window.keys, full.layers[0].keys[:, :, window.first :], atol=1e-5)
    for kept, live, everything in (
        (memory.store.keys, memory.keys, full.layers[1].keys),
        (memory.store.values, memory.values, full.layers[1].values),
    ):
        assert_close(torch.cat([kept, live], dim=2), everything, atol=1e-5)


def test_windows_are_copies() -> None:
    """A view would keep alive all that was let go of."""
    layer = WindowLayer()
    layer.update(torch.randn(1, 1, 50, 4), torch.randn(1, 1, 50, 4))
    layer.release(45)
    assert layer.keys.untyped_storage().nbytes() == layer.values.untyped_storage().nbytes() == 5 * 4 * 4


def test_a_store_grows_by_doubling_and_takes_in_what_it_lacks() -> None:
    store = MemoryStore(Memory(dtype=torch.bfloat16))
    k, v = torch.randn(2, 3, 100, 4), torch.randn(2, 3, 100, 5)
    rooms = []
    for first, last in ((0, 10), (4, 11), (11, 12), (0, 9), (12, 40), (30, 100)):
        store.take(k[:, :, first:], v[:, :, first:], first, last)
        rooms.append(store._room[0].shape[2])
        assert torch.equal(store.keys, k[:, :, : store.length].bfloat16())
        assert torch.equal(store.values, v[:, :, : store.length].bfloat16())
    assert rooms == [10, 20, 20, 20, 40, 100] and store.length == 100


class TestSameResult:
    def test_methods_differ(self) -> None:
        """Otherwise equal ids would prove little. Rounding need not change a token; it has its own tests."""
        exact = [spec for spec in [*METHODS, "vanilla"] if "bfloat16" not in spec]
        assert len({tuple(truth(spec)[0].tolist()) for spec in exact}) == len(exact) == 6

    @pytest.mark.parametrize("spec", [STREAMING, LONGLLAMA])
    def test_every_token_is_the_float64_references(self, spec: str) -> None:
        ids, lengths = truth(spec), Lengths(zoo.PRETRAINING)
        logits = oracle.reference_logits(zoo.llama(), ids, parse_method(spec).resolve(lengths), lengths)
        assert torch.equal(logits[:, PROMPT - 1 : -1].argmax(-1), ids[:, PROMPT:])

    @every_method
    @pytest.mark.parametrize(
        "options",
        [{}, {"use_cache": False}, STATIC, {"prefill_chunk_size": 7}, {"prefill_chunk_size": 32}],
        ids=lambda options: ",".join(map(str, options)) or "default",
    )
    def test_every_kind_of_cache(self, model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
        with lcbench.extend(model, spec):
            assert torch.equal(continued(model, prompt(), **options), truth(spec))

    @every_method
    @pytest.mark.parametrize("options", [{}, STATIC], ids=["forgetful", "static"])
    def test_left_padded_batch(self, model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
        """Every row answers as it does alone, with windows of its own. A typed prompt_length counts a row's tokens."""
        spec = spec.replace(f",prompt_length={PROMPT}", "")
        lengths = [PROMPT, 50, 39]
        batch = torch.cat(
            [torch.cat([torch.zeros(1, PROMPT - n).long(), prompt(n)], dim=1) for n in lengths],
        )
        with lcbench.extend(model, spec):
            actual = continued(model, batch, attention_mask=(batch != 0).long(), **options)
        for ids, n in zip(actual, lengths, strict=True):
            typed = spec if "streaming" in spec else f"{spec},prompt_length={PROMPT}"
            assert torch.equal(ids[PROMPT:], truth(typed, n)[0, n:])

    @every_method
    @pytest.mark.parametrize(
        "options",
        [
            {"num_beams": 3},
            {"do_sample": True, "top_k": 8},
            {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
            {"do_sample": True, "num_return_sequences": 3},
        ],
        ids=lambda options: ",".join(options),
    )
    def test_beams_and_samples(self, model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
        """With windows that move to memory on the way: the cache is reordered with everything in it."""
        batch, mask = zoo.left_padded(prompt().repeat(2, 1), [0, 17])
        answers = []
        with lcbench.extend(model, spec):
            for use_cache in (True, False):
                torch.manual_seed(5)
                answers.append(continued(model, batch, attention_mask=mask, use_cache=use_cache, **options))
        assert torch.equal(*answers)

    @every_method
    @pytest.mark.parametrize("kv_heads", [1, 4])
    def test_grouped_heads(self, spec: str, kv_heads: int) -> None:
        """In calls as in one; the default has two queries a key head."""
        model, ids = model_for(spec, num_key_value_heads=kv_heads), zoo.tokens(2, 90)
        assert_close(in_calls(model, spec, ids, [31, 70, 71, 72, 90]), in_calls(model, spec, ids, [90]))

    @every_method
    def test_rows_of_the_cache(self, spec: str) -> None:
        """Repeated and selected, as generation strategies do between two calls."""
        model = model_for(spec)
        ids, tail = zoo.tokens(2, 60), zoo.tokens(3, 30, seed=4)
        past = DynamicCache()
        with torch.no_grad(), lcbench.extend(model, spec):
            model(ids, past_key_values=past)
            past.batch_repeat_interleave(3)
            past.batch_select_indices(torch.tensor([4, 0, 1]))
            past.reorder_cache(torch.tensor([1, 1, 0]))
            actual = model(tail, past_key_values=past).logits
            expected = model(torch.cat([ids[[0, 0, 1]], tail], dim=1)).logits[:, 60:]
        assert_close(actual, expected)

    @every_method
    def test_copies_of_a_cache_go_their_own_ways(self, spec: str) -> None:
        model = model_for(spec)
        start, ways, past = zoo.tokens(1, 60), zoo.tokens(2, 40, seed=4), DynamicCache()
        with torch.no_grad(), lcbench.extend(model, spec):
            model(start, past_key_values=past)
            other = copy.deepcopy(past)
            for way, its in ((ways[:1], past), (ways[1:], other)):
                calls = [model(way[:, a:b], past_key_values=its).logits for a, b in ((0, 25), (25, 26), (26, 40))]
                expected = model(torch.cat([start, way], dim=1)).logits[:, 60:]
                assert_close(torch.cat(calls, dim=1), expected)

    @every_method
    def test_a_cache_that_is_reset_and_used_again(self, spec: str) -> None:
        model = model_for(spec)
        past = DynamicCache()
        in_calls(model, spec, zoo.tokens(3, 66, seed=8), [40, 66], past)
        past.reset()
        assert past.get_seq_length() == 0
        ids = zoo.tokens(2, 90)
        assert_close(in_calls(model, spec, ids, [70, 90], past), in_calls(model, spec, ids, [90]))
        assert past.get_seq_length() == 90

    @every_method
    def test_a_dynamic_cache_that_goes_on(self, model: PreTrainedModel, spec: str) -> None:
        """Generate, then generate again with the cache of the first answer."""
        past = DynamicCache()
        with lcbench.extend(model, spec):
            first = continued(model, prompt(), past_key_values=past, max_new_tokens=9)
            assert past.get_seq_length() == PROMPT + 8
            second = continued(model, first, past_key_values=past, max_new_tokens=NEW - 9)
        assert torch.equal(second, truth(spec))

    @every_method
    def test_what_was_cropped_had_never_been(self, model: PreTrainedModel, spec: str) -> None:
        """Within a window; other tokens come in their place, and move to memory in their turn."""
        past = DynamicCache()
        with lcbench.extend(model, spec), torch.no_grad():
            model(prompt()[:, :66], past_key_values=past)
            model(zoo.tokens(1, 3, seed=9), past_key_values=past)
            past.crop(-4)
            assert past.get_seq_length() == 65
            assert torch.equal(continued(model, prompt(), past_key_values=past), truth(spec))

    @every_method
    def test_after_an_exception_in_the_middle_of_a_forward_pass(self, spec: str) -> None:
        model = model_for(spec)
        ids, past = zoo.tokens(1, 90), DynamicCache()

        def fail(*_: object) -> None:
            raise RuntimeError("in the middle")

        with lcbench.extend(model, spec), torch.no_grad():
            expected = model(ids).logits
            model(ids[:, :70], past_key_values=past)
            for broken in (past, DynamicCache(), None):
                handle = model.model.layers[0].register_forward_hook(fail)
                with pytest.raises(RuntimeError, match="in the middle"):
                    model(ids[:, 70:], past_key_values=broken)
                handle.remove()
                assert torch.equal(model(ids).logits, expected)
            fresh = DynamicCache()
            calls = [model(ids[:, a:b], past_key_values=fresh).logits for a, b in ((0, 70), (70, 90))]
            assert_close(torch.cat(calls, dim=1), expected)

    @pytest.mark.parametrize("arch", ["gemma2", "gemma3", "gpt-oss", "qwen2-sliding"])
    @pytest.mark.parametrize("more", ["", ",memory=knn,top_k=5", ",mem_dtype=bfloat16,mem_attention_grouping=[2,9]"])
    def test_beside_sliding_windows(self, arch: str, more: str) -> None:
        """Soft caps, sinks, and layers whose cache forgets in its own way."""
        model = zoo.build(zoo.ARCHITECTURES[arch]())
        memory_layer = 0 if arch == "qwen2-sliding" else 1
        spec = f"fot:memory_layers=[{memory_layer}],{WINDOWS},variant=streaming{more}"
        batch, mask = zoo.left_padded(prompt().repeat(2, 1), [0, 17])
        with lcbench.extend(model, spec):
            expected = [greedy(model, batch[row : row + 1, pad:], 12)[0, -12:] for row, pad in ((0, 0), (1, 17))]
            for options in ({}, {"prefill_chunk_size": 9}, STATIC):
                actual = generate(model, batch, attention_mask=mask, max_new_tokens=12, **options)
                assert torch.equal(actual[:, PROMPT:], torch.stack(expected))

    def test_cache_layers_are_the_right_ones_beside_sliding_windows(self) -> None:
        model, past = zoo.build(zoo.ARCHITECTURES["gemma3"]()), DynamicCache()
        in_calls(model, STREAMING, zoo.tokens(1, 60), [59, 60], past)
        kinds = ["DynamicSlidingWindowLayer", "WindowLayer", "DynamicSlidingWindowLayer", "WindowLayer"]
        assert [type(layer).__name__ for layer in past.layers] == kinds
        assert past.layers[1].store.length == 40 and past.layers[3].store is None


class TestDtypeOfMemory:
    """Compared in float64, where no key is near enough to the edge of a rounding to fall on the other side."""

    SPECS = (
        f"fot:memory_layers=[0],{WINDOWS},prompt_length=75",
        f"fot:memory_layers=[0],{WINDOWS},variant=streaming",
    )

    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("more", ["", ",mem_attention_grouping=[1,7]", ",mem_attention_grouping=[3,100]"])
    def test_keys_and_values_before_the_window_are_rounded_and_no_others(self, spec: str, more: str) -> None:
        model, ids = zoo.llama().double(), zoo.tokens(2, 90)
        method = parse_method(spec).resolve(Lengths(zoo.PRETRAINING))
        expected = explicit_logits(model, ids, method, held=bfloat16)
        rounded = f"{spec},mem_dtype=bfloat16{more}"
        for ends in ([90], [31, 70, 71, 72, 90]):
            assert_close(in_calls(model, rounded, ids, ends), expected, atol=2e-5)
            past = StaticCache(config=model.config, max_cache_len=90)
            assert_close(in_calls(model, rounded, ids, ends, past), expected, atol=2e-5)
        assert_close(in_calls(model, rounded, ids, [90], use_cache=False), expected, atol=2e-5)
        # It is a difference, and rounding the window as well would be another.
        assert (explicit_logits(model, ids, method) - expected).abs().max() > 5e-3
        assert (explicit_logits(model, ids, method, held=bfloat16, rounds_window=True) - expected).abs().max() > 5e-3

    def test_rows_of_different_padding(self) -> None:
        """Live keys of one row are memory of another: rounded there, and there only."""
        model, spec = zoo.llama().double(), f"{self.SPECS[1]},mem_dtype=bfloat16"
        ids, mask = zoo.left_padded(zoo.tokens(2, 90), [0, 13])
        past, calls = DynamicCache(), []
        with torch.no_grad(), lcbench.extend(model, spec):
            for a, b in ((0, 31), (31, 70), (70, 71), (71, 90)):
                calls.append(model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=past).logits)
        actual, method = torch.cat(calls, dim=1), parse_method(self.SPECS[1]).resolve(Lengths(zoo.PRETRAINING))
        for row, pad in ((0, 0), (1, 13)):
            expected = explicit_logits(model, ids[row : row + 1, pad:], method, held=bfloat16)
            assert_close(actual[row, pad:], expected[0], atol=2e-5)

    @pytest.mark.parametrize("grouping", ["[1,1]", "[2,3]", "[4,64]", "[99,9999]"])
    def test_bounds_change_nothing_else(self, model: PreTrainedModel, grouping: str) -> None:
        ids = zoo.tokens(2, 90)
        expected = in_calls(model, STREAMING, ids, [70, 90])
        assert_close(in_calls(model, f"{STREAMING},mem_attention_grouping={grouping}", ids, [70, 90]), expected, 2e-5)

    @pytest.mark.parametrize("grouping", [(1, 5), (2, 9), (3, 30)])
    def test_bounds_hold(
        self, model: PreTrainedModel, grouping: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No more queries and heads than said ever meet the memory at once; a group of heads that share keys stays."""
        from lcbench.attention import attend

        met, kernel = [], attend._kernel

        def spy(q: Tensor, part: Any, *rest: Any) -> Any:
            if any(piece.memory is not None for piece in part.pieces):
                met.append(tuple(q.shape[1:3]))
            return kernel(q, part, *rest)

        monkeypatch.setattr(attend, "_kernel", spy)
        heads, rows = grouping
        in_calls(model, f"{STREAMING},mem_attention_grouping=[{heads},{rows}]", zoo.tokens(1, 90), [70, 90])
        assert max(H for H, _ in met) == 2 and max(T for _, T in met) == rows


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
        with pytest.raises(UserError, match="keeps the last 21 tokens of a layer and cannot go back by 22"):
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
        with pytest.raises(UserError, match="go back"):
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

    @every_method
    def test_prompt_lookup(self, model: PreTrainedModel, spec: str) -> None:
        with lcbench.extend(model, spec):
            assert torch.equal(continued(model, prompt(), prompt_lookup_num_tokens=4), truth(spec))

    @every_method
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
        with pytest.raises(UserError, match="its cache forgets, its attention does not"):
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
