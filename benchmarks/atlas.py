"""The atlas of methods: what each does at 1 to 16 times the trained length, from the records of the suite `atlas`.

    lcbench run atlas --output results/atlas
    python -m benchmarks.atlas results/atlas --out docs/methods.md

One page, a section a family, a curve a method; in a family methods stand in the order of the suite, ranked by nothing.
Figures are SVG files in a folder beside the page, of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.atlas_claims import CLAIMS
from benchmarks.atlas_costs import cost_curves
from benchmarks.claims import LEGEND, table, verdicts
from lcbench.core.errors import UserError
from lcbench.methods import Lengths, Method, parse_method
from lcbench.methods.base import CONTENT, Composition, compose
from lcbench.results.outputs import write_output
from lcbench.results.report.curves import Curves, curves, draw
from lcbench.results.report.figure import save
from lcbench.results.report.runs import Run, differences, read_runs, side_by_side, trained_length
from lcbench.results.report.summary import TableRow, by_task, summarise_runs
from lcbench.results.report.table_page import markdown

BASELINE = "vanilla"
FAMILIES = {
    "Position plans": "Which distance a query and a key stand at; every key is seen.",
    "RoPE scalings": "How fast the channels turn.",
    "Windows, sinks and memory": "Which keys a query sees at all.",
    "Score scalings": "How sharp attention is.",
    "Chosen by content": "What it looks at is chosen by content, each beside the plan that it stands on.",
}
ABOUT_CLAIMS = """On small models, which retrieve by matching, without tuning. Most papers speak of larger ones, some of
tuned ones, and are not refuted by what does not show here. Scores are shares of right answers."""
COSTLY = "passkey"  # the task whose costs are drawn
LONGER = 4  # times the trained length, at which a method shows which keys it hides


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of the suite's runs, one a model.")],
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("docs/methods.md"),
) -> None:
    """Write the page and its figures."""
    text, figures = page(read_runs(runs), out.stem)
    folder = out.parent / out.stem
    folder.mkdir(exist_ok=True)
    for name, (run, shown) in figures.items():
        save(draw(shown, trained_length([run]), str(run.identity.model)), folder / name)
    write_output(out, text, "--out")
    typer.echo(f"{out}, {len(figures)} figures")


def page(runs: Sequence[Run], folder: str) -> tuple[str, dict[str, tuple[Run, list[Curves]]]]:
    """The page in Markdown, and what its figures show, by the name of their file: a run, and curves of it.

    Raises: UserError for runs of a model whose trained length is not known or not the same in all.
    """
    trained = trained_length(runs)
    if trained is None:
        raise UserError("the atlas is of models with the same trained length; give it runs of such.")
    models = ", ".join(dict.fromkeys(str(run.identity.model) for run in runs))
    lines = [
        "# Methods, side by side\n",
        f"Made by `make atlas` from the records of {models}, trained at {trained:,} tokens; not to be edited. A method "
        "is described, with its source and where it differs from that, in the README and in its file in "
        "`lcbench/methods/`. Families and methods are in no order of merit. A score is bold if no score of its family "
        "at that length is significantly better, and at least one is worse.\n",
    ]
    lines += [f"- {line}\n" for line in differences(runs)]
    heads = [str(run.identity.model) for run in runs]
    heads = heads if len({*heads}) == len(runs) else [run.name for run in runs]
    columns = {head: verdicts(run, CLAIMS) for head, run in zip(heads, runs, strict=True)}
    lines += ["## What papers claim, and what shows here\n", f"{ABOUT_CLAIMS}\n{LEGEND}", *table(CLAIMS, columns), ""]
    figures: dict[str, tuple[Run, list[Curves]]] = {}
    methods = list(dict.fromkeys(record.identity.method for run in runs for record in run.records))
    for family, about in FAMILIES.items():
        members = [name for name in methods if name != BASELINE and _family(parse_method(name), trained) == family]
        if not members:
            continue
        plans = {_plan(parse_method(name)) for name in members}
        own = [BASELINE, *(name for name in methods if name in plans and name not in (BASELINE, *members)), *members]
        lines.append(f"## {family}\n\n{about}\n")
        shown = [_only(run, own) for run in runs]
        asked = {record.identity.task for run in runs for record in run.records if record.identity.method in members}
        for task, rows in by_task(summarise_runs(shown)):
            if task not in asked:
                continue
            whole, name = side_by_side(shown), f"{family.split()[0].rstrip(',').lower()}-{_file(task)}.svg"
            figures[name] = whole, curves(whole, task)
            lines.append(f"### {family}: {task}\n\n![{task}, {family.lower()}]({folder}/{name})\n")
            lines.append(markdown([_scores_alone(row) for row in rows], trained))
            if task == COSTLY and (costs := cost_curves(whole, task)):
                name = f"costs-{name}"
                figures[name] = whole, costs
                lines.append(f"![what {task} costs, {family.lower()}]({folder}/{name})\n")
    return "\n".join(lines), figures


def _family(method: Method, trained: int) -> str:
    """By what a method changes: what it looks at before positions before frequencies before scores, as it is typed to
    be composed with them."""
    if method.hooks & CONTENT:
        return "Chosen by content"
    lengths = Lengths(trained, LONGER * trained)
    resolved = method.resolve(lengths)
    if "pieces" in resolved.hooks:
        i = torch.arange(LONGER * trained)
        seen = sum(piece.stop - piece.start for piece in resolved.for_prompt(len(i)).pieces(i, i, 0))
        hides = resolved.headwise or resolved.forgets or not torch.equal(torch.as_tensor(seen), i + 1)
        return "Windows, sinks and memory" if hides else "Position plans"
    return "RoPE scalings" if "frequencies" in resolved.hooks else "Score scalings"


def _plan(method: Method) -> str:
    """What is left of a method without the parts that look at content."""
    parts = method.parts if isinstance(method, Composition) else [method]
    return str(compose([part for part in parts if not part.hooks & CONTENT] or [parse_method(BASELINE)]))


def _scores_alone(row: TableRow) -> TableRow:
    """The row without costs, which are drawn: in hours of a run, other programs had the processor at times, too."""
    return replace(
        row,
        prefill_tokens_per_second=None,
        prefill_tokens_per_second_sd=None,
        peak_memory_bytes=None,
        at_once=1,
        cpu_cores=None,
        busy=False,
    )


def _only(run: Run, methods: Iterable[str]) -> Run:
    """The run with the records of these methods, in their order."""
    order = {name: number for number, name in enumerate(methods)}
    kept = [record for record in run.records if record.identity.method in order]
    return replace(run, records=sorted(kept, key=lambda record: order[record.identity.method]))


def _file(task: str) -> str:
    """A task's name as part of a file's."""
    return "".join(char if char.isalnum() else "-" for char in task)


if __name__ == "__main__":
    typer.run(main)
