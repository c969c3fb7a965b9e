"""The windows of the Focused Transformer, held against LongLLaMA's cache at work; its options and their defaults."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import lcbench
from lcbench.core.errors import UserError
from lcbench.core.specs import split_list
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.fot import FocusedTransformer
from tests.attention import zoo

MEMORY, OTHER = 1, 0  # a layer of each kind


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return zoo.llama()


def windows(context: int, last: int, **options: Any) -> FocusedTransformer:
    method = FocusedTransformer((MEMORY,), context_length=context, last_context_length=last, **options)
    return method.resolve(Lengths(4096))


def relative(method: Method, total: int, layer: int) -> list[list[int | None]]:
    """Relative position of each query and key j <= i, None where i sees not j; from the pieces."""
    i = torch.arange(total)
    shown = torch.full((total, total), -1)
    for piece in method.pieces(i, i, layer):
        here = (i >= piece.start[:, None]) & (i < piece.stop[:, None])
        assert (shown[here] == -1).all()
        shown = torch.where(here, piece.q_pos[:, None] - piece.k_pos, shown)
    return [[None if p < 0 else p for p in row[: t + 1]] for t, row in enumerate(shown.tolist())]


def longllama(n: int, total: int, context: int, last: int, *, remembers: bool) -> list[list[int | None]]:
    """The same from LongLLaMA's cache: local keys and memory as its prefill of n tokens and its decoding move them.

    Prefill runs windows one after another, each of which goes to memory when the next one begins; decoding moves all
    local keys to memory when one more would be too many. Memory layers see memory at position 0, where the window
    begins; the others see local keys only.
    """
    split = max(n - last, 0)
    prefill = [range(a, min(a + context, split)) for a in range(0, split, context)] + [range(split, n)]
    local: list[int] = []
    memory: list[int] = []
    rows: list[list[int | None]] = []

    def attend(i: int) -> None:
        local.append(i)
        at_zero = len(local) - 1  # of the query in its window
        rows.append([at_zero if remembers else None] * len(memory) + [at_zero - p for p in range(len(local))])
        assert memory == list(range(len(memory))) and local == list(range(len(memory), i + 1))

    for window in prefill:
        memory, local = memory + local, []
        for i in window:
            attend(i)
    for i in range(n, total):
        if len(local) + 1 > context:
            memory, local = memory + local, []
        attend(i)
    return rows


@given(st.integers(1, 25), st.data(), st.integers(1, 70), st.integers(0, 60))
def test_windows_are_longllamas(context: int, data: st.DataObject, n: int, decoded: int) -> None:
    context += 1
    last = data.draw(st.integers(1, context))
    method = windows(context, last, prompt_length=n)
    for layer in (MEMORY, OTHER):
        expected = longllama(n, n + decoded, context, last, remembers=layer == MEMORY)
        assert relative(method, n + decoded, layer) == expected


def lengths_of_windows(method: FocusedTransformer, total: int) -> list[int]:
    """How many tokens of the window each query sees, itself included."""
    i = torch.arange(total)
    return (i - method.window_start(i) + 1).tolist()


def test_a_prompt_a_little_longer_than_the_last_window_is_split() -> None:
    """39 tokens, a last window of 32: 7 + 32, though all of them would fit into one window of 64."""
    method = windows(64, 32, prompt_length=39)
    assert lengths_of_windows(method, 39) == [*range(1, 8), *range(1, 33)]


def test_that_split_changes_the_logits_from_the_eighth_token_on(model: PreTrainedModel) -> None:
    ids = zoo.tokens(1, 39)
    with torch.no_grad():
        native = model(ids).logits[0]
        with lcbench.extend(model, windows(64, 32)):
            steered = model(ids).logits[0]
            whole = model(ids[:, :32]).logits[0]
    torch.testing.assert_close(steered[:7], native[:7], atol=1e-4, rtol=0)
    torch.testing.assert_close(whole, native[:32], atol=1e-4, rtol=0)  # no longer than the last window: one window
    assert ((steered[7:] - native[7:]).abs().amax(-1) > 0.05).all()


def test_a_last_window_as_long_as_the_others() -> None:
    method = windows(16, 16, prompt_length=40)
    assert lengths_of_windows(method, 60) == [*range(1, 17), *range(1, 9), *range(1, 17), *range(1, 17), *range(1, 5)]


def test_a_full_window_moves_to_memory_as_a_whole() -> None:
    """A prompt of 100: the last window begins at 80 and is full, 64 tokens, at 143; the next token sees itself."""
    lengths = lengths_of_windows(windows(64, 20, prompt_length=100), 280)
    assert lengths[100:144] == list(range(21, 65))
    assert lengths[143:145] == [64, 1]
    assert lengths[207:209] == [64, 1]


@pytest.mark.parametrize("first", [0, 24, 48, 57, 81])
def test_the_first_token_of_a_window_sees_itself_only(first: int) -> None:
    """There is no overlap; in memory layers it sees everything, at its own position."""
    method = windows(24, 13, prompt_length=70)
    assert relative(method, 90, OTHER)[first] == [None] * first + [0]
    assert relative(method, 90, MEMORY)[first] == [0] * (first + 1)


def test_without_positions_memory_layers_do_not_rotate_and_the_others_do() -> None:
    method = windows(24, 13, prompt_length=70, mem_positionals=False)
    assert {p for row in relative(method, 90, MEMORY) for p in row} == {0}
    assert relative(method, 90, OTHER) == relative(replace(method, mem_positionals=True), 90, OTHER)


@given(st.integers(2, 60), st.data())
@example(2, None)
def test_streaming_windows_hold_last_to_context_tokens(context: int, data: st.DataObject | None) -> None:
    """Before the query, once there are as many; with it, never more than the context length. Both ends are met."""
    last = 1 if data is None else data.draw(st.integers(1, context - 1))
    lengths = lengths_of_windows(windows(context, last, variant="streaming"), 3 * context + last)
    assert lengths[:last] == list(range(1, last + 1))
    assert min(lengths[last:]) == last + 1 and max(lengths) == context


def test_streaming_knows_no_prompt() -> None:
    method = windows(24, 8, variant="streaming")
    assert method.prefix_stable and method.for_prompt(None) is method.for_prompt(70) is method
    typed = windows(24, 8, variant="streaming", prompt_length=33)
    assert torch.equal(typed.window_start(torch.arange(99)), method.window_start(torch.arange(99)))


def test_the_prompt_decides_the_windows(model: PreTrainedModel) -> None:
    """So a prefix is computed alike only if the prompt's length is typed."""
    free, typed = windows(24, 8), windows(24, 8, prompt_length=80)
    assert not free.prefix_stable and typed.prefix_stable
    ids = zoo.tokens(1, 80)
    for method, same in ((free, False), (typed, True)):
        with torch.no_grad(), lcbench.extend(model, method):
            difference = (model(ids).logits[:, :60] - model(ids[:, :60]).logits).abs().max()
        assert (difference < 1e-4) == same and (same or difference > 0.05)
    assert typed.for_prompt(10) is typed  # typed wins


