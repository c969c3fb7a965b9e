"""The verbs that read runs and write reports; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcbench.cli.common import RESULTS, EffectiveOption, require_folder, write_output
from lcbench.core import terminal
from lcbench.core.collections import without_collections

app = typer.Typer()

DifferenceOption = Annotated[
    str | None,
    typer.Option("--difference", metavar="METHOD", help="Show paired differences of the methods from this one."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


@app.command()
@without_collections()
def table(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of runs; default: the newest.")
    ] = None,
    run: Annotated[list[Path] | None, typer.Option("--run", help="The same, as an option.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, markdown, latex, csv or json.")] = "text",
    effective: EffectiveOption = 0.856,
) -> None:
    """Show results of one or more runs: methods by lengths, headline numbers, the best in bold if beyond noise."""
    from lcbench.core.errors import unknown
    from lcbench.results.report.overview import overview
    from lcbench.results.report.runs import read_runs
    from lcbench.results.report.tables import FORMATS, WRITERS, print_tables

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    found = read_runs([*(runs or ()), *(run or ())] or [_newest()])
    shown = overview(found, effective, grouped=True)
    for line in shown.remarks:
        terminal.say(f"note: {line}", err=True)
    if format == "text":
        print_tables(terminal.console(), shown.published, shown.trained, shown.headlines)
    else:
        terminal.say(WRITERS[format](shown.published, shown.trained, shown.headlines), end="")


@app.command()
def plot(
    task: Annotated[str, typer.Argument(help="A task of the run, e.g. `needle` or `pg19`.")],
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="Folder of a run; repeatable; default: the newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG, SVG or PDF by its suffix; default: a PNG in the run's folder.")
    ] = None,
    difference: DifferenceOption = None,
) -> None:
    """Draw all methods of one or more runs, in the terminal and in a file: depth by length, or score by length."""
    from lcbench.results.report import curves, heatmap
    from lcbench.results.report.difference import differences as differences_of
    from lcbench.results.report.difference import print_differences
    from lcbench.results.report.difference_figure import draw as draw_differences
    from lcbench.results.report.figure import save
    from lcbench.results.report.longppl import longppl_of
    from lcbench.results.report.longppl import side_by_side as longppl_of_all
    from lcbench.results.report.runs import differences, read_runs, side_by_side, trained_length

    require_folder(out)
    folders = run or [_newest()]
    found = read_runs(folders)
    for line in differences(found):
        terminal.say(f"note: {line}", err=True)
    trained, model = trained_length(found), ", ".join(dict.fromkeys(str(each.identity.model) for each in found))
    read = side_by_side(found)
    name = task.partition(":")[0].replace("/", "_")
    path = out or folders[0] / f"{name}{'' if difference is None else '-difference'}.png"
    if difference is not None:
        paired = differences_of(read, task, difference)
        save(draw_differences(paired, trained, model), path)
        print_differences(terminal.console(), paired, trained)
        terminal.say(f"figure: {path}", err=True)
        return
    identities = [record.identity for record in read.records]
    if any(one.cell_depth is not None for one in identities if task in (one.task, one.task.partition(":")[0])):
        maps = heatmap.heatmaps(read.records, task)
        save(heatmap.draw(maps, trained, model), path)
        heatmap.print_heatmaps(terminal.console(), maps, trained)
    else:
        known, unread = longppl_of(found)
        for line in unread:
            terminal.say(f"note: {line}", err=True)
        drawn = curves.curves(read, task, longppl_of_all(known, found, read.name))
        save(curves.draw(drawn, trained, model), path)
        curves.print_curves(terminal.console(), drawn, trained)
    terminal.say(f"figure: {path}", err=True)


@app.command()
@without_collections()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Folder of the baseline run.")],
    new: Annotated[
        Path | None, typer.Argument(metavar="[NEW]", help="Folder of the new run; with --pair, default: BASE.")
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", help="Compare method A of BASE with method B of NEW: `vanilla=dca`; repeatable."),
    ] = None,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression", help="Exit with 1 if a cell regressed or is missing in NEW, or NEW is unfinished."
        ),
    ] = False,
    alpha: Annotated[float, typer.Option(help="Probability of any false verdict on scores, over all cells.")] = 0.05,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Ignore drops that are certainly smaller: a share of the full score, e.g. 0.02, or nats per token."
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, e.g. for a CI job summary.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, one test case per cell.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option(help="A cell regressed if its time grew by more than this factor, e.g. 1.2."),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(help="A cell regressed if its memory grew by more than this factor, e.g. 1.2."),
    ] = None,
) -> None:
    """Compare the same samples of two runs, cell by cell: did anything get worse?

    Exit codes: 0; with --fail-on-regression 1 if a cell regressed or NEW is unfinished; 2 invalid input.
    """
    from lcbench.core.errors import UserError
    from lcbench.results.compare import Limits
    from lcbench.results.compare import compare as compare_runs
    from lcbench.results.report.comparison import markdown as as_markdown
    from lcbench.results.report.comparison import print_comparison
    from lcbench.results.report.comparison_html import page
    from lcbench.results.report.comparison_junit import junit as as_junit

    if new is None and not pair:
        raise UserError(f"name the run to compare {base} with, or two methods of it, as --pair vanilla=dca.")
    new = new or base
    if not 0 < alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, not {alpha:g}.")
    if tolerance is not None and not 0 < tolerance < 1:
        raise UserError(f"--tolerance must be a share of the full score, such as 0.02, not {tolerance:g}.")
    for option, limit in (("--max-slowdown", max_slowdown), ("--max-memory", max_memory)):
        if limit is not None and not limit > 0:
            raise UserError(f"{option} must be a ratio above 0, not {limit:g}; 1.2 allows a fifth more.")
    files = {
        "--markdown": (markdown, as_markdown, ".md"),
        "--junit": (junit, as_junit, ".xml"),
        "--html": (html, page, ".html"),
    }
    for path, _, suffix in files.values():
        require_folder(path, suffix)
    comparison = compare_runs(base, new, alpha, Limits(max_slowdown, max_memory), pair or (), tolerance)
    print_comparison(terminal.console(), comparison)
    for option, (path, render, _) in files.items():
        if path:
            write_output(path, render(comparison), option)
    if fail_on_regression and (comparison.having("regressed") or comparison.new.missing):
        raise typer.Exit(1)
    if fail_on_regression and not any(cell.effect for cell in comparison.cells):
        raise UserError(f"no cell of {new} can be compared with {base} (see above); make a new BASE.")


@app.command()
@without_collections()
def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of runs; default: the newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML page to write; default: report.html in the first run's folder.")
    ] = None,
    effective: EffectiveOption = 0.856,
    difference: DifferenceOption = None,
) -> None:
    """Write a self-contained HTML page: headline numbers, scores, heatmaps, curves, cost, and every sample."""
    from lcbench.results.report.html.report import page

    require_folder(out, ".html", ".htm")
    folders = runs or [_newest()]
    path = out or folders[0] / "report.html"
    write_output(path, page(folders, effective, difference), "--out")
    terminal.say(f"report: {path}", err=True)


@app.command()
def rescore(
    run: RunArgument,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="YAML file of a task that does not ship with lcbench.")
    ] = None,
) -> None:
    """Score the recorded predictions again with the current metrics; needs no model."""
    from lcbench.results.rescore import rescore as rescore_run

    result = rescore_run(run, task or ())
    for id, (before, now) in result.changed.items():
        terminal.say(f"{id}: {_number(before)} -> {_number(now)}")
    terminal.say(f"{len(result.changed)} of {result.samples} scores changed")


@app.command()
@without_collections()
def export(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: RUN/records.parquet.")] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Send to an experiment tracker instead: wandb, mlflow, trackio.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Project or experiment of the tracker; default: lcbench.")
    ] = None,
) -> None:
    """Write a run as Parquet, one row per sample, for pandas and datasets; or send its scores to a tracker."""
    from lcbench.core.errors import UserError
    from lcbench.results.export import export as export_run

    if to is not None:
        from lcbench.results.trackers import track

        if out is not None:
            raise UserError("--to sends a run to a tracker, and --out writes a file; pass only one of them.")
        for name in track(run, to, project or "lcbench"):
            terminal.say(f"{to}: {name}")
        return
    if project is not None:
        raise UserError("--project names a project of a tracker; add --to wandb, mlflow or trackio.")
    require_folder(out, ".parquet")
    path = out or run / "records.parquet"
    rows = export_run(run, path)
    terminal.say(f"{rows} row{'' if rows == 1 else 's'}: {path}")


def _newest() -> Path:
    """The newest run; its name is shown, since nobody typed it. Raises: UserError if there is none."""
    from lcbench.results.register import newest_known_run

    folder = newest_known_run(RESULTS)
    terminal.say(f"run: {folder}", err=True)
    return folder


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:g}"
