"""The command line: parse, call, show. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lcbench import __version__
from lcbench.bench.command import app as bench
from lcbench.cli_data import app as data
from lcbench.cli_models import app as models
from lcbench.cli_reports import app as reports
from lcbench.cli_reports import require_folder
from lcbench.distributed import launched
from lcbench.errors import UserError, unknown
from lcbench.models import DEFAULT_MODEL, ModelSource
from lcbench.training.command import app as train

if TYPE_CHECKING:
    from lcbench.plan import Plan, Request
    from lcbench.tasks import Example

RESULTS = Path("results")
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long-context evaluation of any Hugging Face rotary model, with any context-extension method.",
)
app.add_typer(train, name="train")
app.add_typer(data, name="data")
app.add_typer(bench)
app.add_typer(models)
app.add_typer(reports)

MODEL_HELP = f"An embedded model, a folder, or a Hugging Face id; default: {DEFAULT_MODEL}, or the suite's."
ModelOption = Annotated[str, typer.Option("--model", "-m", help="An embedded model, a folder, or a Hugging Face id.")]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--method", help="Methods, as in `vanilla,dca:chunk_size=48,max_position=63,yarn:factor=4`."),
]
LengthsOption = Annotated[
    str | None, typer.Option("--seq-len", help="Lengths in tokens, answer included: `2k,4k,128k`, or `256..16k`.")
]
DepthsOption = Annotated[
    str | None, typer.Option("--depths", help="A count, as `11`, or a list, as `0,0.5,1`; default: drawn at random.")
]
HaystackOption = Annotated[
    str | None,
    typer.Option("--haystack", help="Text to hide needles in: .txt, JSONL, a folder or data set; default: made up."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of all samples; default 0.")]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Revision of a model on the hub.")]
RemoteCodeOption = Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's repository run its code.")]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before the command. `debug` is taken out by lcbench.__main__, and stands here for the help."""
    if version:
        typer.echo(f"lcbench {__version__}")
        raise typer.Exit


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="A task (`lcbench list tasks`), or the YAML file of a task or suite.")],
    method: MethodsOption = None,
    seq_len: LengthsOption = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    depths: DepthsOption = None,
    haystack: HaystackOption = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples a cell; default: the task's.")] = None,
    seed: SeedOption = None,
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16, float64.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    device_map: Annotated[
        str | None, typer.Option("--device-map", help="auto: spread a large model over all GPUs, RAM and disk.")
    ] = None,
    tensor_parallel: Annotated[
        bool, typer.Option("--tensor-parallel", help="Split the model over the processes of torchrun.")
    ] = False,
    slurm: Annotated[
        str | None,
        typer.Option("--slurm", help="Share the cells over so many SLURM jobs: `8,partition=gpu,gpus_per_node=1`."),
    ] = None,
    attention: Annotated[
        str, typer.Option(help="Backend: auto (the fastest that can), reference, joint, tiled, flash, triton.")
    ] = "auto",
    kv_dtype: Annotated[
        str, typer.Option(help="KV cache: auto (the model's), float32, bfloat16, float16, float8_e4m3fn.")
    ] = "auto",
    kv_offload: Annotated[bool, typer.Option("--kv-offload", help="Keep the KV cache in RAM.")] = False,
    revision: RevisionOption = None,
    output: Annotated[  # readable=False: a folder that may not be read is told by whoever writes there
        Path | None, typer.Option("--output", "-o", readable=False, help="Results folder; default: by the run.")
    ] = None,
    trust_remote_code: RemoteCodeOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and what it needs.")] = False,
) -> None:
    """Run a task or a suite; the same command again goes on where it stopped.

    Exit codes: 0 all cells done, 1 some failed, 2 something to mend.
    """
    from lcbench.plan import make_plan, read_requests
    from lcbench.progress import PlainProgress, SilentProgress, TerminalProgress

    requests, defaults = read_requests(target)
    if haystack is not None:
        requests = _all_with_haystack(requests, haystack)
    requests = [_override(request, method, seq_len, depths, samples) for request in requests]
    source = ModelSource(
        defaults.get("model", DEFAULT_MODEL) if model is None else model,
        revision,
        dtype,
        device,
        trust_remote_code,
        attention,
        device_map,
        tensor_parallel,
        kv_dtype,
        kv_offload,
    )
    processes = launched()
    source.check_processes(processes)
    plan = make_plan(source, requests, defaults.get("seed", 0) if seed is None else seed)
    folder = output or plan.default_output(RESULTS)
    for advice in plan.advice if processes.main else []:
        typer.echo(f"note: {advice}", err=True)
    if dry_run:
        if processes.main:
            _show_plan(plan, folder)
        return

    from lcbench.runner import run as run_plan

    if not processes.main:
        run_plan(plan, folder, SilentProgress(), processes=processes)
        return  # what failed is told by the main process: a launcher ends all if one of them fails
    console, errors = Console(), Console(stderr=True)
    progress = TerminalProgress(errors) if errors.is_terminal else PlainProgress(errors)
    if slurm is None:
        outcome = run_plan(plan, folder, progress, processes=processes)
    else:
        from lcbench.slurm import parse_array, run_array

        outcome = run_array(plan, requests, folder, progress, parse_array(slurm))
    _print_table(console, outcome.folder, plan)
    console.print(f"records: {outcome.folder}", markup=False, highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def plot(
    task: Annotated[str, typer.Argument(help="A task of the run, as `needle` or `pg19`.")],
    run: Annotated[Path | None, typer.Option("--run", help="Folder of a run; default: newest.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG, SVG or PDF by its suffix; default: a PNG in the run's folder.")
    ] = None,
) -> None:
    """Draw every method of a run, here and into a file: depth by length as heatmaps, or else the score by length."""
    from lcbench.records import newest_run
    from lcbench.report import curves, heatmap
    from lcbench.report.figure import save
    from lcbench.report.summary import read_runs

    require_folder(out)
    folder = run or newest_run(RESULTS)
    (read,) = read_runs([folder])
    trained, model = read.identity.get("pretraining_length"), str(read.identity.get("model"))
    path = out or folder / f"{task.partition(':')[0]}.png"
    members = [record for record in read.records if task in (record["task"], record["task"].partition(":")[0])]
    if any(record["cell_depth"] is not None for record in members):
        maps = heatmap.heatmaps(read.records, task)
        save(heatmap.draw(maps, trained, model), path)
        heatmap.print_heatmaps(Console(), maps, trained)
    else:
        drawn = curves.curves(read, task)
        save(curves.draw(drawn, trained, model), path)
        curves.print_curves(Console(), drawn, trained)
    typer.echo(f"figure: {path}", err=True)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task, options behind a colon.")],
    seq_len: Annotated[str, typer.Option("--seq-len", help="Length in tokens, answer included.")] = "4k",
    depth: Annotated[float | None, typer.Option(min=0, max=1, help="Depth of the needle; default: at random.")] = None,
    haystack: HaystackOption = None,
    sample: Annotated[int, typer.Option(min=0, help="Number of the sample.")] = 0,
    seed: SeedOption = None,
    model: ModelOption = DEFAULT_MODEL,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    full: Annotated[bool, typer.Option("--full", help="Print the whole prompt.")] = False,
) -> None:
    """Show one prompt with its exact counts; needs the tokenizer only."""
    from lcbench.options import parse_seq_len
    from lcbench.tasks import Cell, load_task

    source = ModelSource(model, revision, trust_remote_code=trust_remote_code)
    tokenizer = source.tokenizer()
    length = parse_seq_len(seq_len)
    asked = load_task(_with_haystack(task, haystack)).for_lengths([length])
    example = asked.example(Cell(length, depth), sample, tokenizer, seed or 0)
    text = str(tokenizer.decode(example.prompt))
    if not full and len(text) > 1600:
        text = f"{text[:800]}\n[... {len(text) - 1600:,} characters more: --full ...]\n{text[-800:]}"
    typer.echo(text)
    typer.echo(f"{_counts(example)}, seed {example.seed}", err=True)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, models or runs.")],
) -> None:
    """List what can be named on the command line."""
    from lcbench import listing

    kinds = {"methods": listing.methods, "tasks": listing.tasks, "models": listing.models, "runs": listing.runs}
    if what not in kinds:
        raise unknown("list", what, kinds)
    kinds[what](Console(), RESULTS)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="A folder, or a Hugging Face id.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    revision: RevisionOption = None,
) -> None:
    """Copy a model whose weights are pickles (pytorch_model*.bin) to a folder with safetensors."""
    from lcbench.convert import convert as convert_weights

    for path in convert_weights(model, out, revision):
        typer.echo(path)


