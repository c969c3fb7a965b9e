"""The verb `lcbench explain`. Everything heavy is imported when it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.cli.common import (
    RESULTS,
    ChatOption,
    DepthOption,
    DeviceOption,
    DtypeOption,
    MethodsOption,
    OptionalModelOption,
    PromptLengthOption,
    RemoteCodeOption,
    RevisionOption,
    SeedOption,
    prompt_format,
    require_folder,
    write_output,
)
from lcbench.core import terminal
from lcbench.core.errors import UserError, unknown
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from lcbench.apps.explain.recorded import Recorded
    from lcbench.run.plan import Job, Plan
    from lcbench.run.requests import Request

app = typer.Typer()


@app.command()
def explain(
    target: Annotated[
        str, typer.Argument(metavar="RUN|TASK", help="The folder of a run, or a task; options follow a colon.")
    ],
    sample: Annotated[
        str | None,
        typer.Option("--sample", help="For a run, a record's id; for a task, the number in its cell, default 0."),
    ] = None,
    method: MethodsOption = None,
    seq_len: PromptLengthOption = None,
    depth: DepthOption = None,
    seed: SeedOption = None,
    chat: ChatOption = None,
    model: OptionalModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Page to write, with a PNG beside it; default: explain.html in the run's folder."),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
) -> None:
    """Show why a cell fails: how much each layer and head attends to the needle under each method."""
    from lcbench.core.specs import parse_seq_len, split_list
    from lcbench.run.requests import Request

    methods = [entry for text in method or () for entry in split_list(text)]
    recorded = _recorded(target, sample)
    page = out or (recorded.folder if recorded else Path()) / "explain.html"
    figure = page.with_suffix(".png")
    if figure == page:
        raise UserError(
            f"--out {page} would be overwritten by the figure; name a page, such as {page.with_suffix('.html')}."
        )
    for path in (page, figure):
        require_folder(path)
    source = ModelSource(model or DEFAULT_MODEL, revision, dtype, device, trust_remote_code)
    if recorded is None:
        number = _number(sample)
        request = Request(
            target,
            tuple(methods) or None,
            None if seq_len is None else (parse_seq_len(seq_len),),
            None if depth is None else (depth,),
            samples=number + 1,
            format=prompt_format(chat, None, apply=False),
        )
        _explain(source, request, seed or 0, number, page, figure)
        return
    for option, value in (("--seq-len", seq_len), ("--depth", depth), ("--seed", seed), ("--chat", chat)):
        if value is not None:
            raise UserError(f"{option} is fixed by the sample of {recorded.folder}; leave it out, or name a task.")
    if model is None:
        source = replace(source, **recorded.model() | ({} if dtype == "auto" else {"dtype": dtype}))
    source.check()
    request = recorded.request(source.tokenizer(), methods or recorded.methods)
    _explain(source, request, recorded.seed, recorded.record.identity.sample, page, figure, recorded)


def _recorded(target: str, sample: str | None) -> Recorded | None:
    """The sample of a run; None for a task. Raises: UserError for what is neither."""
    from lcbench.apps.explain.recorded import Recorded
    from lcbench.results.register import known_runs
    from lcbench.tasks import task_files

    if Path(target).is_dir():
        return Recorded.read(Path(target), sample)
    name = target.partition(":")[0]
    if name not in task_files() and Path(name).suffix not in (".yaml", ".yml"):
        here = (str(run) for run in known_runs(RESULTS) if not run.is_absolute())
        raise unknown("run or task", name, [*task_files(), *here])
    return None


def _number(sample: str | None) -> int:
    """The number of a task's sample. Raises: UserError."""
    if sample is None:
        return 0
    if not (sample.isascii() and sample.isdigit()) or len(sample) > len("999999"):
        raise UserError(f"--sample of a task is a number from 0 up, not {sample!r}; only a run's samples have ids.")
    return int(sample)


def _explain(
    source: ModelSource,
    request: Request,
    seed: int,
    sample: int,
    page: Path,
    figure: Path,
    recorded: Recorded | None = None,
) -> None:
    from lcbench.apps.explain.question import require_needle
    from lcbench.run.plan import make_plan
    from lcbench.tasks import load_task

    require_needle(load_task(request.task))
    plan = make_plan(source, [request], seed)
    jobs = _of_one_cell(plan, recorded)
    for advice in [*plan.advice, *(_changed(plan, recorded) if recorded else [])]:
        terminal.say(f"note: {advice}", err=True)

    from lcbench.apps.explain.draw import draw
    from lcbench.apps.explain.explain import explain as explain_sample
    from lcbench.apps.explain.page import page_of
    from lcbench.apps.explain.show import show
    from lcbench.results.report.figure import save

    example = jobs[0].example(sample * jobs[0].task.repeats, plan.tokenizer, seed)
    found = explain_sample(source, plan, jobs, sample, example, lambda text: terminal.say(f"note: {text}", err=True))
    show(terminal.console(), found)
    write_output(page, page_of(found), "--out")
    save(draw(found), figure)
    terminal.say(f"page: {page}\nfigure: {figure}", err=True)


def _of_one_cell(plan: Plan, recorded: Recorded | None) -> list[Job]:
    """The jobs of the recorded cell, or of the only one. Raises: UserError where there are several."""
    cells = list(dict.fromkeys(job.cell for job in plan.jobs))
    if recorded:
        cells = [cell for cell in cells if cell == recorded.cell]
    if len(cells) > 1:
        depths = ", ".join(f"{cell.depth:g}" for cell in cells if cell.depth is not None)
        raise UserError(f"{plan.jobs[0].task.name} has needles at several depths; choose one of {depths} as --depth.")
    return [job for job in plan.jobs if job.cell == cells[0]]


def _changed(plan: Plan, recorded: Recorded) -> list[str]:
    """A note if the weights differ from those of the run."""
    now = plan.identity().get("model_fingerprint")
    if now == recorded.identity.model_fingerprint:
        return []
    return [f"the weights of {plan.source.label} are not those of {recorded.folder}."]
