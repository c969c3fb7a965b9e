"""What each layer holds and forgets, and that nothing of it changes a result, whatever happens to the cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.attention.cache.window import MemoryStore, WindowLayer
from lcbench.engine import generate as engine
from lcbench.methods import Lengths, parse_method
from lcbench.methods.pieces import Memory
from tests.attention import oracle, zoo
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
    bfloat16,
    continued,
    every_method,
    explicit_logits,
    in_calls,
    model_for,
    prompt,
    truth,
)
from tests.attention.test_generation import generate, greedy


@pytest.fixture
def model() -> PreTrainedModel:
    return zoo.llama()


class Held(NamedTuple):
    """A run of 8k tokens through four layers, memory in the third; prefill in calls of 2k, then three of a token.

    `counts` are the keys that the layers hold after every call, then those in memory; `lengths` what the cache says.
    """

    kind: str
    counts: list[list[int]]
    lengths: list[set[int]]
    cache: DynamicCache


N, CONTEXT, LAST, CHANNELS = 8192, 256, 64, 16


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
        patch.setattr("lcbench.engine.new_cache.DynamicCache", make_cache)
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
        longllama = [begin % CONTEXT for begin in begins[: N // 2048]] + [LAST, LAST + 1, LAST + 2]
        windows = streaming if held.kind == "streaming" else longllama
        brought = [end - begin for begin, end in zip(begins, ends, strict=True)]
        assert [count[0] for count in held.counts] == [sum(pair) for pair in zip(windows, brought, strict=True)]

    def test_the_length_is_that_of_the_run(self, held: Held) -> None:
        assert held.lengths == [*({2048 * n} for n in range(1, N // 2048 + 1)), *({N + n} for n in (1, 2, 3))]

    def test_bytes(self, held: Held) -> None:
        """The store grows by half, so at most so much more is room; the full cache of this model takes 4 MiB."""
        layers = held.cache.layers
        assert [layer.store is not None for layer in layers] == [False, False, True, False]
        for layer in layers:
            assert layer.keys.untyped_storage().nbytes() <= CONTEXT * CHANNELS * 4
        store, width = layers[2].store, 2 if held.kind == "bfloat16" else 4
        assert store.keys.nbytes == store.values.nbytes == store.length * CHANNELS * width
        assert store.keys.untyped_storage().nbytes() <= 1.6 * store.keys.nbytes
        kept = store.keys.nbytes + sum(layer.keys.nbytes for layer in layers)
        assert kept < 4 * (N + 3) * CHANNELS * 4 * (0.15 if held.kind == "bfloat16" else 0.28)


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


def test_a_store_grows_ahead_and_takes_in_what_it_lacks() -> None:
    store = MemoryStore(Memory(dtype=torch.bfloat16))
    k, v = torch.randn(2, 3, 100, 4), torch.randn(2, 3, 100, 5)
    rooms = set()
    for first, last in ((0, 10), (4, 11), (11, 12), (0, 9), (12, 40), (30, 100)):
        store.take(k[:, :, first:], v[:, :, first:], first, last)
        rooms.add(store.keys.untyped_storage().nbytes())
        assert torch.equal(store.keys, k[:, :, : store.length].bfloat16())
        assert torch.equal(store.values, v[:, :, : store.length].bfloat16())
    assert len(rooms) == 2 and store.length == 100


KNN, ROUNDED = ",memory=knn,top_k=5", ",mem_dtype=bfloat16,mem_attention_grouping=[2,9]"


def in_turn(*options: dict[str, Any], each: int = 1, more: Sequence[tuple[str, dict[str, Any]]] = ()) -> Any:
    """Every method with `each` of the options, and every option with methods of every kind; then `more` pairs."""
    pairs = [(spec, options[(n + m) % len(options)]) for n, spec in enumerate(METHODS) for m in range(each)]
    ids = [f"{spec}-{','.join(map(str, chosen)) or 'default'}" for spec, chosen in [*pairs, *more]]
    return pytest.mark.parametrize(("spec", "options"), [*pairs, *more], ids=ids)


FAST = {("gemma2", KNN), ("gemma3", ""), ("gpt-oss", ROUNDED), ("qwen2-sliding", "")}  # each once


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

    @in_turn({}, {"use_cache": False}, STATIC, {"prefill_chunk_size": 7}, {"prefill_chunk_size": 32}, each=3)
    def test_every_kind_of_cache(self, model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
        with lcbench.extend(model, spec):
            assert torch.equal(continued(model, prompt(), **options), truth(spec))

    @in_turn({}, STATIC)
    def test_left_padded_batch(self, model: PreTrainedModel, spec: str, options: dict[str, Any]) -> None:
        """Every row answers as it does alone, with windows of its own. A typed prompt_length counts a row's tokens."""
        spec = spec.replace(f",prompt_length={PROMPT}", "")
        lengths = [PROMPT, 43]
        batch = torch.cat(
            [torch.cat([torch.zeros(1, PROMPT - n).long(), prompt(n)], dim=1) for n in lengths],
        )
        with lcbench.extend(model, spec):
            actual = continued(model, batch, attention_mask=(batch != 0).long(), **options)
        for ids, n in zip(actual, lengths, strict=True):
            typed = spec if "streaming" in spec else f"{spec},prompt_length={PROMPT}"
            assert torch.equal(ids[PROMPT:], truth(typed, n)[0, n:])

    @in_turn(  # where no row goes where another was, once each
        {"num_beams": 3},
        {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
        more=[
            (STREAMING, {"do_sample": True, "top_k": 8}),
            (LONGLLAMA, {"do_sample": True, "num_return_sequences": 3}),
        ],
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

    @pytest.mark.parametrize(
        ("arch", "more"),
        [
            pytest.param(arch, more, marks=() if (arch, more) in FAST else pytest.mark.slow)
            for arch, more in product(("gemma2", "gemma3", "gpt-oss", "qwen2-sliding"), ("", KNN, ROUNDED))
        ],
    )
    def test_beside_sliding_windows(self, arch: str, more: str) -> None:
        """Soft caps, sinks, and layers whose cache forgets in its own way; the window moves at the second new token."""
        model = zoo.build(zoo.ARCHITECTURES[arch]())
        memory_layer = 0 if arch == "qwen2-sliding" else 1
        spec = f"fot:memory_layers=[{memory_layer}],{WINDOWS},variant=streaming{more}"
        batch, mask = zoo.left_padded(prompt().repeat(2, 1), [0, 17])
        with lcbench.extend(model, spec):
            expected = [greedy(model, batch[row : row + 1, pad:], 4)[0, -4:] for row, pad in ((0, 0), (1, 17))]
            for options in ({}, {"prefill_chunk_size": 9}, STATIC):
                actual = generate(model, batch, attention_mask=mask, max_new_tokens=4, **options)
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

    @pytest.mark.parametrize(
        ("spec", "more"),
        [(SPECS[0], ""), (SPECS[0], ",mem_attention_grouping=[1,7]"), (SPECS[1], ",mem_attention_grouping=[3,100]")],
    )
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

        met, compute = [], attend._compute

        def spy(q: Tensor, part: Any, scoring: Any) -> Any:
            if any(piece.memory is not None for piece in part.pieces):
                met.append(tuple(q.shape[1:3]))
            return compute(q, part, scoring)

        monkeypatch.setattr(attend, "_compute", spy)
        heads, rows = grouping
        in_calls(model, f"{STREAMING},mem_attention_grouping=[{heads},{rows}]", zoo.tokens(1, 90), [70, 90])
        assert max(H for H, _ in met) == 2 and max(T for _, T in met) == rows
