"""Short answers are decoded as one batch, and nobody can tell from them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel

import lcbench
from lcbench.attention.cache import search
from lcbench.attention.cache.buffer import Buffer
from lcbench.engine import generate as engine
from lcbench.engine import steered as steered_engine
from lcbench.engine.batched_cache import join_caches, snapshot
from lcbench.engine.generate import Generation, Prompt, generate, generate_together
from lcbench.engine.models import ModelSource
from lcbench.engine.prefix_cache import PrefixCache
from lcbench.run.measures import SampleRequest, answer
from lcbench.run.plan import Job, make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Example
from tests.attention import zoo
from tests.helpers import cli, lines_of, records_of

NEW = 6
EQUAL, RAGGED = [50] * 5, [50, 61, 50, 33, 47]
KEEP_ALL = [
    "vanilla",
    "dca:chunk_size=16,max_position=31",
    "self_extend:group_size=4",
    "yarn:factor=4+logn",
    "streaming:window=16",
    "tri_shape:sinks=2,window=12,dense=6",
    "leaky_rerope:window=16,k=3+resonance",
    "duo_attention:full_heads=[1:0],window=12",
    "infllm:n_init=4,n_local=16,topk=2,block_size=4,repr_topk=2,exc_block_size=8",
]
FORGET = ["fot:memory_layers=[1]", "fot:memory_layers=[1],memory=knn,top_k=8"]


def prompts_of(lengths: list[int], budget: int = NEW, **options: Any) -> list[Prompt]:
    return [Prompt(zoo.tokens(1, n, seed)[0].tolist(), budget, **options) for seed, n in enumerate(lengths)]


def one_by_one(model: PreTrainedModel, prompts: list[Prompt], stops: tuple[int, ...] = ()) -> list[list[int]]:
    return [generate(model, one.tokens, one.max_new_tokens, stops, watch=one.watch).tokens for one in prompts]


def tokens_of(generations: list[Generation]) -> list[list[int]]:
    return [generation.tokens for generation in generations]


def steps(model: PreTrainedModel) -> tuple[list[int], Any]:
    """The number of rows of each decode step, noted by a hook that is to be removed."""
    rows: list[int] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        if ids.shape[1] == 1:
            rows.append(len(ids))

    return rows, model.register_forward_pre_hook(note, with_kwargs=True)


@pytest.mark.parametrize(
    ("method", "lengths"),
    [*((method, RAGGED) for method in [*KEEP_ALL, *FORGET, None]), *((method, EQUAL) for method in [*FORGET, None])],
    ids=lambda value: str(value) if isinstance(value, str | None) else "equal" if value is EQUAL else "ragged",
)
def test_each_answer_is_that_of_its_prompt_alone(method: str | None, lengths: list[int]) -> None:
    model, prompts = zoo.llama().double(), prompts_of(lengths)

    def compare(model: PreTrainedModel) -> list[Generation]:
        found = generate_together(model, prompts)
        assert tokens_of(found) == one_by_one(model, prompts)
        return found

    if method is None:  # a model that nobody steers counts positions by itself
        found = compare(model)
    else:
        with lcbench.extend(model, method, length=max(lengths) + NEW) as steered:
            found = compare(steered)
    whole = method not in FORGET
    assert [one.together for one in found] == [5 if whole else lengths.count(n) for n in lengths]


def test_logits_behind_a_joined_cache_are_those_of_each_cache() -> None:
    """To the last digits of float64, so that no bug hides behind equal tokens."""
    model, lengths = zoo.llama().double(), [20, 33, 7]
    prompts, step = [zoo.tokens(1, n, seed) for seed, n in enumerate(lengths)], torch.tensor([[5], [6], [7]])
    with torch.no_grad(), lcbench.extend(model, "dca:chunk_size=8,max_position=15") as steered:
        caches, expected = [], []
        for ids, token in zip(prompts, step):
            cache = DynamicCache(config=model.config)
            cache.prompt_length, cache.expected_length = ids.shape[1], ids.shape[1] + NEW
            steered(ids, past_key_values=cache)
            caches.append(cache)
            expected.append(steered(token[None], past_key_values=snapshot(cache)).logits)
        mask = torch.arange(34) >= torch.tensor([[13], [0], [26]])
        found = steered(step, past_key_values=join_caches(caches, lengths), attention_mask=mask.long()).logits
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-11, atol=1e-11)


SLIDING = [
    zoo.config("MistralConfig", num_hidden_layers=2, sliding_window=16),
    zoo.config("Gemma3TextConfig", num_hidden_layers=2, sliding_window=16, head_dim=16, sliding_window_pattern=2),
]
RECURRENT = zoo.config(
    "Qwen3NextConfig",
    num_hidden_layers=4,
    head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=2,
    linear_key_head_dim=16,
    linear_value_head_dim=16,
    num_experts=2,
    num_experts_per_tok=1,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
)


@pytest.mark.parametrize("of", [*SLIDING, RECURRENT], ids=lambda of: of.model_type)
def test_layers_of_other_kinds(of: Any) -> None:
    """Sliding windows are joined at equal lengths only, recurrent states never."""
    model, lengths = zoo.build(of).double(), [40, 40, 44]
    prompts = prompts_of(lengths)
    with lcbench.extend(model, "vanilla") as steered:
        found = generate_together(steered, prompts)
        assert tokens_of(found) == one_by_one(steered, prompts)
    assert [one.together for one in found] == ([1, 1, 1] if of is RECURRENT else [2, 2, 1])


@pytest.mark.parametrize(
    ("options", "together"),
    [({"kv_dtype": "float8_e4m3fn"}, 3), ({"kv_offload": True}, 3), ({"attention": "reference"}, 3)],
)
def test_keys_held_otherwise(options: dict[str, Any], together: int) -> None:
    model, prompts = zoo.llama(), prompts_of([40, 44, 41])
    with lcbench.extend(model, "self_extend:group_size=4", length=60, **options) as steered:
        found = generate_together(steered, prompts)
        assert tokens_of(found) == one_by_one(steered, prompts)
    assert [one.together for one in found] == [together] * 3


def test_answers_end_each_in_its_own_way() -> None:
    """By a stop token, by a watch, by a budget; rows whose answers have ended leave the batch once they are half."""
    model = zoo.llama().double()
    with lcbench.extend(model, "vanilla", length=80) as steered:
        whole = one_by_one(steered, prompts_of(RAGGED, 12))
        stop = whole[0][1]
        ends: list[Callable[[list[int]], bool]] = [lambda found, n=n: len(found) == n for n in (99, 2, 5, 1, 99)]
        prompts = [
            Prompt(one.tokens, budget, watch)
            for one, budget, watch in zip(prompts_of(RAGGED), (12, 12, 12, 12, 8), ends)
        ]
        rows, hook = steps(steered)
        found = generate_together(steered, prompts, {stop})
        hook.remove()
        expected = one_by_one(steered, prompts, (stop,))
    assert tokens_of(found) == expected
    assert list(map(len, expected)) == [1, 2, 5, 1, 8]  # by the seed: else another stop token is needed
    assert rows == [5, 2, 2, 2, 1, 1, 1]


def test_nothing_is_decoded_where_every_answer_ends_at_once() -> None:
    model = zoo.llama().double()
    prompts = prompts_of(RAGGED, 1)
    rows, hook = steps(model)
    found = generate_together(model, prompts)
    assert tokens_of(found) == one_by_one(model, prompts) and rows == []
    assert generate_together(model, [prompts[0]] * 2, {found[0].tokens[0]})[1].tokens == []
    hook.remove()


def test_no_row_goes_beyond_its_budget(caplog: pytest.LogCaptureFixture) -> None:
    """A run was said to be so long: a longer prompt with a smaller budget must not go along with the others."""
    model, prompts = zoo.llama().double(), [*prompts_of([50], 14), *prompts_of([60], 4)]
    with lcbench.extend(model, "dynamic_ntk", length=64) as steered:
        found = generate_together(steered, prompts)
        assert tokens_of(found) == one_by_one(steered, prompts) and found[0].together == 2
    assert "more than the given length" not in caplog.text


def test_a_row_that_has_ended_does_not_go_beyond_its_budget_either(caplog: pytest.LogCaptureFixture) -> None:
    model, prompts = zoo.llama().double(), [*prompts_of([50, 50], 14), *prompts_of([60], 4, watch=lambda _: True)]
    with lcbench.extend(model, "dynamic_ntk", length=64) as steered:
        assert tokens_of(generate_together(steered, prompts)) == one_by_one(steered, prompts)
    assert "more than the given length" not in caplog.text


def test_an_index_of_memory_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions follow from the keys that were there when they were made: made anew, they would find other keys."""
    monkeypatch.setattr(search, "SMALL", 16)
    model, prompts = zoo.llama().double(), [*prompts_of([200] * 3, 12), *prompts_of([200] * 3, 6)]
    with lcbench.extend(model, "fot:memory_layers=[1],context_length=32,memory=knn,top_k=8,index=ivf") as steered:
        found = generate_together(steered, prompts)
        assert tokens_of(found) == one_by_one(steered, prompts)
    assert [one.together for one in found] == [6] * 6