def test_an_unknown_prompt_is_asked_for() -> None:
    with pytest.raises(UserError, match="does not tell how long the prompt is; pass prompt_length="):
        windows(24, 8).for_prompt(None)


def test_composed_with_a_scaling_it_keeps_its_own_hooks(model: PreTrainedModel) -> None:
    """The model's config and the prompt reach it through the composition."""
    ids = zoo.tokens(1, 80)

    def logits(spec: str) -> Tensor:
        with torch.no_grad(), lcbench.extend(model, spec) as steered:
            return steered(ids).logits

    fot = "fot:memory_layers=[1],context_length=24,last_context_length=8"
    assert torch.equal(logits(f"{fot}+logn:base=9"), logits(f"{fot},prompt_length=80+logn:base=9"))
    assert (logits(f"{fot}+logn:base=9") - logits(fot)).abs().max() > 0.01
    composed = parse_method(f"{fot}+logn")
    assert composed.forgets and composed.layerwise and not composed.prefix_stable


class TestDefaults:
    @pytest.mark.parametrize(
        ("trained", "context", "last"), [(4096, 4096, 1024), (2048, 2048, 1024), (256, 256, 128), (3, 3, 1), (2, 2, 1)]
    )
    def test_lengths_follow_from_the_pretraining_length(self, trained: int, context: int, last: int) -> None:
        method = parse_method("fot:memory_layers=[1]").resolve(Lengths(trained))
        assert (method.options()["context_length"], method.options()["last_context_length"]) == (context, last)
        assert method.options()["mem_positionals"] is True and method.options()["prompt_length"] is None

    def test_last_context_length_follows_from_a_typed_context_length(self) -> None:
        assert parse_method("fot:context_length=100").resolve(Lengths(4096)).options()["last_context_length"] == 50

    @staticmethod
    def config(**options: Any) -> SimpleNamespace:
        return SimpleNamespace(num_hidden_layers=26, **options)

    CONFIG = {  # noqa: RUF012
        "mem_layers": [6, 12, 18],
        "last_context_length": 1024,
        "mem_dtype": "bfloat16",
        "mem_positionals": False,
        "mem_attention_grouping": [4, 2048],
    }

    def test_the_config_of_a_longllama_gives_options(self) -> None:
        method = FocusedTransformer().for_model(self.config(**self.CONFIG)).resolve(Lengths(2048))
        assert method == FocusedTransformer(
            memory_layers=(6, 12, 18),
            context_length=2048,
            last_context_length=1024,
            mem_dtype="bfloat16",
            mem_positionals=False,
            mem_attention_grouping=(4, 2048),
        )

    def test_what_the_config_leaves_out_has_its_default(self) -> None:
        """The first 3B knows neither last_context_length nor mem_attention_grouping; null is as if left out."""
        config = self.config(mem_layers=[6, 12, 18], mem_dtype="bfloat16", mem_attention_grouping=None)
        method = FocusedTransformer().for_model(config).resolve(Lengths(2048))
        assert (method.last_context_length, method.mem_attention_grouping) == (1024, None)
        assert method.mem_positionals is True

    @pytest.mark.parametrize(
        ("typed", "option", "value"),
        [
            ("memory_layers=[3]", "memory_layers", (3,)),
            ("memory_layers=[]", "memory_layers", ()),
            ("last_context_length=99", "last_context_length", 99),
            ("mem_dtype=float32", "mem_dtype", "float32"),
            ("mem_positionals=true", "mem_positionals", True),
            ("mem_attention_grouping=[1,1]", "mem_attention_grouping", (1, 1)),
            ("context_length=1500", "context_length", 1500),
        ],
    )
    def test_what_is_typed_wins(self, typed: str, option: str, value: object) -> None:
        config = self.config(**self.CONFIG)
        method = parse_method(f"fot:{typed}").for_model(config).resolve(Lengths(2048)).options()
        assert method[option] == value
        others = FocusedTransformer().for_model(config).resolve(Lengths(2048)).options()
        assert {key for key in method if method[key] != others[key]} == {option}


