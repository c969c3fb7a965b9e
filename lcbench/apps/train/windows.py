"""Text to train on: files, folders and data sets, as windows of tokens.

Which window a step sees follows from the seed and the step alone, so that a run that was interrupted goes on with the
text that it would have seen. Documents are shuffled, tokenised until there is enough for the run, and cut; when all
windows were seen, they come again in another order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Windows:
    """Windows of `length` tokens of the texts; `needed` is the number of windows a run will take.

    Each text stands between the tokenizer's bos and eos (one token where both are the same). They are concatenated
    and cut wherever a window ends; with `within_documents`, each text is cut by itself, and what is left of
    it at its end is dropped.

    Raises: UserError if the texts are too short for a single window.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        *,
        needed: int,
        seed: int,
        within_documents: bool = False,
    ) -> None:
        import torch

        self.length, self.seed = length, seed
        windows: list[list[int]] = []
        rest: list[int] = []
        for index in _order(len(texts), seed):
            ids = rest + document(tokenizer, texts[index])
            end = len(ids) - len(ids) % length
            windows += [ids[begin : begin + length] for begin in range(0, end, length)]
            rest = [] if within_documents else ids[end:]
            if len(windows) >= needed:
                break
        if not windows:
            what = "none of the texts has" if within_documents else "the texts together have less than"
            raise UserError(f"{what} {length} tokens, one window; give longer ones, or train with a shorter length.")
        self._windows = torch.tensor(windows)
        self._round, self._ordered = 0, _order(len(windows), seed)

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, step: int, rows: int, process: int = 0, processes: int = 1) -> torch.Tensor:
        """The windows [rows, length] that one of the processes sees at a step (from 0)."""
        first = (step * processes + process) * rows
        return self._windows[[self._place(number) for number in range(first, first + rows)]]

    def _place(self, number: int) -> int:
        """The window with this number, counted over all rounds."""
        round_, place = divmod(number, len(self))
        if round_ != self._round:
            self._round, self._ordered = round_, _order(len(self), self.seed + round_)
        return self._ordered[place]


def document(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text between bos and eos, where the tokenizer has them; only one where both are the same
    token."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [*([] if bos is None else [bos]), *ids, *([] if eos in (None, bos) else [eos])]


def _order(count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)
