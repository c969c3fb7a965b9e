"""Expected attention: which keys later queries will attend to, if they are distributed like those of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, at_least
from lcbench.methods.content import Content, of_kv_heads
from lcbench.methods.eviction import Eviction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExpectedAttention(Eviction):
    """Each KV head keeps the first `n_sink` keys, and of the others those with the highest

        (softmax_j(mu . k_j scale + k_j . C k_j scale^2 / 2) + epsilon) |v_j|

    where mu and C are mean and covariance of the prompt's queries, without the first `n_sink`, before rotation, then
    rotated as the next `n_future_positions` queries are on average; mean over the query heads of a KV head.
    `use_covariance`, `use_vnorm`: whether C and |v| take part. `budget`, `compression_ratio`: how many keys, sinks
    included (`lcbench.methods.eviction`).
    Devoto et al., https://arxiv.org/abs/2510.00636; `ExpectedAttentionPress` of https://github.com/NVIDIA/kvpress
    (0.5.5), whose defaults these are. Under a plan of several pieces, a key has the positions of the piece that shows
    it to the first query after the prompt. A soft cap of scores does not take part.
    """

    name: ClassVar[str] = "expected_attention"
    n_future_positions: int = 512
    n_sink: int = 4
    use_covariance: bool = True
    use_vnorm: bool = True
    epsilon: float = 0.0

    def resolve(self, lengths: Lengths) -> ExpectedAttention:
        at_least(self.name, "n_future_positions", self.n_future_positions, 1)
        at_least(self.name, "n_sink", self.n_sink, 0)
        at_least(self.name, "epsilon", self.epsilon, 0)
        return super().resolve(lengths)

    def observe(self, content: Content, layer: int, seen: Any) -> tuple[int, Tensor, Tensor]:
        """Number of queries so far, their sum [H, D], and the sum of their outer products [H, D, D], in float64."""
        q_HTD = content.q_HTD[:, max(0, self.n_sink - content.first) :].double()
        count, total, outer = q_HTD.shape[1], q_HTD.sum(1), q_HTD.transpose(1, 2) @ q_HTD
        return (count, total, outer) if seen is None else (seen[0] + count, seen[1] + total, seen[2] + outer)

    def rate(self, content: Content, seen: Any) -> Tensor:
        if content.length <= self.n_sink:
            return content.v_KSD.new_zeros(content.v_KSD.shape[:2])
        scores_HS = self._scores(content, *seen)[:, self.n_sink :]
        rates = of_kv_heads(content, scores_HS.softmax(-1))
        if self.use_vnorm:
            rates = (rates + self.epsilon) * content.v_KSD[:, self.n_sink :].to(rates.dtype).norm(dim=-1)
        most = float(rates.max()) + 1
        return torch.nn.functional.pad(rates, (self.n_sink, 0), value=most)

    def _scores(self, content: Content, count: int, total_HD: Tensor, outer_HDD: Tensor) -> Tensor:
        """Logarithms of the expected weights [H, S], up to a constant."""
        mu_HD = total_HD / max(count, 1)
        cov_HDD = outer_HDD / max(count, 1) - mu_HD[:, :, None] * mu_HD[:, None]
        H, D = mu_HD.shape
        K, S = content.k_KSD.shape[:2]
        dtype = torch.promote_types(content.k_KSD.dtype, torch.float32)
        scores = content.k_KSD.new_zeros(K, H // K, S, dtype=dtype)
        for piece in content.plan(S, S + self.n_future_positions):
            start, stop = int(piece.start[0]), min(int(piece.stop[0]), S)
            if start >= stop:
                continue
            after = piece.q_pos[piece.start < piece.stop]
            units = torch.eye(D, dtype=dtype, device=mu_HD.device)[:, None].expand(D, len(after), D)
            turned_DD = content.turn(units, after).mean(1)  # row d: where channel d is turned to, on average
            k = content.turned_keys(piece, start, stop).to(dtype)[:, None]
            mu, cov = (mu_HD.to(dtype) @ turned_DD), turned_DD.T @ cov_HDD.to(dtype) @ turned_DD
            found = (k @ mu.view(K, -1, D, 1))[..., 0] * content.scale
            if self.use_covariance:
                found = found + ((k @ cov.view(K, -1, D, D)) * k).sum(-1) * (content.scale**2 / 2)
            holds = content.seen(piece.of_queries(slice(0, 1)), torch.arange(start, stop))[:, :, 0].to(found.device)
            scores[..., start:stop] = torch.where(holds, found, scores[..., start:stop])
        return scores.view(H, S)
