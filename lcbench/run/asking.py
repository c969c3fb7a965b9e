"""Checks and notes on how a run's prompts are formatted and answered, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError
from lcbench.core.thinking import require_markers
from lcbench.engine.sampling import Sampling
from lcbench.run.requests import Request
from lcbench.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def format_notes(requests: Sequence[Request], tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A note if the chat template is used because the tokenizer has one. Raises: UserError if one is requested and
    missing, or if an option of chats is given without any."""
    in_chat = [task for task in tasks if task.format.in_chat(tokenizer)]
    typed = {name for request in requests for name, _ in request.format}
    for name, option in (("system", "--system"), ("chat_options", "--chat-option")):
        if name in typed and not in_chat:
            raise UserError(f"{option} is for prompts in a chat template, and no task here uses one; leave it out.")
    chosen = dict.fromkeys(task.name for task in in_chat if task.format.chat == "auto")
    if not chosen:
        return []
    return [f"{', '.join(chosen)}: uses the model's chat template; --chat off sends plain text."]


def require_answers(task: Task) -> None:
    """Raises: UserError for impossible options of the answers."""
    if task.think_budget < 0 or task.repeats < 1:
        raise UserError(f"{task.name}: --think-budget must be at least 0, and --repeats at least 1.")
    if task.sampling:
        Sampling.parse(task.sampling)
    elif task.repeats > 1:
        raise UserError(f"{task.name}: all {task.repeats} repeats would be the same answer; pass --sampling, too.")


def thinking_notes(tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A note if the prompt begins a thought that has no budget of its own. Raises: UserError for a model whose end of a
    thought is unknown, or for a budget that no task takes."""
    for task in tasks:
        if task.thought_tokens:
            require_markers(task.name, tokenizer, task.think_end)
    if tasks and any(task.think_budget for task in tasks) and not any(task.thought_tokens for task in tasks):
        raise UserError("--think-budget is for tasks whose answers are generated; leave it out.")
    begun = [task.name for task in tasks if not task.thought_tokens and task.format.begins_thought(tokenizer)]
    if not begun:
        return []
    return [
        f"{', '.join(dict.fromkeys(begun))}: the chat template begins a thought, which shares the answer's "
        "budget; give it its own, e.g. --think-budget 2k."
    ]
