"""How prompts of a run are asked and answered: what is refused before it starts, and what users should know."""

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
    """A note where the chat template is used because there is one. Raises: UserError for one that is asked for and
    missing, or for what only a chat has, without any."""
    in_chat = [task for task in tasks if task.format.in_chat(tokenizer)]
    typed = {name for request in requests for name, _ in request.format}
    for name, option in (("system", "--system"), ("chat_options", "--chat-option")):
        if name in typed and not in_chat:
            raise UserError(f"{option} is for prompts in a chat template, and none is in one here; leave it out.")
    chosen = dict.fromkeys(task.name for task in in_chat if task.format.chat == "auto")
    if not chosen:
        return []
    return [f"{', '.join(chosen)}: asked in the model's chat template; --chat off asks in plain text."]


def require_answers(task: Task) -> None:
    """Raises: UserError for a way to answer that cannot be."""
    if task.think_budget < 0 or task.repeats < 1:
        raise UserError(f"{task.name}: --think-budget must be at least 0, and --repeats at least 1.")
    if task.sampling:
        Sampling.parse(task.sampling)
    elif task.repeats > 1:
        raise UserError(f"{task.name}: all {task.repeats} repeats would be the same answer; give --sampling, too.")


def thinking_notes(tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A note where the prompt begins a thought that nothing leaves room for. Raises: UserError for a model that does
    not tell how its thoughts end, or a budget that no task takes."""
    for task in tasks:
        if task.thought_tokens:
            require_markers(task.name, tokenizer, task.think_end)
    if tasks and any(task.think_budget for task in tasks) and not any(task.thought_tokens for task in tasks):
        raise UserError("--think-budget is for tasks whose answers are generated; leave it out.")
    begun = [task.name for task in tasks if not task.thought_tokens and task.format.begins_thought(tokenizer)]
    if not begun:
        return []
    return [
        f"{', '.join(dict.fromkeys(begun))}: the chat template begins a thought, and the answer's budget is all that "
        "it has; give it more, as in --think-budget 2k."
    ]
