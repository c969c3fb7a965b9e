"""The command line: one app for each module of verbs. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from lcbench import __version__
from lcbench.cli import (
    bench,
    calibrate,
    data,
    explain,
    interchange,
    listing,
    longppl,
    models,
    reports,
    run,
    train,
    tune,
)
from lcbench.cli.verb import Verb
from lcbench.core import terminal

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long-context evaluation of any Hugging Face rotary model, with any context-extension method.",
)
for verbs in (run, reports, interchange, longppl, listing, models, bench, calibrate, tune, explain):
    app.add_typer(verbs.app)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
for group in app.registered_groups:
    for verb in group.typer_instance.registered_commands if group.typer_instance else ():
        verb.cls = Verb


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before the command. `debug` is removed by lcbench.__main__ and declared here for the help only."""
    gc.enable()  # after the imports of lcbench.__main__
    if version:
        terminal.say(f"lcbench {__version__}")
        raise typer.Exit
