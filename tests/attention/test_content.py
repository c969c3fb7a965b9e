"""Methods that look at queries and keys, on whole models: they see what the reference sees, however a run is split."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lcbench
from lcbench.attention import sparse
from lcbench.attention.cache.buffer import SPARE
from lcbench.attention.pages import PageDigests
from lcbench.core.errors import UserError
from lcbench.engine.footprint import footprint
from lcbench.methods import Lengths, all_methods, minference, parse_method
from lcbench.methods.base import CONTENT
from tests.attention import content_oracle, zoo

PROMPT, N = 76, 84
LENGTHS = Lengths(zoo.PRETRAINING, N)
ATOL = 5e-5
DCA = "dca:chunk_size=24,max_position=40"
XATTENTION = "xattention:stride=4,block_size=8,threshold=.6"
SNAPKV = "snapkv:budget=30,window_size=9"
QUEST = "quest:token_budget=40,page_size=8,skip_layers=1"

EVICTIONS = [
    "knorm",
    SNAPKV,
    "snapkv:compression_ratio=.8,window_size=20,kernel_size=3,pooling=maxpool",
    "h2o:budget=30",
    "h2o:compression_ratio=.6,recent_share=.25",
    "expected_attention:n_future_positions=8,compression_ratio=.7",
    "expected_attention:n_future_positions=3,n_sink=0,use_covariance=false,use_vnorm=false",
    f"{DCA}+expected_attention:n_future_positions=8,budget=20,epsilon=.01",
    f"{DCA}+{SNAPKV}+logn:base=16",
]
SELECTIONS = [
    "minference:vertical_size=20,slash_size=30,block_size=8,last_q=20",
    "minference:pattern=a_shape,vertical_size=5,slash_size=30,block_size=8",
    XATTENTION,
    f"{DCA}+{XATTENTION}",
]
PAGES = [QUEST, f"{DCA}+quest:token_budget=33,page_size=8,skip_layers=0"]
INFLLM = "infllm:n_init=4,n_local=24,topk=3,block_size=4,repr_topk=2,exc_block_size=8"
MEMORIES = [INFLLM, "yarn:factor=2+logn:base=16+infllm:n_init=0,n_local=17,topk=2,block_size=6,exc_block_size=12"]
RECIPE = "dca+yarn:factor=2+minference:vertical_size=13,slash_size=20,block_size=8+snapkv:budget=20"
ARCHITECTURES = ["gemma2", "gpt-oss", "smollm3", "glm", "phi"]
METHODS = [*EVICTIONS, *SELECTIONS, *PAGES, *MEMORIES, RECIPE]


@pytest.fixture(autouse=True)
def short_diagonals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What MInference always takes is most of a prompt this short."""
    for module in (minference, content_oracle):
        monkeypatch.setattr(module, "FIRST", 3)
        monkeypatch.setattr(module, "NEAREST", 8)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a prompt this short is one tile of columns, and one of gathered keys."""
    monkeypatch.setattr(sparse, "QUERIES_AT_ONCE", 24)
    monkeypatch.setattr(sparse, "KEYS_AT_ONCE", 10)


@cache
def model_of(kv_heads: int) -> PreTrainedModel:
    return zoo.llama(num_key_value_heads=kv_heads)


@cache
def reference(spec: str, prompt: int = PROMPT, kv_heads: int = 2) -> Tensor:
    """Logits [prompt + 8, vocabulary] of the first row."""
    ids = zoo.tokens(1, N)[:, : prompt + N - PROMPT]
    return content_oracle.reference_logits(
        model_of(kv_heads), ids, parse_method(spec).resolve(LENGTHS), LENGTHS, prompt
    )[0]


@torch.no_grad()
def steered(spec: str, ends: list[int], pads: tuple[int, ...] = (0,), kv_heads: int = 2) -> Tensor:
    """Logits of rows with the same tokens, in calls that end at `ends`; the prompt ends at PROMPT."""
    ids, mask = zoo.left_padded(zoo.tokens(1, N).repeat(len(pads), 1), list(pads))
    cache, out = DynamicCache(), []
    cache.prompt_length = PROMPT
    with lcbench.extend(model_of(kv_heads), spec, length=N) as model:
        for a, b in zip([0, *ends], ends):
            masked = {"attention_mask": mask[:, :b]} if any(pads) else {}
            out.append(model(ids[:, a:b], past_key_values=cache, **masked).logits)
    return torch.cat(out, dim=1)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=ATOL, rtol=0)


def test_every_method_of_content_is_tested() -> None:
    named = {part.split(":")[0] for spec in METHODS for part in spec.split("+")}
    assert {name for name, method in all_methods().items() if method().hooks & CONTENT} <= named


@pytest.mark.parametrize("spec", METHODS)
def test_prompt_and_answer(spec: str) -> None:
    assert_equal(steered(spec, [PROMPT, *range(PROMPT + 1, N + 1)])[0], reference(spec))


@pytest.mark.parametrize("spec", METHODS)
def test_reference_itself_tells_methods_apart(spec: str) -> None:
    """Otherwise the tests would prove nothing."""
    others = [other for other in METHODS if other != spec]
    assert all((reference(spec) - reference(other))[PROMPT:].abs().max() > 0.01 for other in others)


@pytest.mark.parametrize("spec", [*EVICTIONS, XATTENTION, INFLLM, *PAGES])
def test_prompt_in_calls(spec: str) -> None:
    """What an eviction has to know is gathered over the calls, the last of which has a single query; blocks are whole.
    The answer is one call, too, and every query of it chooses for itself."""
    ends = [8, 64, PROMPT, N] if spec in (XATTENTION, INFLLM) else [20, 21, 70, PROMPT - 1, PROMPT, N]
    assert_equal(steered(spec, ends)[0], reference(spec))


@pytest.mark.parametrize("spec", [SNAPKV, "h2o:budget=30", "knorm", XATTENTION, QUEST, INFLLM, RECIPE])
def test_left_padding(spec: str) -> None:
    """Each row as if it were alone; a shorter prompt keeps fewer keys."""
    pads = (0, 16, 16)
    actual = steered(spec, [PROMPT, PROMPT + 1, PROMPT + 2, N], pads)
    for row, pad in enumerate(pads):
        assert_equal(actual[row, pad:], reference(spec, PROMPT - pad))


@pytest.mark.parametrize("spec", ["h2o:budget=30", XATTENTION, QUEST, INFLLM])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_queries(spec: str, kv_heads: int) -> None:
    assert_equal(steered(spec, [PROMPT, N], kv_heads=kv_heads)[0], reference(spec, kv_heads=kv_heads))


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "spec"),
    [
        *((arch, f"{XATTENTION}+snapkv:budget=12,window_size=5") for arch in ARCHITECTURES),
        *((arch, "infllm:n_init=4,n_local=9,topk=2,block_size=4,exc_block_size=4") for arch in ARCHITECTURES[1:]),
    ],
)
def test_architectures(arch: str, spec: str) -> None:
    """Soft caps and sliding layers, sinks, layers without rotation, interleaved and partial rotation."""
    prompt = 40
    model, ids = zoo.build(zoo.ARCHITECTURES[arch]()), zoo.tokens(1, prompt + 4)
    lengths = Lengths(model.config.max_position_embeddings, prompt + 4)
    expected = content_oracle.reference_logits(model, ids, parse_method(spec).resolve(lengths), lengths, prompt)
    cache = DynamicCache(config=model.config)
    with lcbench.extend(model, spec, length=prompt + 4):
        calls = [model(ids[:, a:b], past_key_values=cache).logits for a, b in ((0, 40), (40, 41), (41, 44))]
    torch.testing.assert_close(torch.cat(calls, dim=1).double(), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_window_that_hides_no_key_of_the_run() -> None:
    """The cache layers of such a model drop keys too, by their place."""
    ids, answers = zoo.tokens(1, 90), []
    for window in (100, None):
        model = zoo.build(zoo.config("MistralConfig", num_hidden_layers=2, sliding_window=window))
        cache = DynamicCache(config=model.config)
        with lcbench.extend(model, "knorm:budget=10", length=100):
            answers.append([model(part, past_key_values=cache).logits for part in (ids[:, :80], ids[:, 80:])])
        assert cache.layers[0].keys.shape[2] == 20
    assert all(map(torch.equal, *answers))


@torch.no_grad()
def test_memory_of_dropped_keys_is_freed() -> None:
    model = model_of(2)
    cache = DynamicCache()
    cache.expected_length = 2 * N
    with lcbench.extend(model, "knorm:budget=10", length=2 * N):
        model(zoo.tokens(2, PROMPT), past_key_values=cache)
        held = [x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values)]
        assert held == [2 * 2 * 10 * 16 * 4] * 4  # rows, KV heads, keys, channels, bytes
        model(zoo.tokens(2, 1), past_key_values=cache)
        assert cache.get_seq_length() == PROMPT + 1
        grown = {layer.keys.untyped_storage().nbytes() for layer in cache.layers}
        assert max(grown) <= 2 * 2 * (10 + 2 * N - PROMPT + SPARE) * 16 * 4
        assert [layer.kept for layer in cache.layers] == [10, 10]


@torch.no_grad()
@pytest.mark.parametrize("spec", ["knorm:budget=10", f"{DCA}+h2o", f"dca+{QUEST}"])
def test_a_dry_run_knows_what_is_held(spec: str) -> None:
    """The KV cache after a prompt, and the rotated keys that an answer's token makes."""
    model, cache, method = model_of(2), DynamicCache(), parse_method(spec).resolve(LENGTHS)
    with lcbench.extend(model, method, length=N):
        model(zoo.tokens(1, PROMPT), past_key_values=cache)
        held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
        model(zoo.tokens(1, 1), past_key_values=cache)
        found = [x for layer in cache.layers for x in (*layer._beside.values(), *layer._rotated_keys.values())]
        rotated = [kept for x in found if not isinstance(x, PageDigests) for kept in x._kept.values()]
        digests = [kept for x in found if isinstance(x, PageDigests) for kept in x._kept.values()]
    need = footprint(model, torch.float32)
    assert held == need.kv_left(method, PROMPT)
    expected = need.rotated_keys(method, PROMPT + 1)
    assert sum(kept.buffer.rows.nbytes for kept in rotated) - expected in (0, len(rotated) * need.kv_per_key // 2)
    pages = sum(kept.buffer.rows.nbytes for kept in digests) - need.page_digests(method, PROMPT + 1)
    assert pages % need.kv_per_key == 0 and 0 <= pages <= 2 * len(digests) * need.kv_per_key, "a page at each end"
    assert bool(digests) == (QUEST in spec) == bool(need.page_digests(method, PROMPT + 1))


@torch.no_grad()
@pytest.mark.parametrize("spec", ["minference", "h2o:budget=10"])
def test_records_name_what_is_computed_here_rather_than_by_a_backend(spec: str) -> None:
    steering = lcbench.extend(model_of(2), spec, length=N)
    with steering as model:
        cache = DynamicCache()
        model(zoo.tokens(1, PROMPT), past_key_values=cache)
        model(zoo.tokens(1, 1), past_key_values=cache)
    assert ("sparse" if spec == "minference" else "chosen keys") in steering.backends


@torch.no_grad()
def test_going_back_in_the_answer() -> None:
    """As speculative decoding does; into the prompt there is no way back."""
    ids, cache = zoo.tokens(1, N), DynamicCache()
    with lcbench.extend(model_of(2), SNAPKV, length=N) as model:
        model(ids[:, :PROMPT], past_key_values=cache)
        model(zoo.tokens(1, 5, seed=7), past_key_values=cache)
        cache.crop(-5)
        out = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(PROMPT, N)]
        assert_equal(torch.cat(out, dim=1)[0], reference(SNAPKV)[PROMPT:])
        with pytest.raises(UserError, match="can be cropped by at most 8, not by 9"):
            cache.crop(-9)


