"""The page of the atlas: each method once, in the section of what it changes, with a figure and a table a task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.atlas import FAMILIES, main, page
from benchmarks.atlas_costs import cost_curves
from lcbench.core.errors import UserError
from lcbench.methods import Method, all_methods, parse_method
from lcbench.methods.base import CONTENT
from lcbench.results.report.runs import read_runs
from lcbench.run.requests import read_requests
from tests.compared import cell, save

SECTIONS = {
    "Position plans": ["self_extend", "dca:mscale=0.1"],
    "RoPE scalings": ["yarn", "ntk+logn"],
    "Windows, sinks and memory": ["streaming", "fot:memory_layers=[1]", "duo_attention:full_heads=[1:0]"],
    "Score scalings": ["logn"],
    "Chosen by content": ["ntk+logn+quest", "snapkv:budget=64"],
}
PLANS = {"Chosen by content": ["ntk+logn"]}  # of other families, shown beside what stands on them


@pytest.fixture
def run(tmp_path: Path) -> Path:
    methods = ["vanilla", *(method for members in SECTIONS.values() for method in members)]
    records = [
        record
        for method in reversed(methods)
        for seq_len in (256, 512)
        for record in cell([1.0, 0.0, 1.0], method=method, seq_len=seq_len)
    ]
    return save(tmp_path / "run", records, pretraining_length=256, model="lcbench-tiny")


def test_every_method_stands_in_its_family_beside_vanilla(run: Path) -> None:
    text, figures = page(read_runs([run]), "methods")
    sections = dict(zip(FAMILIES, re.split(r"^## .*$", text, flags=re.MULTILINE)[2:], strict=True))
    for family, members in SECTIONS.items():
        rows = re.findall(r"^\| `(\S+)` \|", sections[family], re.MULTILINE)
        assert sorted(rows) == sorted(["vanilla", *PLANS.get(family, []), *members]) and rows[0] == "vanilla"
        assert re.search(r"!\[passkey, .*\]\(methods/\w+-passkey\.svg\)", sections[family])
    assert len(figures) == 2 * len(SECTIONS)  # scores, and what they cost


def test_page_and_figures_are_written(tmp_path: Path) -> None:
    run = save(tmp_path / "run", [*cell([1.0]), *cell([0.0], method="yarn")], pretraining_length=256)
    main([run], tmp_path / "methods.md")
    text = (tmp_path / "methods.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((methods/\S+\.svg)\)", text)
    assert len(named) == 2
    assert all((tmp_path / name).read_text(encoding="utf-8").lstrip().startswith("<?xml") for name in named)


def test_costs_are_cpu_time_a_token_and_memory(tmp_path: Path) -> None:
    """Half a second of the prompt's 250 tokens, a quarter of the answer's 5 behind the first, on .8 of a processor."""
    cost = {"prefill_seconds": 0.5, "decode_seconds": 0.25, "cpu_seconds": 0.6, "peak_memory_bytes": 300 * 2**20}
    records = [*cell([1.0, 0.0], cost=cost), *cell([1.0], method="yarn"), *cell([1.0], task="other", cost=cost)]
    (run,) = read_runs([save(tmp_path / "run", records, pretraining_length=256)])
    found = {
        one.task: {name: rows[0].mean for name, rows in one.methods.items()} for one in cost_curves(run, "passkey")
    }
    assert found == {
        "passkey: prefill": {"vanilla": pytest.approx(1600)},
        "passkey: decode": {"vanilla": pytest.approx(40_000)},
        "passkey: peak memory": {"vanilla": 300, "yarn": pytest.approx(300)},
    }


def test_models_of_other_lengths_share_no_page(run: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", cell([1.0]), pretraining_length=512)
    with pytest.raises(UserError, match="same trained length"):
        page(read_runs([run, other]), "methods")


def test_a_family_has_no_table_of_a_task_that_it_is_not_asked(tmp_path: Path) -> None:
    records = [
        *cell([1.0]),
        *cell([1.0], method="quest"),
        *cell([1.0], task="pg19"),
        *cell([0.0], task="pg19", method="yarn"),
    ]
    text, _ = page(read_runs([save(tmp_path / "run", records, pretraining_length=256)]), "methods")
    assert re.findall("^### (.*)$", text, re.MULTILINE) == ["RoPE scalings: pg19", "Chosen by content: passkey"]


def test_the_suite_asks_the_same_methods_everywhere() -> None:
    requests, defaults = read_requests("atlas")
    asked: dict[str, list[str]] = {}
    for request in requests:
        asked.setdefault(request.task, []).extend(request.methods or ())
    methods = {name: parse_method(name) for names in asked.values() for name in names}
    plain = [name for name, method in methods.items() if not method.hooks & CONTENT]
    chosen = [name for name in methods if name not in plain]
    assert defaults["model"] == "lcbench-tiny" and "vanilla" in plain
    assert asked == {
        "passkey": plain + chosen,
        "needle": plain + chosen,
        "needle:protocol=codes_64": plain,
        "pg19": plain,
    }
    own = [kind for kind in all_methods().values() if kind.__module__.startswith("lcbench.")]
    looking = {kind.name for kind in own if any(getattr(kind, hook) is not getattr(Method, hook) for hook in CONTENT)}
    assert looking == {methods[name].label.split("+")[-1] for name in chosen}
    points = [(request.samples or 0) * len(request.depths or [0]) for request in requests]
    assert points == [50] * len(requests)