def _counts(example: Example) -> str:
    """What an example consists of, in tokens."""
    parts = f"head {len(example.head)} + context {len(example.context)}"
    if example.reading:
        windows = example.reading.windows
        scored, several = sum(window.stop - window.first for window in windows), "s" * (len(windows) > 1)
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


def _with_haystack(task: str, haystack: str | None) -> str:
    """The task with its option `haystack`. Raises: UserError for a task that takes none."""
    from dataclasses import fields

    from lcbench.tasks import all_families, load_task, read_yaml, task_files

    if haystack is None:
        return task
    if "," in haystack:
        raise UserError(f"--haystack {haystack} has a comma in it, which ends an option; rename it, or link to it.")
    if "haystack" not in {field.name for field in fields(load_task(task))}:
        families = {name for name, cls in all_families().items() if "haystack" in {field.name for field in fields(cls)}}
        takers = [name for name in task_files() if read_yaml(name)[1].get("family") in families]
        raise UserError(f"{task} takes no --haystack; tasks that take one: {', '.join(takers)}.")
    return f"{task}{',' if ':' in task else ':'}haystack={haystack}"


def _all_with_haystack(requests: list[Request], haystack: str) -> list[Request]:
    """The requests with this haystack; of a suite, those whose tasks take one. Raises: UserError if none does."""
    from dataclasses import replace

    from lcbench.tasks import load_task

    changed, refusals = [], []
    for request in requests:
        task = request.task
        try:
            task = _with_haystack(task, haystack)
            load_task(task)
        except UserError as error:
            refusals.append(error)
            task = request.task
        changed.append(replace(request, task=task))
    if len(refusals) == len(requests):
        raise refusals[0]
    return changed