def test_prompts_that_begin_alike_share_their_prefill_and_are_decoded_together() -> None:
    model, stem = zoo.llama().double(), zoo.tokens(1, 40)[0].tolist()
    prompts = sorted(([*stem[:n], *zoo.tokens(1, 5, n)[0].tolist()] for n in (40, 40, 30, 20)), reverse=True)
    given = [Prompt(prompt, NEW) for prompt in prompts]
    with lcbench.extend(model, "dca:chunk_size=16,max_position=31") as steered:
        prefixes = PrefixCache(model.config)
        first, again = (generate_together(steered, given, prefixes=prefixes) for _ in range(2))
        expected = one_by_one(steered, given)
    assert tokens_of(first) == tokens_of(again) == expected
    assert sum(one.reused for one in first) > 60 and all(one.together == 4 for one in first)
    assert again[0].reused >= 20  # the last prompt's cache was kept as it was before it was joined


def test_a_snapshot_is_not_touched_by_what_follows() -> None:
    model, ids = zoo.llama().double(), zoo.tokens(1, 30)
    with torch.no_grad(), lcbench.extend(model, "vanilla") as steered:
        cache = DynamicCache(config=model.config)
        steered(ids[:, :20], past_key_values=cache)
        kept = snapshot(cache)
        expected = steered(ids[:, 20:], past_key_values=snapshot(cache)).logits
        cache.crop(-10)
        steered(ids[:, 5:25], past_key_values=cache)
        assert torch.equal(steered(ids[:, 20:], past_key_values=kept).logits, expected)