@torch.no_grad()
@pytest.mark.parametrize("spec", ["h2o:budget=30", QUEST, INFLLM])
def test_rows_of_a_cache(spec: str) -> None:
    """Selected, repeated and reordered between two steps, as beam search and finished answers do."""
    ids, mask = zoo.left_padded(zoo.tokens(1, N).repeat(3, 1), [0, 16, 0])
    cache = DynamicCache()
    cache.prompt_length = PROMPT
    with lcbench.extend(model_of(2), spec, length=N) as model:
        model(ids[:, :PROMPT], attention_mask=mask[:, :PROMPT], past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0, 1]))
        model(ids[:2, PROMPT : PROMPT + 1], attention_mask=mask[:2, : PROMPT + 1], past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 2, 1]))
        rows = [1, 0, 1, 0]
        out = model(ids[rows, PROMPT + 1 :], attention_mask=mask[rows], past_key_values=cache).logits
    assert_equal(out[0], reference(spec, PROMPT - 16)[PROMPT - 16 + 1 :])
    assert_equal(out[1], reference(spec)[PROMPT + 1 :])
    torch.testing.assert_close(out[2:], out[:2])


def generate(model: PreTrainedModel, ids: Tensor, **options: object) -> Tensor:
    return model.generate(ids, max_new_tokens=6, do_sample=False, **options)


