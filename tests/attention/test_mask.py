"""The mask is read off as a few integers, for causal and sliding-window attention, and refused for all others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    blockwise_overlay,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    packed_sequence_mask_function,
    sliding_window_causal_mask_function,
)

from lcbench.attention.mask import Span, span_mask
from lcbench.core.errors import UserError

Mask = Callable[..., Tensor]


def read(mask: Mask, queries: int, offset: int = 0, window: int | None = None) -> Span:
    return span_mask(1, queries, offset + queries, offset, mask, local_size=window)


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 20))
def test_sliding_windows_are_read(queries: int, offset: int, window: int) -> None:
    span = read(sliding_window_causal_mask_function(window), queries, offset, window)
    assert (span.q_offset, span.q_length, span.window, span.pads) == (offset, queries, window, (0,))
    assert read(causal_mask_function, queries, offset).window is None


@given(st.integers(2, 30), st.integers(0, 40), st.integers(2, 20), st.integers(-1, 1).filter(bool))
def test_a_window_of_another_size_is_refused(queries: int, offset: int, window: int, off_by: int) -> None:
    mask = sliding_window_causal_mask_function(window + off_by)
    if offset + queries > window + max(off_by, 0):  # else no query of the call reaches the border
        with pytest.raises(UserError, match="neither"):
            read(mask, queries, offset, window)


def image_block(first: int, last: int) -> Mask:
    """Tokens first..last see each other, in both directions."""
    ids = torch.full((1, 64), -1)
    ids[0, first:last] = 0
    return or_masks(causal_mask_function, blockwise_overlay(ids))


def documents(*lengths: int) -> Mask:
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    return packed_sequence_mask_function(numbers)


OTHERS: dict[str, tuple[Mask, int | None]] = {
    "bidirectional": (bidirectional_mask_function, None),
    "packed": (and_masks(causal_mask_function, documents(20, 10, 10)), None),
    "packed, one of a token": (and_masks(causal_mask_function, documents(39, 1)), None),
    "packed in windows": (and_masks(sliding_window_causal_mask_function(8), documents(20, 20)), 8),
    "chunks": (chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.long)), 16),
    "chunks, unsaid": (chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.long)), None),
    "an image": (image_block(10, 20), None),
    "an image of two tokens": (image_block(38, 40), None),
    "a window, unsaid": (sliding_window_causal_mask_function(8), None),
    "dilated": (and_masks(sliding_window_causal_mask_function(9), lambda b, h, q, k: (q - k) % 2 == 0), 9),
    "no window where one is said": (or_masks(causal_mask_function), 8),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_masks_are_refused(kind: str) -> None:
    mask, window = OTHERS[kind]
    with pytest.raises(UserError, match=r"this mask is neither \(packed sequences, or blocks\)"):
        read(mask, 40, window=window)


@pytest.mark.parametrize("kind", ["chunks", "dilated", "a window, unsaid", "no window where one is said"])
@pytest.mark.parametrize("offset", [20, 32, 33])
def test_other_masks_are_refused_while_decoding(kind: str, offset: int) -> None:
    mask, window = OTHERS[kind]
    with pytest.raises(UserError, match="neither"):
        read(mask, 1, offset, window)


def test_a_window_of_nothing_is_left_to_the_layers() -> None:
    """Qwen2-MoE makes it for sliding layers that it does not have."""
    assert read(sliding_window_causal_mask_function(0), 5, window=0).window == 0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_left_padding_is_counted(pads: list[int]) -> None:
    mask = torch.tensor([[0] * pad + [1] * (6 - pad) for pad in pads])
    span = span_mask(len(pads), 6, 6, attention_mask=mask.bool())
    assert span.pads == tuple(pads)
    assert span_mask(len(pads), 6, 6, attention_mask=span).pads == tuple(pads)  # a mask that was prepared before