def portions_of(requests: list[SampleRequest], model: PreTrainedModel, tmp_path: Path) -> list[int]:
    plan = make_plan(ModelSource(), [Request("passkey", None, (256,), None, 1)])
    host = steered_engine.SteeredHost(model, plan.tokenizer, plan.facts.local.footprint, plan.attention)
    with host.engine(plan.jobs[0].resolved, 256, [256], shares=False) as engine_of_model:
        portions = list(answer.Answer(plan, engine_of_model, tmp_path).portions(requests))
    assert [one for portion in portions for one in portion] == requests
    return list(map(len, portions))


def test_how_many_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 16, and no more than fit into 16k tokens, or the bytes, of cache once all are padded to the longest."""
    jobs = {job.cell.seq_len: job for job in make_plan(ModelSource(), [Request("passkey", None, (256, 8192))]).jobs}

    def requests(seq_len: int, *sizes: int) -> list[SampleRequest]:
        job: Job = jobs[seq_len]
        return [SampleRequest(job, n, Example([], [5] * size, [], (), 10, 0)) for n, size in enumerate(sizes)]

    model = zoo.llama()
    assert portions_of(requests(256, *[200] * 40), model, tmp_path) == [16, 16, 8]
    assert portions_of([*requests(8192, 200, 8000), *requests(256, 200)], model, tmp_path) == [2, 1]
    assert portions_of(requests(8192, 8182, 8182, 8182), model, tmp_path) == [2, 1]
    assert portions_of(requests(8192, 8183, 8183), model, tmp_path) == [1, 1]
    assert portions_of(requests(8192, 100, 100, 8000, 100, 8000), model, tmp_path) == [2, 2, 1]
    assert portions_of(requests(8192, 20_000, 5), model, tmp_path) == [1, 1]
    assert portions_of([], model, tmp_path) == []
    with monkeypatch.context() as patch:  # 8 KiB of keys and values a token, and 4 KiB of rotated keys
        patch.setattr(steered_engine, "BYTES_TOGETHER", 5 * 512 * 12 * 1024)
        assert portions_of(requests(256, *[502] * 10), model, tmp_path) == [5, 5]


def held(make: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many tokens' keys and values the caches hold, buffers counted, when the first batch is joined."""
    sizes = []
    join = engine.join_caches

    def weighed(*arguments: Any) -> Any:
        gc.collect()
        tensors = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_of_caches()}
        sizes.append(sum(tensors.values()))
        return join(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "join_caches", weighed)
        make()
    return sizes[0]


def tensors_of_caches() -> list[torch.Tensor]:
    buffers = [x for x in gc.get_objects() if type(x) is Buffer and x.length]
    caches = [x for x in gc.get_objects() if type(x) is DynamicCache]
    layers = [x for cache in caches for x in cache.layers if x.is_initialized]
    return [buffer.rows for buffer in buffers] + [x for layer in layers for x in (layer.keys, layer.values)]