@pytest.mark.parametrize("spec", [SNAPKV, XATTENTION, QUEST, INFLLM])
def test_generate(spec: str) -> None:
    """Padded rows as if alone, with a cache of their own or not."""
    ids = zoo.tokens(2, PROMPT)
    padded, mask = zoo.left_padded(ids, [0, 16])
    with lcbench.extend(model_of(2), spec, length=N) as model:
        greedy = generate(model, ids[:1])
        assert torch.equal(generate(model, ids[:1], past_key_values=DynamicCache()), greedy)
        both = generate(model, padded, attention_mask=mask)
        assert torch.equal(both[0], greedy[0])
        assert torch.equal(both[1, 16:], generate(model, ids[1:, : PROMPT - 16])[0])


@torch.no_grad()
@pytest.mark.parametrize("spec", [XATTENTION, QUEST])
def test_the_cache_that_the_model_makes(spec: str) -> None:
    """It knows how long its prompt was; no key is dropped from it."""
    ids, held, answer = zoo.tokens(1, N), None, []
    with lcbench.extend(model_of(2), spec, length=N) as model:
        for a, b in pairwise([0, *range(PROMPT, N + 1)]):
            call = model(ids[:, a:b], past_key_values=held, use_cache=True)
            held, answer = call.past_key_values, [*answer, call.logits]
    assert_equal(torch.cat(answer, dim=1)[0], reference(spec))


