"""What every plan owes the engine: disjoint pieces, borders that never go back, and its paper's relative positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lcbench.methods import Lengths, Method
from lcbench.methods.dca import DualChunkAttention
from lcbench.methods.pieces import Piece
from lcbench.methods.self_extend import SelfExtend
from lcbench.methods.streaming import Streaming
from tests.attention import oracle, strategies

LENGTHS = Lengths(pretraining=32, run=90)


def pieces_of(method: Method, first: int, last: int, first_key: int = 0) -> list[Piece]:
    return method.resolve(LENGTHS).pieces(torch.arange(first, last), torch.arange(first_key, last), 0)


@given(strategies.plans, strategies.calls())
@example(SelfExtend(group_size=3, neighbor_window=1), [1, 2, 50])
@example(DualChunkAttention(chunk_size=1, max_position=0), [7, 40])
@example(DualChunkAttention(chunk_size=20, max_position=19), [20, 40, 60])
@example(Streaming(sinks=12, window=3), [5, 60])
@example(Streaming(sinks=0, window=1), [30])
def test_pieces_mean_what_the_paper_says(method: Method, ends: list[int]) -> None:
    method = method.resolve(LENGTHS)
    rel, seen = oracle.matrices(oracle.plan(method), ends[-1])
    for a, b in zip([0, *ends], ends):
        shown = torch.zeros(b - a, b, dtype=torch.long)
        for piece in pieces_of(method, a, b):
            j = torch.arange(b)
            here = (j >= piece.start[:, None]) & (j < piece.stop[:, None])
            distance = (piece.q_pos[:, None] - piece.k_pos).double() / method.position_unit
            torch.testing.assert_close(distance[here], rel[a:b, :b][here], rtol=1e-12, atol=0)
            shown += here
        assert torch.equal(shown, seen[a:b, :b].long())  # never twice: the pieces are disjoint


@given(strategies.plans, strategies.calls())
def test_borders_never_go_back_and_every_query_sees_itself(method: Method, ends: list[int]) -> None:
    for a, b in zip([0, *ends], ends):
        pieces = pieces_of(method, a, b)
        for piece in pieces:
            assert (piece.start.diff() >= 0).all() and (piece.stop.diff() >= 0).all()
            assert (
                (piece.start >= 0).all()
                and (piece.start <= piece.stop).all()
                and (piece.stop <= torch.arange(a, b) + 1).all()
            )
            assert (piece.q_pos >= 0).all() and (piece.k_pos >= 0).all()
            assert all(x.dtype == torch.int64 for x in (piece.q_pos, piece.k_pos, piece.start, piece.stop))
            assert len(piece.q_pos) == len(piece.start) == len(piece.stop) == b - a and len(piece.k_pos) == b
        i = torch.arange(a, b)
        assert sum((piece.start <= i) & (i < piece.stop) for piece in pieces).eq(1).all()


@given(strategies.plans, st.integers(1, 60), st.integers(1, 30))
def test_key_positions_do_not_depend_on_where_the_keys_begin(method: Method, first_key: int, length: int) -> None:
    """A cache may have dropped its first keys."""
    last = first_key + length
    everything, rest = pieces_of(method, first_key, last), pieces_of(method, first_key, last, first_key)
    for piece, part in zip(everything, rest, strict=True):
        assert torch.equal(piece.k_pos[first_key:], part.k_pos) and torch.equal(piece.q_pos, part.q_pos)


@pytest.mark.parametrize("pretraining", [5, 7, 64, 4096])
def test_defaults_keep_positions_within_the_pretraining_length(pretraining: int) -> None:
    run = 4 * pretraining + 1
    lengths = Lengths(pretraining, run)
    i = torch.arange(run)
    for method in (SelfExtend(), DualChunkAttention(), DualChunkAttention(variant="chunkllama"), Streaming()):
        pieces = method.resolve(lengths).pieces(i, i, 0)
        farthest = max(
            int((piece.q_pos - piece.k_pos[piece.start])[piece.start < piece.stop].max()) for piece in pieces
        )
        assert farthest < pretraining, method