class TestRefused:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("fot:memory_layers=3", "fot: memory_layers must be a list such as [1,2], not '3'"),
            ("fot:memory_layers=[1,x]", "fot: memory_layers must be a whole number, not 'x'"),
            ("fot:memory_layers=[1,,2]", "fot: memory_layers must be a whole number, not ''"),
            ("fot:memory_layers=[1.5]", "fot: memory_layers must be a whole number, not '1.5'"),
            ("fot:memory_layers=[[1,2]]", "fot: memory_layers must be a whole number"),
            ("fot:mem_attention_grouping=[1]", "fot: mem_attention_grouping must be a list of 2, not ['1']"),
            ("fot:mem_attention_grouping=[1,2,3]", "fot: mem_attention_grouping must be a list of 2"),
            ("fot:mem_attention_grouping=[]", "fot: mem_attention_grouping must be a list of 2, not []"),
            ("fot:variant=blocks", "fot: variant must be longllama or streaming, not 'blocks'"),
            ("fot:mem_dtype=int8", "fot: mem_dtype must be float32 or bfloat16 or float16, not 'int8'"),
            ("fot:mem_device=cuda", "fot: mem_device must be cpu, not 'cuda'"),
            ("fot:mem_positionals=1", "fot: mem_positionals must be true or false, not '1'"),
            ("fot:memory=faiss", "fot: memory must be dense or knn, not 'faiss'"),
            ("fot:index=hnsw", "fot: index must be flat or ivf, not 'hnsw'"),
            ("fot:mem_layers=[1]", "unknown option of fot 'mem_layers'"),
            ("fot+dca", "fot and dca are both position plans"),
        ],
    )
    def test_when_read(self, spec: str, message: str) -> None:
        with pytest.raises(UserError) as error:
            parse_method(spec)
        assert message in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("context_length=1", "fot: context_length must be at least 2, not 1"),
            ("context_length=64,last_context_length=0", "fot: last_context_length must be at least 1, not 0"),
            (
                "context_length=64,last_context_length=65",
                "last_context_length=65 is more than 64, a window has 64 tokens",
            ),
            (
                "context_length=64,last_context_length=64,variant=streaming",
                "last_context_length=64 is more than 63, a window has 64 tokens",
            ),
            ("prompt_length=0", "fot: prompt_length must be at least 1, not 0"),
            ("mem_attention_grouping=[0,4]", "fot: mem_attention_grouping must be at least 1, not 0"),
            ("mem_attention_grouping=[4,-1]", "fot: mem_attention_grouping must be at least 1, not -1"),
            ("top_k=0", "fot: top_k must be at least 1, not 0"),
        ],
    )
    def test_when_resolved(self, options: str, message: str) -> None:
        method = parse_method(f"fot:memory_layers=[1],{options}")
        with pytest.raises(UserError) as error:
            method.resolve(Lengths(4096))
        assert message in str(error.value)

    @pytest.mark.parametrize("layer", [2, -1, 99])
    def test_a_layer_that_the_model_lacks(self, model: PreTrainedModel, layer: int) -> None:
        with pytest.raises(UserError, match=f"^fot: there is no layer {layer}; the model's are 0 to 1.$"):
            lcbench.extend(model, f"fot:memory_layers=[0,{layer}]")

    def test_no_memory_layers(self, model: PreTrainedModel) -> None:
        with pytest.raises(
            UserError, match=r"as in fot:memory_layers=\[6,12,18\]; the model's config has no mem_layers"
        ):
            lcbench.extend(model, "fot")

    def test_searched_memory_without_faiss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name))
        with pytest.raises(UserError, match=r"memory=knn needs Faiss; pip install 'lcbench\[knn\]'"):
            parse_method("fot:memory_layers=[1],memory=knn").resolve(Lengths(4096))
        parse_method("fot:memory_layers=[1]").resolve(Lengths(4096))


