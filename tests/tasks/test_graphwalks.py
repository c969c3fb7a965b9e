"""GraphWalks, generated: the published form, exact lengths, answers that another search finds too."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, Example, load_task
from lcbench.tasks.graphwalks import name_of, parents_of, reached
from tests.helpers import cli, records_of
from tests.tokenizers import STYLES, build


def read(example: Example, style: str) -> tuple[list[tuple[str, str]], str]:
    """The edges of a prompt in their order, and its operation."""
    text = str(build(style).decode(example.prompt, skip_special_tokens=True))
    before, _, rest = text.rpartition("The graph has the following edges:\n")
    body, _, after = rest.partition("Operation:\n")
    assert before.endswith("Here is the graph to operate on:\n")
    return re.findall(r"^(\w+) -> (\w+)$", body, re.M), after.partition("\n")[0]


def answer_of(edges: list[tuple[str, str]], operation: str) -> set[str]:
    if found := re.fullmatch(r"Find the parents of node (\w+)\.", operation):
        return {source for source, target in edges if target == found[1] != source}
    found = re.fullmatch(r"Perform a BFS from node (\w+) with depth (\d)\.", operation)
    assert found
    targets = defaultdict(set)
    for source, target in edges:
        targets[source].add(target)
    steps = {found[1]: 0}
    queue = [found[1]]
    for node in queue:
        for target in targets[node] - steps.keys():
            steps[target] = steps[node] + 1
            queue.append(target)
    return {node for node, step in steps.items() if step == int(found[2])}


@pytest.mark.parametrize("style", STYLES)
def test_the_length_is_exact_and_the_answer_right(style: str) -> None:
    task = load_task("graphwalks")
    for sample in range(4):
        example = task.example(Cell(5000), sample, build(style), 0)
        assert len(example.prompt) + example.max_new_tokens == 5000
        edges, operation = read(example, style)
        assert operation.startswith(("Perform", "Find")[sample % 2])
        assert answer_of(edges, operation) == set(example.references)
        assert example.details["groups"] == {"operation": ("bfs", "parents")[sample % 2]}
        sources = list(dict.fromkeys(source for source, _ in edges))
        assert sources == [name_of(node) for node in range(len(sources))] and len(sources) == example.details["nodes"]
        assert edges == sorted(edges, key=lambda edge: sources.index(edge[0]))
        assert {edges.count(edge) for edge in edges} and min(
            sum(source == one for source, _ in edges) for one in sources
        ) == 3


def test_operations_by_hand() -> None:
    graph = [[1, 3], [2, 0], [2, 4], [4, 1], [0, 3]]  # the public form: repetitions and self-loops occur
    assert reached(graph, 0, 1) == [1, 3] and reached(graph, 0, 2) == [2, 4] and reached(graph, 0, 3) == []
    assert parents_of(graph, 2) == [1] and parents_of(graph, 4) == [2, 3]
    assert [name_of(node) for node in range(3)] == ["cfcd208495", "c4ca4238a0", "c81e728d9d"]


def test_scores_and_the_shortest_length() -> None:
    task, tokenizer = load_task("graphwalks"), ModelSource().tokenizer()
    example = task.example(Cell(3000), 1, tokenizer, 0)
    right = f"Final Answer: [{', '.join(example.references)}]\n"
    assert task.score(example, right)["score"] == 100.0 and task.score(example, "no")["score"] == 0.0
    with pytest.raises(UserError, match=r"use --seq-len (\d+)") as refusal:
        task.example(Cell(700), 0, tokenizer, 0)
    shortest = int(re.search(r"--seq-len (\d+)", str(refusal.value))[1])  # type: ignore[index]
    assert len(task.example(Cell(shortest), 0, tokenizer, 0).prompt) == shortest - 256
    with pytest.raises(UserError, match="increase max_new_tokens"):
        load_task("graphwalks:max_new_tokens=9").example(Cell(3000), 0, tokenizer, 0)
    denser = load_task("graphwalks:degree=5,hops=1").example(Cell(3000), 0, tokenizer, 0)
    assert denser.details["nodes"] < example.details["nodes"]


def test_the_prompt_is_the_published_one() -> None:
    text = str(
        ModelSource().tokenizer().decode(load_task("graphwalks").example(Cell(2000), 0, build("lcbench-tiny"), 0).head)
    )
    assert "perform on the graph. \nYour job is" in text and "(not nodes at intermediate depths), and do not" in text


def test_it_runs(tmp_path: Path) -> None:
    done = cli("run", "graphwalks:max_new_tokens=80", "--seq-len", "1500", "--samples", "2", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    for record in records_of(tmp_path / "run").values():
        assert record["scorer"] == "graphwalks/opus46_fixed" and "readme_literal" in record["scores"]