def _override(
    request: Request,
    methods: list[str] | None,
    seq_len: str | None,
    depths: str | None,
    samples: int | None,
) -> Request:
    """What the command line says wins over what a suite says."""
    from dataclasses import replace

    from lcbench.options import parse_depths, parse_lengths, split_list

    changes: dict[str, object] = {}
    if methods:
        changes["methods"] = tuple(entry for text in methods for entry in split_list(text))
    if seq_len is not None:
        changes["seq_lens"] = tuple(parse_lengths(seq_len))
    if depths is not None:
        changes["depths"] = tuple(parse_depths(depths))
    if samples is not None:
        changes["samples"] = samples
    return replace(request, **changes)  # type: ignore[arg-type]


def _show_plan(plan: Plan, folder: Path) -> None:
    from lcbench.engine.generate import PREFILL_CHUNK
    from lcbench.progress import describe
    from lcbench.report.tables import human_bytes

    need = plan.footprint
    for job in plan.jobs:
        typer.echo(f"{describe(job)}  {job.samples} samples  resolved: {job.resolved}")
    typer.echo(f"{plan.size}, {plan.tokens:,} tokens")
    largest = max(plan.jobs, key=lambda job: need.kv_cache(job.resolved, job.cell.seq_len))
    kv_cache = need.kv_cache(largest.resolved, largest.cell.seq_len)
    typer.echo(
        f"weights {human_bytes(need.weights)}, KV cache up to {human_bytes(kv_cache)} ({largest.resolved.label} at "
        f"{largest.cell.seq_len:,} tokens, {need.kv_per_key:,} bytes a key and layer); together "
        f"{human_bytes(need.weights + kv_cache)} and the activations of one chunk"
    )
    read = [job for job in plan.jobs if job.task.measure == "likelihood" and job.cell.seq_len > PREFILL_CHUNK]
    if read:
        most = max(need.layerwise(job.resolved, job.cell.seq_len) for job in read)
        typer.echo(f"instead of a KV cache, a likelihood that goes layer by layer keeps up to {human_bytes(most)}")
    typer.echo(f"records would go to {folder}")


def _print_table(console: Console, folder: Path, plan: Plan) -> None:
    """The table of what a plan asks for: the folder may hold more samples."""
    from lcbench.report.summary import read_runs, summarise_runs, trained_length
    from lcbench.report.tables import print_tables

    wanted = {job.record_id(sample) for job in plan.jobs for sample in range(job.samples)}
    runs = [run.only(wanted) for run in read_runs([folder])]
    print_tables(console, summarise_runs(runs), trained_length(runs))
