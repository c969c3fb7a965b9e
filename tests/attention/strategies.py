"""What hypothesis draws: methods with sensible and with odd options, and ways to cut a run into calls."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from lcbench.methods import Method
from lcbench.methods.dca import DualChunkAttention
from lcbench.methods.fot import FocusedTransformer
from lcbench.methods.leaky_rerope import LeakyReRoPE
from lcbench.methods.lm_infinite import LMInfinite
from lcbench.methods.logn import LogN
from lcbench.methods.pi import PositionInterpolation
from lcbench.methods.rerope import ReRoPE
from lcbench.methods.self_extend import SelfExtend
from lcbench.methods.streaming import Streaming
from lcbench.methods.string import String
from lcbench.methods.tri_shape import TriShape
from lcbench.methods.vanilla import Vanilla
from lcbench.methods.yarn import YaRN

sizes = st.integers(min_value=1, max_value=40)


@st.composite
def _dca(draw: st.DrawFn) -> DualChunkAttention:
    """Clamps from the last position of a chunk (no room past it) to beyond two chunks (never reached)."""
    chunk = draw(sizes)
    clamp = chunk - 1 + draw(st.integers(0, chunk + 3))
    mscale = draw(st.sampled_from([0.0, 0.1]))
    variant = draw(st.sampled_from(["paper", "chunkllama"]))
    return DualChunkAttention(chunk_size=chunk, max_position=clamp, mscale=mscale, variant=variant)


@st.composite
def _fot(draw: st.DrawFn) -> FocusedTransformer:
    """Windows of two tokens and more, in layer 0 with memory or without, and prompts shorter than what they start."""
    variant = draw(st.sampled_from(["longllama", "streaming"]))
    context = 1 + draw(sizes)
    return FocusedTransformer(
        memory_layers=draw(st.sampled_from([(), (0,), (1,), (0, 1)])),
        context_length=context,
        last_context_length=draw(st.integers(1, context - (variant == "streaming"))),
        prompt_length=draw(st.integers(1, 120)),
        variant=variant,
        mem_positionals=draw(st.booleans()),
    )


@st.composite
def _string(draw: st.DrawFn) -> String:
    shift = draw(sizes)
    return String(shift, draw(st.integers(0, shift)), draw(st.sampled_from([1.0, 1.1])))


_tri_shape = st.builds(
    TriShape, sinks=st.integers(0, 12), window=sizes, dense=st.integers(0, 30), prompt_length=st.integers(1, 120)
)
plans: st.SearchStrategy[Method] = st.one_of(
    st.just(Vanilla()),
    st.builds(SelfExtend, group_size=st.integers(1, 9), neighbor_window=sizes, log_scale_base=st.sampled_from([0, 5])),
    _dca(),
    _fot(),
    st.builds(ReRoPE, window=sizes),
    st.builds(Streaming, sinks=st.integers(0, 12), window=sizes),
    st.builds(LeakyReRoPE, window=sizes, k=st.integers(1, 6)),
    st.builds(LMInfinite, sinks=st.integers(0, 12), window=sizes),
    _string(),
    _tri_shape,
)
scalings: st.SearchStrategy[Method] = st.one_of(
    st.builds(PositionInterpolation, factor=st.floats(1, 8)),
    st.builds(YaRN, factor=st.floats(1, 8), truncate=st.booleans()),
)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    """A plan, sometimes with a RoPE scaling, sometimes with a score scaling."""
    method = draw(plans)
    if draw(st.booleans()):
        method = method + draw(scalings)
    if "score_scale" not in method.hooks and draw(st.booleans()):
        method = method + LogN(base=draw(st.floats(4, 30)))
    return method


@st.composite
def calls(draw: st.DrawFn, longest: int = 90) -> list[int]:
    """Where each call of a run ends; the last number is the length of the run."""
    return sorted(set(draw(st.lists(st.integers(1, longest), min_size=1, max_size=5))))


@st.composite
def borders(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Any start and stop that never go back, or the same moves again and again, as from chunk to chunk; some queries
    may see nothing."""
    steps = st.sampled_from([(0, 0), (0, 1), (1, 1), (3, 3), (2, 0), (0, 5), (7, 1)])
    moves = []
    for _ in range(draw(st.integers(1, 8))):
        rows = draw(st.integers(0, 11))
        moves += ([draw(steps)] + [draw(steps)] * rows) * draw(st.integers(1, 4))
    start = torch.tensor([move[0] for move in moves]).cumsum(0)
    stop = torch.tensor([move[1] for move in moves]).cumsum(0) + draw(st.integers(0, 6))
    return start, torch.maximum(start, stop)
