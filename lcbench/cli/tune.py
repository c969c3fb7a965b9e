"""The verb `lcbench tune`. Everything heavy is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.cli.common import (
    RESULTS,
    DeviceOption,
    DtypeOption,
    ModelOption,
    OutputOption,
    OwnSeedOption,
    RemoteCodeOption,
    RevisionOption,
)
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lcbench.tasks import Task

app = typer.Typer()


@app.command()
def tune(
    method: Annotated[
        str, typer.Argument(help="E.g. `self_extend` or `dca+yarn`; options given here are kept as they are.")
    ],
    seq_len: Annotated[str, typer.Option("--seq-len", help="Length in tokens, e.g. `8k`, answer included.")],
    task: Annotated[str, typer.Option("--task", help="The task the candidates are scored on.")] = "passkey",
    budget: Annotated[
        int, typer.Option("--budget", min=1, max=10**7, help="Samples in total, of which a quarter is held out.")
    ] = 1000,
    model: ModelOption = DEFAULT_MODEL,
    seed: OwnSeedOption = 1000,
    output: OutputOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
) -> None:
    """Find a method's best options for a model, a task and a length; the same command resumes.

    Exit codes: 0 done, 2 invalid input.
    """
    from lcbench.core.specs import parse_seq_len
    from lcbench.methods import Lengths, parse_method
    from lcbench.tasks import load_task

    parse_method(method)
    length, asked = parse_seq_len(seq_len), load_task(task)
    source = ModelSource(model, revision, dtype, device, trust_remote_code)
    source.check()
    asked.require_data()

    from lcbench.apps.tune.candidates import candidates
    from lcbench.apps.tune.draw import draw
    from lcbench.apps.tune.halving import schedule
    from lcbench.apps.tune.search import Search
    from lcbench.apps.tune.show import show
    from lcbench.methods.trained_length import trained_length
    from lcbench.results.register import register
    from lcbench.results.report.figure import save
    from lcbench.run.plan import make_plan
    from lcbench.run.progress import PlainProgress, TerminalProgress
    from lcbench.run.requests import Request

    every = candidates(method, Lengths(trained_length(source.config()), length))
    rounds = schedule(len(every), budget, len(asked.cells([length], None)))
    _require_samples(asked, rounds.all_samples, source.tokenizer())
    request = Request(task, tuple(map(str, every)), (length,), samples=rounds.all_samples)
    plan = make_plan(source, [request], seed)
    for note in plan.notes:
        terminal.say(f"note: {note}", err=True)
    folder = output or plan.default_output(RESULTS)
    register(RESULTS, folder)
    console, errors = terminal.console(), terminal.console(stderr=True)
    found = Search(plan, folder, rounds).run(
        lambda: TerminalProgress(errors) if errors.is_terminal else PlainProgress(errors),
        lambda text: terminal.say(f"note: {text}", err=True),
    )
    title = f"{method} for {asked.name} at {length:,} tokens, {source.label}: {len(every)} candidates"
    show(console, found, title)
    save(draw(found, title), folder / "tune.png")
    terminal.say(f"records: {folder}\nfigure: {folder / 'tune.png'}", err=True)


def _require_samples(task: Task, samples: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: UserError for a task of rows that has fewer."""
    available = task.available(tokenizer)
    if available is not None and available < samples:
        raise UserError(
            f"{task.name} has {available} samples at this length, and this search would need up to {samples}; pass a "
            "smaller --budget."
        )
