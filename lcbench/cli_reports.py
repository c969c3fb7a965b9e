"""The verbs that read runs and write reports; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


@app.command()
def table(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of runs; default: newest.")
    ] = None,
    run: Annotated[list[Path] | None, typer.Option("--run", help="The same, as an option.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, markdown, latex, csv or json.")] = "text",
) -> None:
    """Show the results of one run or several: methods by lengths, the best in bold unless within noise."""
    from lcbench.cli import RESULTS
    from lcbench.errors import unknown
    from lcbench.records import newest_run
    from lcbench.report.summary import differences, read_runs, summarise_runs, trained_length
    from lcbench.report.tables import FORMATS, WRITERS, print_tables

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    found = read_runs([*(runs or ()), *(run or ())] or [newest_run(RESULTS)])
    rows, trained = summarise_runs(found), trained_length(found)
    for line in differences(found):
        typer.echo(f"note: {line}", err=True)
    if format == "text":
        print_tables(Console(), rows, trained)
    else:
        typer.echo(WRITERS[format](rows, trained), nl=False)


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Folder of the run to compare with.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the run in question.")],
    fail_on_regression: Annotated[
        bool,
        typer.Option("--fail-on-regression", help="Exit with 1 if a cell regressed, or NEW lacks one that BASE has."),
    ] = False,
    alpha: Annotated[float, typer.Option(help="Chance of any false verdict on scores, over all cells.")] = 0.05,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, as for a CI's job summary.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a test case a cell.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that opens from disk.")] = None,
    max_slowdown: Annotated[
        float | None, typer.Option(help="A cell that takes more than this many times the time regressed, as 1.2.")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(help="A cell that needs more than this many times the memory regressed, as 1.2.")
    ] = None,
) -> None:
    """Did anything get worse? The same samples of two runs, compared cell by cell.

    Exit codes: 0, or with --fail-on-regression 1 if a cell regressed; 2 something to mend, as nothing to compare.
    """
    from lcbench.compare import Limits
    from lcbench.compare import compare as compare_runs
    from lcbench.errors import UserError
    from lcbench.report.comparison import markdown as as_markdown
    from lcbench.report.comparison import print_comparison
    from lcbench.report.comparison_html import page
    from lcbench.report.comparison_junit import junit as as_junit

    if not 0 < alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, not {alpha:g}.")
    for option, limit in (("--max-slowdown", max_slowdown), ("--max-memory", max_memory)):
        if limit is not None and not limit > 0:
            raise UserError(f"{option} must be a ratio above 0, not {limit:g}; 1.2 allows a fifth more.")
    files = {"--markdown": (markdown, as_markdown), "--junit": (junit, as_junit), "--html": (html, page)}
    for path, _ in files.values():
        require_folder(path)
    comparison = compare_runs(base, new, alpha, Limits(max_slowdown, max_memory))
    print_comparison(Console(), comparison)
    for option, (path, render) in files.items():
        if path:
            _write(path, render(comparison), option)
    if fail_on_regression and comparison.having("regressed"):
        raise typer.Exit(1)
    if fail_on_regression and len(comparison.having("not comparable")) == len(comparison.cells):
        raise UserError(f"no cell of {new} can be compared with {base} (see above); make a new BASE.")


@app.command()
def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of runs; default: newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default: report.html in the (first) run's folder.")
    ] = None,
) -> None:
    """Write one page that opens from disk: scores, heatmaps, curves, cost, and every sample to filter and sort."""
    from lcbench.cli import RESULTS
    from lcbench.records import newest_run
    from lcbench.report.html.report import page

    require_folder(out)
    folders = runs or [newest_run(RESULTS)]
    path = out or folders[0] / "report.html"
    _write(path, page(folders), "--out")
    typer.echo(f"report: {path}", err=True)


@app.command()
def rescore(
    run: RunArgument,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="YAML file of a task that does not ship with lcbench.")
    ] = None,
) -> None:
    """Score the recorded predictions again with today's metrics; needs no model."""
    from lcbench.rescore import rescore as rescore_run

    result = rescore_run(run, task or ())
    for id, (before, now) in result.changed.items():
        typer.echo(f"{id}: {_number(before)} -> {_number(now)}")
    typer.echo(f"{len(result.changed)} of {result.samples} scores changed")


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: RUN/records.parquet.")] = None,
) -> None:
    """Write a run as Parquet, one row a sample, for pandas and datasets."""
    from lcbench.export import export as export_run

    require_folder(out)
    path = out or run / "records.parquet"
    rows = export_run(run, path)
    typer.echo(f"{rows} row{'' if rows == 1 else 's'}: {path}")


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:g}"


def require_folder(path: Path | None) -> None:
    """Raises: UserError for a file to write, if there is one, whose folder is not there; before any work is done."""
    from lcbench.errors import UserError

    if path is not None and not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first.")


def _write(path: Path, text: str, option: str) -> None:
    from lcbench.errors import UserError
    from lcbench.records import write_atomically

    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; pass another {option}.") from error
