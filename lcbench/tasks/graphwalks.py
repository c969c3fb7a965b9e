"""GraphWalks: a list of directed edges, and the nodes that one step or a search of some depth reaches."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.tokens import encode_inside
from lcbench.metrics import example_numbers
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.ruler.base import encode_line
from lcbench.tasks.text.running_text import LINE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRIC = "graphwalks/opus46_fixed"
DIGITS = 10  # of a node's name
ASKED_AGAIN = 200  # operations drawn before answers count as too long
SPARE_TOKENS = 8  # in the answer, for a line break and an end token
SHRINK = 0.97  # factor on the number of nodes, as long as their edges do not fit

Edges = list[list[int]]  # by source: the targets, with repetitions


@dataclass(frozen=True, kw_only=True)
class GraphWalks(Task):
    """The graphs of openai/graphwalks, drawn here, since no generator is published: node i is named after the md5 of
    its number, every node has `degree` edges to nodes drawn with repetition, and edges are listed by source. Samples
    alternate between the two operations, a breadth-first search with a depth from 1 to `hops` from a random node (the
    nodes first reached at exactly that depth), and the parents of a random node (without itself).

    Prompt and answer together are exactly `seq_len` tokens: as many nodes as fit, then further edges of random nodes,
    then blank lines before the first edge. Operations whose answer exceeds `max_new_tokens` are drawn again; set it
    higher for models that think first. `template` contains `{edges}` and `{operation}`.

    Scores, from 0 to 100: `score` is F1 of the set, `exact` is 100 for the same set; see lcbench.metrics.graphwalks.
    """

    family: ClassVar[str] = "graphwalks"
    metric: ClassVar[str] = "score"

    template: str
    degree: int = 3
    hops: int = 3
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.template.count("{edges}") != 1 or self.template.count("{operation}") != 1:
            raise UserError(f"{self.name} says {{edges}} and {{operation}} once each in its template.")
        if min(self.degree, self.hops, self.max_new_tokens) < 1:
            raise UserError(f"{self.name} needs degree, hops and max_new_tokens from 1.")

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        rng, (before, after) = self.rng(cell, sample, seed), self.template.split("{edges}")
        head = self.format.start(tokenizer, before)
        longest = len(self.format.end(tokenizer, after.replace("{operation}", self._search(0, self.hops))))
        space = cell.seq_len - self.max_new_tokens - len(head) - longest - SPARE_TOKENS
        graph, lines = self._graph(cell, tokenizer, rng, space)
        operation, answer = self._operation(tokenizer, graph, rng, parents=sample % 2 == 1)
        tail = self.format.end(tokenizer, after.replace("{operation}", operation))
        body = list(chain.from_iterable(lines))
        left = cell.seq_len - self.max_new_tokens - len(head) - len(tail) - len(body)
        return Example(
            head=head,
            context=(encode_line(tokenizer, "\n") * left)[:left] + body,
            tail=tail,
            references=tuple(name_of(node) for node in answer),
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            details={"groups": {"operation": "parents" if sample % 2 else "bfs"}, "nodes": len(graph)},
        )

    @property
    def corpus_scorer(self) -> str:
        return METRIC

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return example_numbers(METRIC, prediction, list(example.references))

    def _graph(
        self, cell: Cell, tokenizer: PreTrainedTokenizerBase, rng: random.Random, space: int
    ) -> tuple[Edges, list[list[int]]]:
        """The largest graph whose lines fit into `space` tokens, and the token ids of its lines."""
        a_line = len(encode_all(tokenizer, [line_of(0, 1)], LINE)[0])
        nodes, state = space // (a_line * self.degree), rng.getstate()
        while nodes > 1:
            rng.setstate(state)
            graph = [[rng.randrange(nodes) for _ in range(self.degree)] for _ in range(nodes)]
            lines = encode_all(tokenizer, _lines(graph), LINE)
            left = space - sum(map(len, lines))
            if left >= 0:
                return self._filled_up(tokenizer, graph, lines, left, rng)
            nodes = min(nodes - 1, int(nodes * max(SHRINK, space / (space - left))))
        shortest = cell.seq_len - space + 2 * self.degree * a_line * 2
        raise UserError(f"{self.name} does not fit into {cell.seq_len} tokens; use --seq-len {shortest} or more.")

    def _filled_up(
        self, tokenizer: PreTrainedTokenizerBase, graph: Edges, lines: list[list[int]], left: int, rng: random.Random
    ) -> tuple[Edges, list[list[int]]]:
        """The graph with further edges of random nodes added until the next one does not fit."""
        by_source = [lines[start : start + self.degree] for start in range(0, len(lines), self.degree)]
        while True:
            source, target = rng.randrange(len(graph)), rng.randrange(len(graph))
            (line,) = encode_all(tokenizer, [line_of(source, target)], LINE)
            if len(line) > left:
                return graph, list(chain.from_iterable(by_source))
            graph[source].append(target)
            by_source[source].append(line)
            left -= len(line)

    def _operation(
        self, tokenizer: PreTrainedTokenizerBase, graph: Edges, rng: random.Random, *, parents: bool
    ) -> tuple[str, list[int]]:
        """An operation in words and the nodes that it results in, ascending."""
        for _ in range(ASKED_AGAIN):
            node, depth = rng.randrange(len(graph)), rng.randint(1, self.hops)
            found = parents_of(graph, node) if parents else reached(graph, node, depth)
            answer = f"\nFinal Answer: [{', '.join(map(name_of, found))}]"
            if len(encode_inside(tokenizer, answer)) <= self.max_new_tokens - SPARE_TOKENS:
                return f"Find the parents of node {name_of(node)}." if parents else self._search(node, depth), found
        raise UserError(f"{self.name}: answers have more than {self.max_new_tokens} tokens; increase max_new_tokens.")

    def _search(self, node: int, depth: int) -> str:
        return f"Perform a BFS from node {name_of(node)} with depth {depth}."


@cache
def name_of(node: int) -> str:
    """The name of a node: the first digits of the md5 of its decimal number."""
    return hashlib.md5(str(node).encode(), usedforsecurity=False).hexdigest()[:DIGITS]


def line_of(source: int, target: int) -> str:
    return f"{name_of(source)} -> {name_of(target)}\n"


def reached(graph: Edges, start: int, depth: int) -> list[int]:
    """The nodes that a breadth-first search first reaches after exactly `depth` steps, ascending."""
    seen, frontier = {start}, {start}
    for _ in range(depth):
        frontier = {target for node in frontier for target in graph[node]} - seen
        seen |= frontier
    return sorted(frontier)


def parents_of(graph: Edges, node: int) -> list[int]:
    """The nodes with an edge into a node, other than itself, ascending."""
    return [source for source, targets in enumerate(graph) if node in targets and source != node]


def _lines(graph: Edges) -> list[str]:
    return [line_of(source, target) for source, targets in enumerate(graph) for target in targets]
