"""`lcbench data`: prepare data sets, and list them. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.core import terminal
from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from lcbench.data.prepare import Outcome
    from lcbench.data.source import DataSet, Licence

TERMS = {"allowed": "", "forbidden": ", commercial use forbidden", "unclear": ", commercial use not granted"}
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prepare the data that tasks read.",
)


@app.command()
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in `lcbench data list`: scrolls/qasper, scrolls, all.")
    ],
    path: Annotated[
        Path | None, typer.Option("--from", help="Use local copies of the source's files, not the Hugging Face hub.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace prepared data if the source has changed.")] = False,
) -> None:
    """Convert data to the local schema, from the Hugging Face hub or a local copy of the source's files.

    The same command resumes what was not finished.

    Exit codes: 0 done, 1 some data sets failed, 2 invalid input.
    """
    from lcbench.data.scripts import data_sets

    wanted = data_sets(name)
    if path:
        wanted = _found_below(path, name, wanted)
    failed = 0
    for data_set in wanted:
        try:
            _prepare(data_set, path, update)
        except UserError as error:
            if len(wanted) == 1:
                raise
            failed += 1
            terminal.say(f"{data_set.name}: error: {error}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command(name="list")
def list_() -> None:
    """List the data sets with their licences and the number of prepared rows."""
    from rich import box
    from rich.table import Table

    from lcbench.data.scripts import data_sets
    from lcbench.data.store import data_root, read_manifest

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("data", "what it is", "prepared", "licence"):
        table.add_column(column, overflow="fold")
    for data_set in data_sets("all"):
        manifest = read_manifest(data_root() / data_set.name)
        rows = "" if manifest is None else _counts(manifest.rows)
        table.add_row(data_set.name, data_set.description, rows, _terms(data_set.licence))
    console = terminal.console()
    console.print(table)
    console.print(f"prepared data: {data_root()}", markup=False, highlight=False, soft_wrap=True)


def _found_below(path: Path, name: str, wanted: list[DataSet]) -> list[DataSet]:
    """The data sets of a source that have files in a local copy of it. Raises: UserError if it has none."""
    from lcbench.data.prepare import local_files

    if name == "all":
        raise UserError("--from takes the files of one source; name that instead of `all`.")
    files = local_files(wanted, path)
    absent = [name for name in files if not files[name]]
    if absent:
        terminal.say(f"note: {path} has no file of {', '.join(absent)}", err=True)
    return [data_set for data_set in wanted if files[data_set.name]]


def _prepare(data_set: DataSet, path: Path | None, update: bool) -> None:
    from lcbench.data.prepare import prepare as prepare_data

    outcome = prepare_data(data_set, path, update=update)
    note = f" ({data_set.licence.note})" if data_set.licence.note else ""
    terminal.say(f"{data_set.name}: {_summary(outcome)}: {outcome.folder}")
    terminal.say(f"  licence: {_terms(data_set.licence)}{note}")
    for task, splits in _tasks_without_split(data_set.name, outcome.manifest.rows).items():
        missing = " and ".join(splits)
        terminal.say(
            f"warning: {task} reads the split {missing}, which {path or 'the source'} does not have.", err=True
        )


def _tasks_without_split(name: str, rows: Mapping[str, int]) -> dict[str, list[str]]:
    """The tasks that read this data set and lack a split of it, with the splits."""
    from lcbench.tasks import read_yaml, task_files

    found = {}
    for task in task_files():
        content = read_yaml(task)[1]
        if content.get("data") == name:
            wanted = [content.get("split", "validation")]
            wanted += [content.get("shots_split", "train")] if content.get("shots") else []
            if missing := [split for split in dict.fromkeys(wanted) if not rows.get(split)]:
                found[task] = missing
    return found


def _summary(outcome: Outcome) -> str:
    documents = outcome.manifest.documents
    counts = f"{_counts(outcome.manifest.rows)}{f', documents {documents:,}' if documents else ''}"
    return counts if outcome.fresh else f"prepared already, {counts}"


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in rows.items())


def _terms(licence: Licence) -> str:
    return f"{licence.name}{TERMS[licence.commercial]}"
