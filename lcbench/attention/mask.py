"""The attention mask as a few integers (offset, length, padding, window) instead of an n x n tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor

from lcbench.core.errors import UserError


@dataclass(eq=False)
class Span:
    """The mask of one forward call, as `transformers` passes it to every layer of one type.

    Queries are the positions q_offset <= t < q_offset + q_length of the sequence, padding included; `pads` is the
    number of padding positions at the left of each row; `window` is the model's own sliding window, or None.
    """

    q_offset: int
    q_length: int
    pads: tuple[int, ...]
    window: int | None
    block: object = field(default=None)  # the steered block that it belongs to, set by the first layer

    @cached_property
    def rows(self) -> list[tuple[slice, int]]:
        """Slices of neighbouring rows with equal padding, and their padding."""
        ends = [n for n in range(1, len(self.pads)) if self.pads[n] != self.pads[n - 1]]
        return [(slice(a, b), self.pads[a]) for a, b in pairwise([0, *ends, len(self.pads)])]

    @cached_property
    def whole(self) -> bool:
        """Whether all rows of the batch are one slice, and none of their queries is padding."""
        return len(self.rows) == 1 and self.pads[0] <= self.q_offset

    # generate() treats a mask prepared for a static cache as a tensor, as far as these two:
    ndim = 0

    def contiguous(self) -> Span:
        return self

    def __getitem__(self, index: tuple[Any, ...]) -> Span:
        """The mask of the last queries, sliced as a mask [B, H, T, S] would be: Gemma 4's last layers, which compute no
        keys, run only for the queries whose logits are needed.

        Raises: UserError for another slice.
        """
        rest, queries = tuple(one for n, one in enumerate(index) if n != 2), range(self.q_length)[index[2]]
        if len(index) != 4 or set(map(str, rest)) != {str(slice(None))} or queries[-1:] != range(self.q_length)[-1:]:
            raise UserError(
                "this model slices its attention mask other than to its last queries, which lcbench does not support"
            )
        return replace(self, q_offset=self.q_offset + queries.start, q_length=len(queries))

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        """Raises: UserError if another attention function gets this mask: gradient checkpointing recomputes a forward
        pass outside its block, or the model bypasses the attention interface."""
        raise UserError(
            "this attention mask was made for lcbench and is used outside its block; call backward() inside the block."
        )


def span_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | Span | None = None,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Span:
    """The mask function that is registered with `transformers` beside the attention function.

    `mask_function` None is causal attention. A mask with a window of 0 tokens is accepted, since Qwen2-MoE without
    sliding-window layers makes one that no layer uses.

    Raises: UserError for anything but causal attention, with or without a sliding window, over left-padded rows.
    """
    from transformers.masking_utils import causal_mask_function  # imports PyTorch's compiler, as models do

    if mask_function not in (None, causal_mask_function) and local_size != 0:
        assert mask_function is not None
        _check_is_sliding_window(mask_function, batch_size, q_length, int(q_offset), local_size, device)
    return Span(int(q_offset), q_length, _left_pads(attention_mask, batch_size, int(q_offset) + q_length), local_size)


def _left_pads(attention_mask: Tensor | Span | None, batch_size: int, length: int) -> tuple[int, ...]:
    if attention_mask is None:
        return (0,) * batch_size
    if isinstance(attention_mask, Span):
        return attention_mask.pads
    if attention_mask.shape[-1] < length:
        raise UserError(
            f"this attention_mask covers {attention_mask.shape[-1]} of {length} tokens; pass it for the whole "
            "sequence, cached tokens included."
        )
    if (attention_mask.long().diff(dim=-1) < 0).any():
        raise UserError("lcbench supports left padding only; this attention_mask has padding to the right or holes.")
    return tuple((~attention_mask.bool()).sum(-1).expand(batch_size).tolist())


def _check_is_sliding_window(
    mask_function: Callable[..., Any],
    batch_size: int,
    q_length: int,
    q_offset: int,
    window: int | None,
    device: torch.device | str,
) -> None:
    """Evaluate the mask at both edges of the window, for every query of the call.

    This tells causal sliding windows from the other masks of transformers: packed sequences (the first query of a
    document does not see the token before it), chunked attention, bidirectional blocks.
    """
    b = torch.arange(batch_size, device=device)[:, None]
    head = torch.zeros((), dtype=torch.long, device=device)
    q = torch.arange(q_length, device=device) + q_offset

    def sees(queries: Tensor, keys: Tensor) -> Tensor:
        return torch.as_tensor(mask_function(b, head, queries[None], keys[None]))

    reach = q_offset + q_length if window is None else window
    past = q[q >= reach]
    right = (
        sees(q, q).all()
        and sees(q, (q - min(1, reach - 1)).clamp(min=0)).all()
        and sees(q, (q - reach + 1).clamp(min=0)).all()
        and not sees(past, past - reach).any()
        and not sees(q[:-1], q[:-1] + 1).any()
    )
    if not right:
        raise UserError(
            "lcbench steers causal and sliding-window attention; this mask is neither (packed sequences, or blocks)."
        )
