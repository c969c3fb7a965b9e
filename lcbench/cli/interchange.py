"""Runs from other harnesses, and to a hub: `import` and `push`. Heavy imports come late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcbench.cli.common import RESULTS
from lcbench.core import terminal

app = typer.Typer()


@app.command(name="import")
def import_logs(
    logs: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="samples_TASK_DATE.jsonl or results_DATE.json of lm-evaluation-harness, .eval or .json of inspect_ai.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; default: by the logs.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="The score that counts; default: the log's first.")
    ] = None,
    served_as: Annotated[
        str | None, typer.Option("--served-as", help="What was done to the model's attention, as `yarn:factor=4`.")
    ] = None,
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Length of the samples, where you know it: `8k`.")
    ] = None,
) -> None:
    """Make a run of another harness's sample logs, for `table`, `compare`, `report` and gates."""
    from lcbench.core.provenance import command
    from lcbench.core.specs import parse_seq_len
    from lcbench.engine.served import served_methods
    from lcbench.results.imported.run import default_folder, read_logs, write_run
    from lcbench.results.register import register

    (method,) = map(str, served_methods(served_as, None))
    length = None if seq_len is None else parse_seq_len(seq_len)
    tasks = read_logs(logs, metric)
    folder = output or default_folder(tasks, method, RESULTS)
    count = write_run(tasks, method, length, folder, command())
    register(RESULTS, folder)
    for task in tasks:
        terminal.say(f"{task.name}: {len(task.samples)} samples, {task.metric} counts")
    terminal.say(f"{count} records: {folder}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[str, typer.Option("--to", help="The data set, OWNER/NAME; made, and private, if there is none.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new data set public.")] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Push a run with samples that failed or are missing, too.")
    ] = False,
) -> None:
    """Upload a run's folder as a data set of the hub; the key comes from HF_TOKEN alone."""
    from lcbench.results.push import push as push_run

    terminal.say(push_run(run, to, public=public, incomplete=incomplete))
