"""The methods that look at queries and keys once more, as their papers write them: explicit masks, in float64.

A mask says which key each query head lets each query see. Only a method's name and options are read here, never its
hooks; everything is computed at once for prompt and answer, without a cache, blocks, or tiles.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lcbench.attention.backends.reference import reference_attention, reference_scores
from lcbench.attention.probe import attention_set_to, probe, unrotated
from lcbench.methods import Lengths, Method
from tests.attention import oracle

NAME = "lcbench-test-content"
FIRST, NEAREST = 30, 100  # keys and diagonals that MInference's code always takes


@dataclass
class Case:
    """One row in one layer: un-rotated q [H, N, D], k and v [K, N, D] of prompt and answer, in float64; which keys the
    plan shows [N, N]; the scores [H, N, N] of all pairs; the length n of the prompt; and how the layer turns."""

    q: Tensor
    k: Tensor
    v: Tensor
    shown: Tensor
    scores: Tensor
    n: int
    layer: int
    inv_freq: Tensor
    scale: float
    plan: Method
    sinks: Tensor | None = None  # logits [H] that take part in each softmax

    @property
    def heads(self) -> int:
        return self.q.shape[0]

    @property
    def groups(self) -> int:
        return self.q.shape[0] // self.k.shape[0]

    @cached_property
    def weights(self) -> Tensor:
        """Attention weights [H, n, n] within the prompt."""
        n = self.n
        exponentials = self.scores[:, :n, :n].masked_fill(~self.shown[:n, :n], -math.inf).exp()
        sinks = 0 if self.sinks is None else self.sinks.double().exp()[:, None, None]
        return exponentials / (exponentials.sum(-1, keepdim=True) + sinks)

    def turned(self, x: Tensor, position: float | Tensor) -> Tensor:
        """Vectors [..., D] at a position, or at one [...] each; channels m and m + M turn together."""
        M = len(self.inv_freq)
        angle = torch.as_tensor(position)[..., None] * self.inv_freq.double()
        a, b = x[..., :M], x[..., M : 2 * M]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

    def chunks_back(self, i: int, j: int) -> int:
        """The piece of dca in which a key meets a query; 0 under every other plan here."""
        return 0 if self._dca is None else min(2, i // self._dca["chunk_size"] - j // self._dca["chunk_size"])

    def query_position(self, i: int, chunks_back: int) -> int:
        if self._dca is None:
            return i
        s, c = self._dca["chunk_size"], self._dca["max_position"]
        return [i % s, min(i % s + s, c), min(2 * s - 1, c)][chunks_back]

    def key_position(self, j: int) -> int:
        return j if self._dca is None else j % self._dca["chunk_size"]

    @cached_property
    def _dca(self) -> dict[str, Any] | None:
        return next((part.options() for part in oracle.parts(self.plan) if part.name == "dca"), None)


def highest(numbers: list[float], count: int) -> list[int]:
    """The places of the highest numbers; of equal ones the first."""
    return sorted(range(len(numbers)), key=lambda place: (-numbers[place], place))[:count]


def _count(n: int, budget: int | None, compression_ratio: float | None) -> int:
    return min(budget, n) if budget is not None else max(1, int(n * (1 - compression_ratio)))


def knorm(case: Case, budget: int | None, compression_ratio: float | None) -> list[list[int]]:
    count = _count(case.n, budget, compression_ratio)
    return [highest([-float((k[j] ** 2).sum() ** 0.5) for j in range(case.n)], count) for k in case.k]


def snapkv(
    case: Case,
    budget: int | None,
    compression_ratio: float | None,
    window_size: int,
    kernel_size: int,
    pooling: str,
) -> list[list[int]]:
    count, first = _count(case.n, budget, compression_ratio), max(0, case.n - window_size)
    weights, kept = case.weights, []
    reach = kernel_size // 2
    for kv_head in range(len(case.k)):
        votes = [0.0] * first
        for head in range(kv_head * case.groups, (kv_head + 1) * case.groups):
            mean = [float(weights[head, first:, j].mean()) for j in range(first)]
            for j in range(first):
                near = mean[max(0, j - reach) : j + reach + 1]
                votes[j] += sum(near) / kernel_size if pooling == "avgpool" else max(near)
        window = list(range(case.n - 1, first - 1, -1))[:count]
        kept.append(window + highest(votes, count - len(window)))
    return kept


def h2o(case: Case, budget: int | None, compression_ratio: float | None, recent_share: float) -> list[list[int]]:
    count = _count(case.n, budget, compression_ratio)
    recent, kept = int(recent_share * count), []
    for kv_head in range(len(case.k)):
        of_head = case.weights[kv_head * case.groups : (kv_head + 1) * case.groups]
        sums = [float(of_head[:, :, j].sum()) for j in range(case.n - recent)]
        kept.append(highest(sums, count - recent) + list(range(case.n - recent, case.n)))
    return kept


def expected_attention(
    case: Case,
    budget: int | None,
    compression_ratio: float | None,
    n_future_positions: int,
    n_sink: int,
    use_covariance: bool,
    use_vnorm: bool,
    epsilon: float,
) -> list[list[int]]:
    """The rotation as a matrix, averaged over the future queries that meet any key as the first of them meets this."""
    n, units = case.n, torch.eye(case.q.shape[-1], dtype=torch.float64)
    count = _count(n, budget, compression_ratio)
    shares = torch.zeros(case.heads, n - n_sink, dtype=torch.float64)
    future = range(n, n + n_future_positions)
    rotations = {}
    for back in {case.chunks_back(n, j) for j in range(n_sink, n)}:
        met = [i for i in future if back in {case.chunks_back(i, j) for j in range(i + 1)}]
        matrices = [case.turned(units, case.query_position(i, back)).T for i in met]
        rotations[back] = torch.stack(matrices).mean(0)
    for head in range(case.heads):
        queries = case.q[head, n_sink:n]
        for back, R in rotations.items():
            mu, cov = R @ queries.mean(0), R @ torch.cov(queries.T, correction=0) @ R.T
            for j in (j for j in range(n_sink, n) if case.chunks_back(n, j) == back):
                key = case.turned(case.k[head // case.groups, j], case.key_position(j))
                shares[head, j - n_sink] = mu @ key * case.scale
                if use_covariance:
                    shares[head, j - n_sink] += key @ cov @ key * case.scale**2 / 2
    rates = shares.softmax(-1).view(len(case.k), case.groups, -1).mean(1)
    if use_vnorm:
        rates = (rates + epsilon) * case.v[:, n_sink:n].norm(dim=-1)
    sinks = list(range(n_sink))[:count]
    return [sinks + [n_sink + j for j in highest(row.tolist(), count - len(sinks))] for row in rates]


def minference(
    case: Case, pattern: str, vertical_size: int, slash_size: int, last_q: int, block_size: int
) -> Iterator[tuple[int, int, int]]:
    """Pairs (head, i, j) that are seen."""
    n, weights = case.n, case.weights.tolist()
    for head in range(case.heads):
        if pattern == "a_shape":
            keys, diagonals = range(vertical_size), range(slash_size)
        else:
            vertical, slash = [0.0] * n, [0.0] * n
            for i in range(max(0, n - last_q), n):
                for j in range(i + 1):
                    vertical[j] += weights[head][i][j]
                    slash[i - j] += weights[head][i][j]
            keys = highest([math.inf if j < FIRST else vertical[j] for j in range(n)], vertical_size)
            diagonals = highest([math.inf if d < NEAREST else slash[d] for d in range(n)], slash_size)
        apart = {whole for d in diagonals for whole in (d // block_size, -(-d // block_size))}
        for i in range(n):
            for j in range(i + 1):
                if j in keys or i // block_size - j // block_size in apart or i // block_size == j // block_size:
                    yield head, i, j


def xattention(case: Case, stride: int, threshold: float, block_size: int) -> Iterator[tuple[int, int, int]]:
    n, groups = case.n, -(-case.n // stride)
    blocks, scores = -(-n // block_size), case.scores.tolist()
    for head in range(case.heads):
        mass = torch.zeros(blocks, blocks, dtype=torch.float64)
        for g in range(groups):
            row = []
            for h in range(g + 1):
                pairs = [(g * stride + stride - 1 - s, h * stride + s) for s in range(stride)]
                row.append(sum(scores[head][i][j] for i, j in pairs if i < n and j < n) / stride)
            for h, weight in enumerate(torch.tensor(row, dtype=torch.float64).softmax(-1).tolist()):
                mass[g * stride // block_size, h * stride // block_size] += weight
        for m in range(blocks):
            seen, order = {0, m}, highest(mass[m].tolist(), blocks)
            for block in order:
                if float(mass[m, sorted(seen)].sum()) >= threshold * float(mass[m].sum()):
                    break
                seen.add(block)
            for i in range(m * block_size, min((m + 1) * block_size, n)):
                yield from ((head, i, j) for j in range(i + 1) if j // block_size in seen)


def quest(case: Case, i: int, page_size: int, token_budget: int, skip_layers: int) -> list[list[int]]:
    """The keys that a query of the answer sees, of each KV head."""
    if case.layer < skip_layers:
        return [list(range(i + 1))] * len(case.k)
    own, kept = i // page_size, []
    for kv_head, keys in enumerate(case.k):
        bounds = []
        for page in range(own):
            bound = -math.inf
            inside = list(range(page * page_size, (page + 1) * page_size))
            turned = case.turned(keys[inside], torch.tensor([case.key_position(j) for j in inside]))
            low, high = turned.amin(0), turned.amax(0)
            for back in {case.chunks_back(i, j) for j in inside}:
                queries = case.turned(case.q[kv_head * case.groups :][: case.groups, i], case.query_position(i, back))
                bound = max(bound, float(torch.maximum(queries * low, queries * high).sum(-1).max()))
            bounds.append(bound)
        pages = [*highest(bounds, token_budget // page_size - 1), own]
        kept.append([j for j in range(i + 1) if j // page_size in pages])
    return kept


def infllm(
    case: Case, n_init: int, n_local: int, topk: int, block_size: int, repr_topk: int, exc_block_size: int
) -> Iterator[tuple[range, list[int]]]:
    """Queries that choose together, and the keys that they do not see."""
    n, N = case.n, case.q.shape[1]
    for begin in [*range(0, n, exc_block_size), *range(n, N)]:
        together = range(begin, min(begin + exc_block_size, n) if begin < n else begin + 1)
        blocks, rates = [], []
        for first in range(n_init, begin - n_local - block_size + 1, block_size):
            block, rate = range(first, first + block_size), 0.0
            for head in range(case.heads):
                sums = [float(case.scores[head, j : j + n_local, j].sum()) for j in block]
                for j in (block[place] for place in highest(sums, repr_topk)):
                    rate += float(case.scores[head, together, j].sum())
            blocks.append(block)
            rates.append(rate)
        left_out = highest([-rate for rate in rates], max(0, len(blocks) - topk))
        yield together, [j for place in left_out for j in blocks[place]]


EVICTIONS: dict[str, Callable[..., list[list[int]]]] = {
    "knorm": knorm,
    "snapkv": snapkv,
    "h2o": h2o,
    "expected_attention": expected_attention,
}
SELECTIONS = {"minference": minference, "xattention": xattention}


def mask(case: Case, method: Method) -> Tensor:
    """Which pairs [H, N, N] are seen."""
    n, N = case.n, case.q.shape[1]
    seen = case.shown.repeat(case.heads, 1, 1)
    for part in oracle.parts(method):
        if part.name in EVICTIONS:
            for kv_head, kept in enumerate(EVICTIONS[part.name](case, **part.options())):
                gone = [j for j in range(n) if j not in kept]
                seen[kv_head * case.groups : (kv_head + 1) * case.groups, n:, gone] = False
        if part.name in SELECTIONS:
            selected = torch.zeros_like(seen)
            for head, i, j in SELECTIONS[part.name](case, **part.options()):
                selected[head, i, j] = True
            seen[:, :n] &= selected[:, :n]
        if part.name == "infllm":
            for together, gone in infllm(case, **part.options()):
                seen[:, together.start : together.stop, gone] = False
        if part.name == "quest":
            for i in range(n, N):
                for kv_head, kept in enumerate(quest(case, i, **part.options())):
                    gone = [j for j in range(N) if j not in kept]
                    seen[kv_head * case.groups : (kv_head + 1) * case.groups, i, gone] = False
    return seen


@torch.no_grad()
def reference_logits(model: PreTrainedModel, ids: Tensor, method: Method, lengths: Lengths, n: int) -> Tensor:
    """Logits [B, N, vocabulary] of a prompt of n tokens and the answer after it, under a resolved method."""
    model = copy.deepcopy(model).double()
    layers = probe(model)

    def attend(
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **extra: Any,
    ) -> tuple[Tensor, None]:
        layer, index, N = layers[module], int(module.layer_idx), q.shape[2]
        inv_freq, factor = oracle._layer_rope(layer, method, lengths)
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        relative = oracle.plan(method, index, n) if layer.window is None else oracle.within(layer.window)
        rel, shown = oracle.matrices(relative, N)
        every = torch.tensor([[relative(i, j) or 0.0 for j in range(N)] for i in range(N)], dtype=torch.float64)
        full = layer.window is None
        options = {
            "pairing": layer.rope.pairing,
            "attention_factor": factor,
            "scale": scale,
            "score_scale_T": oracle.score_scale(method, N, lengths, index) if full else None,
            "softcap": extra.get("softcap"),
        }
        seen = shown
        if full:
            scores = reference_scores(q, k, every, inv_freq, **options)
            cases = [
                Case(q[b], k[b], v[b], shown, scores[b], n, index, inv_freq, scale, method, extra.get("s_aux"))
                for b in range(len(q))
            ]
            seen = torch.stack([mask(case, method) for case in cases])
        out = reference_attention(q, k, v, rel, seen, inv_freq, sinks_H=extra.get("s_aux"), **options)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    with contextlib.ExitStack() as stack:
        stack.enter_context(attention_set_to(model, NAME))
        stack.enter_context(unrotated(model))
        return model(ids, use_cache=False).logits