@pytest.mark.slow
def test_nothing_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that begin alike in nothing hold no more than those of a method that shares nothing, but for the last."""
    model, prompts = zoo.llama(), prompts_of([100] * 10)
    with lcbench.extend(model, "vanilla") as steered:
        plain = held(lambda: generate_together(steered, prompts), monkeypatch)
        shared = held(lambda: generate_together(steered, prompts, prefixes=PrefixCache(model.config)), monkeypatch)
    assert shared <= 1.1 * plain


@pytest.mark.slow
def test_what_cannot_be_joined_is_not_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build(SLIDING[1])
    with lcbench.extend(model, "vanilla") as steered:
        alone = held(lambda: generate(steered, prompts_of([47])[0].tokens, NEW), monkeypatch)
        ragged = held(lambda: generate_together(steered, prompts_of([40, 47, 33, 45])), monkeypatch)
    assert ragged <= 1.1 * alone


RUN = ["run", "passkey", "--method", "vanilla,dca:mscale=0.1,fot:memory_layers=[1]", "--seq-len", "200,300"]


def test_records_are_those_of_answers_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(*RUN, "--samples", "3", "-o", "together").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(steered_engine, "AT_ONCE", 1)
        assert cli(*RUN, "--samples", "3", "-o", "alone").code == 0
    assert records_of(Path("together")) == records_of(Path("alone"))
    together = [line["cost"]["decoded_together"] for line in lines_of(Path("together"))]
    assert min(together[:12]) == 3 and all(line["cost"]["decoded_together"] == 1 for line in lines_of(Path("alone")))


def test_a_portion_that_was_half_recorded_is_worked_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch of a resumed run is that of an undisturbed one: a matrix product may round otherwise for other rows."""
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "passkey", "--seq-len", "200", "--samples", "8", "--method", "dca:mscale=0.1", "-o"]
    assert cli(*arguments, "run").code == 0
    whole, records = records_of(Path("run")), Path("run", "records.jsonl")
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:3]))
    sizes = []
    real = steered_engine.generate_together

    def noted(model: Any, prompts: list[Prompt], *rest: Any) -> list[Generation]:
        sizes.append(len(prompts))
        return real(model, prompts, *rest)

    monkeypatch.setattr(steered_engine, "generate_together", noted)
    assert cli(*arguments, "run").code == 0
    assert sizes == [8] and len(lines_of(Path("run"))) == 8 and records_of(Path("run")) == whole


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At this length and from then on; the records are those of a run with memory enough."""
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "passkey", "--seq-len", "200", "--samples", "20", "--method", "dca:mscale=0.1", "-o"]
    assert cli(*arguments, "undisturbed").code == 0
    forward, rows = LlamaForCausalLM.forward, []

    def limited(self: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        rows.append(len(input_ids))
        if len(input_ids) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 100 GiB.")
        return forward(self, input_ids, *rest, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
    done = cli(*arguments, "short")
    assert done.code == 0
    notes = [line for line in done.err.splitlines() if "out of memory" in line]
    assert notes == [
        f"out of memory: passkey  200  dca:mscale=0.1; trying again with {n} prompts at once." for n in (8, 4)
    ]
    assert sorted({size for size in rows if size > 6}) == [8, 16] and rows.count(16) == rows.count(8) == 1
    assert records_of(Path("short")) == records_of(Path("undisturbed"))


@pytest.mark.slow
def test_an_error_is_of_the_cell_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of one length are asked together; one of them fails, not all."""
    monkeypatch.chdir(tmp_path)
    real = engine.generate_together

    def fails(model: Any, prompts: list[Prompt], *rest: Any) -> list[Generation]:
        if any(prompt.tokens[:60] == bad[:60] for prompt in prompts):
            raise RuntimeError("boom")
        return real(model, prompts, *rest)

    arguments = ["run", "needle", "--seq-len", "400", "--depths", "0,0.5,1", "--samples", "2"]
    plan = make_plan(ModelSource(), [Request("needle", None, (400,), (0.0, 0.5, 1.0), 2)])
    first = next(job for job in plan.jobs if job.cell.depth == 0.0)
    bad = first.task.example(first.cell, 0, plan.tokenizer, plan.seed).prompt
    monkeypatch.setattr(steered_engine, "generate_together", fails)
    assert cli(*arguments, "-o", "run").code == 1
    lines = lines_of(Path("run"))
    assert [(line["cell_depth"], line["error"]) for line in lines if line["error"]] == [(0.0, "RuntimeError: boom")]
    assert sorted(line["cell_depth"] for line in lines if not line["error"]) == [0.5, 0.5, 1.0, 1.0]
