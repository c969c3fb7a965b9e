"""Defaults of the methods that look at queries and keys, and what is refused; the example of CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

import lcbench
from lcbench.apps.bench.subjects import require_dense
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, parse_method
from lcbench.methods.base import REGISTRY, require_answer
from tests.attention import content_oracle, zoo
from tests.helpers import REPOSITORY, cli


@pytest.mark.parametrize(
    ("spec", "trained", "options"),
    [
        ("snapkv", 131072, {"window_size": 64, "compression_ratio": 0.5, "budget": None}),
        ("snapkv:budget=9", 64, {"window_size": 16, "compression_ratio": None, "budget": 9}),
        ("minference", 131072, {"vertical_size": 1000, "slash_size": 6096, "block_size": 64}),
        ("minference", 256, {"vertical_size": 32, "slash_size": 128, "block_size": 64}),
        ("xattention", 131072, {"block_size": 128}),
        ("xattention", 256, {"block_size": 32}),
        ("quest", 131072, {"token_budget": 1024}),
        ("quest", 256, {"token_budget": 64}),
        ("infllm", 8192, {"n_init": 128, "n_local": 4096, "block_size": 128, "exc_block_size": 512, "repr_topk": 4}),
        ("infllm", 4096, {"n_init": 128, "n_local": 2048, "block_size": 128, "exc_block_size": 512, "repr_topk": 4}),
        ("infllm", 256, {"n_init": 8, "n_local": 128, "block_size": 8, "exc_block_size": 32, "repr_topk": 4}),
        ("infllm:block_size=2", 8, {"n_init": 0, "n_local": 4, "exc_block_size": 2, "repr_topk": 2}),
    ],
)
def test_defaults_are_the_authors_for_long_models(spec: str, trained: int, options: dict[str, object]) -> None:
    resolved = parse_method(spec).resolve(Lengths(trained))
    assert options.items() <= resolved.options().items()
    assert resolved.resolve(Lengths(trained)) == resolved


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("snapkv+h2o", "snapkv and h2o are both evictions"),
        ("minference+xattention", "minference and xattention are both sparse prefills"),
        ("quest+knorm", "quest and knorm both choose the keys of the answer"),
        ("fot+quest", "fot drops keys by their place, and quest cannot choose among the others"),
        ("dca+infllm", "dca and infllm are both position plans"),
        (
            "infllm+snapkv",
            "infllm chooses the keys of the prompt and of the answer, and snapkv cannot choose among them",
        ),
        ("minference+infllm", "infllm chooses .* and minference cannot choose among them; take one of the two"),
        ("infllm:n_init=5", r"infllm: n_init must be a multiple of block_size \(8\), not 5"),
        ("infllm:exc_block_size=12", r"infllm: exc_block_size must be a multiple of block_size \(8\), not 12"),
        ("infllm:repr_topk=9", "infllm: repr_topk=9 is more than the 8 keys of a block"),
        ("infllm:topk=0", "infllm: topk must be at least 1"),
        ("snapkv:budget=5,compression_ratio=.5", "snapkv: budget and compression_ratio say the same"),
        ("h2o:compression_ratio=1", "h2o: compression_ratio must be from 0 to below 1, not 1"),
        ("h2o:recent_share=1.5", "h2o: recent_share must be from 0 to 1"),
        ("knorm:budget=0", "knorm: budget must be at least 1"),
        ("snapkv:kernel_size=4", "snapkv: kernel_size must be an odd number, not 4"),
        ("xattention:block_size=24", r"xattention: block_size must be a multiple of stride \(16\), not 24"),
        ("xattention:threshold=0", "xattention: threshold must be above 0"),
        ("quest:token_budget=8", "quest: token_budget must be at least 16"),
        ("minference:slash_size=0", "minference: slash_size must be at least 1"),
        ("expected_attention:n_sink=-1", "expected_attention: n_sink must be at least 0"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_method(spec).resolve(Lengths(256, 512))
    assert "\n" not in str(error.value)


def test_prefixes_are_shared_where_nothing_is_selected() -> None:
    assert all(parse_method(spec).prefix_stable for spec in ("quest", "snapkv"))
    assert not any(parse_method(spec).prefix_stable for spec in ("minference", "dca+xattention", "infllm"))


def test_a_likelihood_has_no_answer(tmp_path: Path) -> None:
    outcome = cli("run", "pg19", "--method", "dca+snapkv", "--seq-len", "256", "--output", tmp_path / "run")
    assert outcome.code == 2
    assert "dca+snapkv chooses the keys that an answer sees, and pg19 has none" in " ".join(outcome.err.split())
    require_answer(parse_method("dca+minference"), "pg19")
    with pytest.raises(UserError, match="quest chooses keys by their content, which no dense reference can check"):
        require_dense(parse_method("quest"))


@torch.no_grad()
def test_the_example_of_contributing() -> None:
    """Its code is run, and keeps what its docstring says."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "Lantern" in code)
    assert len(code.splitlines()) <= 40
    known = set(REGISTRY)
    try:
        exec(compile(code, "lantern", "exec", dont_inherit=True), {"__name__": "lantern"})
        model, n = zoo.llama(), 50
        layers: list[list[list[int]]] = []

        def expected(case: content_oracle.Case, budget: int, sinks: int, queries: int) -> list[list[int]]:
            votes = case.weights[:, n - queries :].mean(1).view(len(case.k), case.groups, n).mean(1)
            votes[:, :sinks] = 2
            kept = [sorted(content_oracle.highest(row.tolist(), budget)) for row in votes]
            layers.append(kept)
            return kept

        content_oracle.EVICTIONS["lantern"] = expected
        method = parse_method("dca:chunk_size=24,max_position=40+lantern:budget=20,queries=3")
        lengths = Lengths(zoo.PRETRAINING, n)
        ids, cache = zoo.tokens(1, n), DynamicCache()
        content_oracle.reference_logits(model, ids, method.resolve(lengths), lengths, n)
        cache.prompt_length = n
        with lcbench.extend(model, method, length=n):
            for a, b in ((0, 30), (30, 48), (48, n)):
                model(ids[:, a:b], past_key_values=cache)
        assert [layer.positions_BKN[0].tolist() for layer in cache.layers] == layers
    finally:
        content_oracle.EVICTIONS.pop("lantern", None)
        for name in REGISTRY.keys() - known:
            del REGISTRY[name]
