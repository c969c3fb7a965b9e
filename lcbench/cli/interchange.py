"""`lcbench import` reads other harnesses' logs; `lcbench push` uploads a run. Heavy imports come late."""

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
        Path | None, typer.Option("--output", "-o", help="Folder of the run; default: named after the logs.")
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="The score to use; default: the log's first.")] = None,
    served_as: Annotated[
        str | None, typer.Option("--served-as", help="The method the model was run with, e.g. `yarn:factor=4`.")
    ] = None,
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Length of the samples in tokens, if you know it: `8k`.")
    ] = None,
) -> None:
    """Turn another harness's sample logs into a run, for `table`, `compare`, `report` and CI gates."""
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
        terminal.say(f"{task.name}: {len(task.samples)} samples, scored by {task.metric}")
    terminal.say(f"{count} records: {folder}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[str, typer.Option("--to", help="The data set, OWNER/NAME; created as private if missing.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new data set public.")] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also push a run with failed or missing samples.")
    ] = False,
) -> None:
    """Upload a run's folder as a data set on the hub; the token is read from HF_TOKEN only."""
    from lcbench.results.push import push as push_run

    terminal.say(push_run(run, to, public=public, incomplete=incomplete))