@st.composite
def any_options(draw: st.DrawFn) -> FocusedTransformer:
    numbers = st.none() | st.integers(1, 5000)
    return FocusedTransformer(
        memory_layers=draw(st.none() | st.lists(st.integers(0, 40), max_size=4).map(tuple)),
        context_length=draw(numbers),
        last_context_length=draw(numbers),
        prompt_length=draw(numbers),
        variant=draw(st.sampled_from(["longllama", "streaming"])),
        mem_positionals=draw(st.none() | st.booleans()),
        mem_dtype=draw(st.sampled_from([None, "float32", "bfloat16", "float16"])),
        mem_device=draw(st.sampled_from([None, "cpu"])),
        mem_attention_grouping=draw(st.none() | st.tuples(st.integers(1, 64), st.integers(1, 4096))),
        memory=draw(st.sampled_from(["dense", "knn"])),
        top_k=draw(st.integers(1, 300)),
        index=draw(st.sampled_from(["flat", "ivf"])),
    )


@given(any_options())
def test_what_is_printed_reads_back(method: FocusedTransformer) -> None:
    assert parse_method(str(method)) == method
    assert [parse_method(entry) for entry in split_list(f"dca,{method},pi")][1] == method


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("fot:memory_layers=[1,3],context_length=64,dca", ["fot:memory_layers=[1,3],context_length=64", "dca"]),
        ("dca,fot:context_length=64,memory_layers=[1, 3]", ["dca", "fot:context_length=64,memory_layers=[1, 3]"]),
        ("fot:memory_layers=[],fot", ["fot:memory_layers=[]", "fot"]),
        ("fot:mem_attention_grouping=[1,2],memory_layers=[1,2]+logn,pi", None),
    ],
)
def test_lists_of_methods_split_outside_brackets(text: str, entries: list[str] | None) -> None:
    assert split_list(text) == (entries or [text.removesuffix(",pi"), "pi"])
    assert all(parse_method(entry) for entry in split_list(text))


@pytest.mark.parametrize(
    "text", ["fot:memory_layers=[1 , 3]", "fot: memory_layers = [1,3]", "fot:memory_layers=[ 1,3 ]"]
)
def test_spaces_mean_nothing(text: str) -> None:
    assert parse_method(text) == FocusedTransformer((1, 3))