@torch.no_grad()
@pytest.mark.parametrize("spec", [SNAPKV, QUEST])
def test_another_block_looks_anew(spec: str) -> None:
    """Keys that are left, and digests of pages, stand at the same positions there, and turn at other frequencies."""
    ids, held = zoo.tokens(1, N), DynamicCache()
    with lcbench.extend(model_of(2), spec, length=N) as model:
        model(ids[:, :PROMPT], past_key_values=held)
        model(ids[:, PROMPT : PROMPT + 1], past_key_values=held)
        fresh = copy.deepcopy(held)
    for layer in fresh.layers:
        layer.leave_buffers()
    answers = []
    for each in (held, fresh):
        with lcbench.extend(model_of(2), f"ntk:factor=4+{spec}", length=N) as model:
            answers.append(model(ids[:, PROMPT + 1 :], past_key_values=each).logits)
    torch.testing.assert_close(*answers, atol=1e-6, rtol=0)


@torch.no_grad()
def test_refused() -> None:
    model, ids = model_of(2), zoo.tokens(1, 40)
    for options in ({"attention": "matmul"}, {"kv_dtype": "bfloat16"}, {"kv_offload": True}):
        with pytest.raises(UserError, match=r"snapkv (selects keys and computes|reads all keys)"):
            lcbench.extend(model, "snapkv", **options)
    filled, longer = DynamicCache(), DynamicCache()
    longer.prompt_length = 30
    with lcbench.extend(model, "vanilla", length=N):
        model(ids, past_key_values=filled)
    with lcbench.extend(model, "snapkv", length=N):
        for cache in (None, StaticCache(config=model.config, max_cache_len=N), filled):
            with pytest.raises(UserError, match=r"snapkv drops keys .* past_key_values=DynamicCache\(\) from"):
                model(ids, past_key_values=cache)
        with pytest.raises(
            UserError, match="snapkv: a forward pass has tokens before and after the end of the prompt, 30"
        ):
            model(ids, past_key_values=longer)
    with lcbench.extend(model, INFLLM, length=N):
        own = model(ids, use_cache=True).past_key_values
        cropped, other = DynamicCache(), DynamicCache()
        model(ids, past_key_values=cropped)
        cropped.crop(-1)
    with lcbench.extend(model, "infllm:n_local=9", length=N):
        model(ids, past_key_values=other)
    with lcbench.extend(model, INFLLM, length=N):
        for cache in (own, cropped, other, filled):
            with pytest.raises(UserError, match="infllm: this KV cache does not hold what the queries before"):
                model(ids[:, :1], past_key_values=cache)
    no_gradient = pytest.raises(UserError, match="xattention selects keys, which has no gradient")
    with lcbench.extend(model, "xattention", length=N), torch.enable_grad(), no_gradient:
        model(ids)
