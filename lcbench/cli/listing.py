"""`lcbench list` and `lcbench show`: what can be named on the command line, and one prompt with its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.cli import names
from lcbench.cli.common import (
    RESULTS,
    ApplyChatOption,
    BosOption,
    ChatOption,
    ChatOptionOption,
    DepthOption,
    HaystackOption,
    ModelOption,
    RemoteCodeOption,
    RevisionOption,
    SeedOption,
    SystemOption,
    ThinkBudgetOption,
    prompt_format,
    with_haystack,
)
from lcbench.core import terminal
from lcbench.core.errors import UserError, unknown
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.tasks import Example

END = 800  # characters of a long prompt that are shown at either end
AROUND = 48  # tokens that are shown before the needle's start; twice as many after it
app = typer.Typer()


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task; options follow a colon.")],
    seq_len: Annotated[str, typer.Option("--seq-len", help="Length in tokens, answer included.")] = "4k",
    depth: DepthOption = None,
    haystack: HaystackOption = None,
    sample: Annotated[int, typer.Option(min=0, max=10**9, help="Number of the sample in its cell.")] = 0,
    chat: ChatOption = None,
    bos: BosOption = None,
    system: SystemOption = None,
    chat_option: ChatOptionOption = None,
    think_budget: ThinkBudgetOption = None,
    seed: SeedOption = None,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    apply_chat_template: ApplyChatOption = False,
    full: Annotated[bool, typer.Option("--full", help="Print the whole prompt.")] = False,
) -> None:
    """Show one prompt with its exact token counts; needs only the tokenizer."""
    from lcbench.core.specs import parse_seq_len
    from lcbench.tasks import Cell, load_task

    length = parse_seq_len(seq_len)
    format_ = dict(
        prompt_format(chat, chat_option, apply=apply_chat_template, bos=bos, system=system, think_budget=think_budget)
    )
    loaded = load_task(with_haystack(task, haystack)).asked(**format_).for_lengths([length])
    source = ModelSource(model, revision, trust_remote_code=trust_remote_code)
    source.checkpoint.check_exists()
    loaded.require_data()
    tokenizer = source.tokenizer()
    example = loaded.fitted(Cell(length, depth), sample, tokenizer, seed or 0)
    text = str(tokenizer.decode(example.prompt))
    if not full and len(text) > 2 * END:
        text = _shortened(text, _around_needle(example, tokenizer))
    terminal.say(text)
    asked = ", in the chat template" if loaded.format.in_chat(tokenizer) else ""
    asked += f", and {loaded.thought_tokens} for a thought" if loaded.thought_tokens else ""
    terminal.say(f"{_counts(example)}, seed {example.seed}{asked}", err=True)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, models or runs; or task and its NAME.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show the protocols and options of this task.")
    ] = None,
) -> None:
    """List what can be named on the command line."""
    if what in ("task", "tasks") and name is not None:
        names.task(terminal.console(), name)
        return
    if what == "task":
        raise UserError("name the task, as in `lcbench list task passkey`; `lcbench list tasks` shows all.")
    if name is not None:
        raise UserError(f"`lcbench list {what}` takes no name; only `lcbench list task NAME` does.")
    kinds = {"methods": names.methods, "tasks": names.tasks, "models": names.models, "runs": names.runs}
    if what not in kinds:
        raise unknown("list", what, kinds)
    kinds[what](terminal.console(), RESULTS)


def _shortened(text: str, needle: tuple[int, str] | None) -> str:
    """Both ends of a prompt, and what surrounds the needle (its first character, and the text) where they lack it."""
    left = f"[... {len(text) - 2 * END:,} characters more: --full ...]"
    if needle is None or needle[0] < END or needle[0] + len(needle[1]) > len(text) - END:
        return f"{text[:END]}\n{left}\n{text[-END:]}"
    return f"{text[:END]}\n{left}\n{needle[1]}\n[... the needle is above ...]\n{text[-END:]}"


def _around_needle(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[int, str] | None:
    """The place of the text around the needle in the prompt, in characters, and that text."""
    if example.needle_at is None:
        return None
    start = max(example.needle_at - AROUND, 0)
    before, until = (str(tokenizer.decode(example.prompt[:n])) for n in (start, example.needle_at + 2 * AROUND))
    return len(before), until[len(before) :]


def _counts(example: Example) -> str:
    """The parts of an example and their lengths in tokens."""
    parts = f"head {len(example.head)} + context {len(example.context)}"
    if example.reading:
        windows = example.reading.windows
        scored, several = sum(window.stop - window.first for window in windows), "s" if len(windows) > 1 else ""
        return (
            f"{parts} = {len(example.prompt)} tokens of {example.reading.document!r}, {len(windows)} window{several}, "
            f"{scored} tokens scored, protocol {example.reading.protocol}"
        )
    at = "" if example.depth is None else f", needle at depth {example.depth:.3f}"
    total = len(example.prompt) + example.max_new_tokens
    return (
        f"{parts} + tail {len(example.tail)} + answer {example.max_new_tokens} = {total} tokens{at}, "
        f"answer {', '.join(map(repr, example.references))}"
    )
