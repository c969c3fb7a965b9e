"""The usable samples of a task: how many there are, and which rows of its data cannot be used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lcbench.core.errors import LeftOutError, RowError, UserError, brief
from lcbench.run.requests import Request
from lcbench.tasks import Cell, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_SAMPLES = 1_000_000  # per cell: more than any task has, and few enough to enumerate
ROWS_SHOWN = 3  # unusable rows named in a note
ROWS_TRIED = 3  # rows tried before a task or a length is refused
SECONDS_TRIED = 1.0  # after which no further row is tried


def samples_of(request: Request, task: Task, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of samples per cell: the requested one, else the task's default or the size of its data if smaller."""
    available = task.available(tokenizer)
    if available is not None and request.samples is not None and request.samples > available:
        raise UserError(
            f"{task.name} has only {available} samples, not {brief(request.samples)}; pass fewer --samples."
        )
    samples = request.samples or (task.samples if available is None else min(task.samples, available))
    if samples > MOST_SAMPLES:
        raise UserError(f"{task.name} cannot have more than {MOST_SAMPLES:,} samples per cell; pass fewer --samples.")
    return samples


def problems_note(task: Task, problems: dict[int, str], samples: int) -> list[str]:
    """A note on the rows that cannot be used. Raises: UserError if none can."""
    if not problems:
        return []
    reasons = list(problems.values())
    if len(problems) == samples:
        raise UserError(
            reasons[0] if samples == 1 else f"{task.name}: none of {samples} rows can be used; {reasons[0]}"
        )
    shown = "; ".join(reason.rstrip(".") for reason in reasons[:ROWS_SHOWN])
    more = f"; and {len(problems) - ROWS_SHOWN} more" * (len(problems) > ROWS_SHOWN)
    return [f"{task.name}: {len(problems)} of {samples} rows cannot be used, and their samples fail: {shown}{more}."]


def require_example(task: Task, cell: Cell, usable: list[int], tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """Build one of the first usable samples of a cell, so that errors of the task or the length show before a model is
    loaded. Raises: UserError if none of them can be built."""
    refusal: RowError | None = None
    end = time.monotonic() + SECONDS_TRIED
    for sample in usable[:ROWS_TRIED]:
        try:
            task.fitted(cell, sample, tokenizer, seed)
        except LeftOutError:
            return  # later rows are checked when they are built
        except RowError as error:
            refusal = refusal or error
            if time.monotonic() > end:
                break
        else:
            return
    if refusal:
        raise refusal
