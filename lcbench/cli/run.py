"""`lcbench run`: run the missing cells of a task or a suite, then print the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.attention.options import AttentionOptions
from lcbench.cli.common import (
    RESULTS,
    AdapterOption,
    ApplyChatOption,
    BosOption,
    ChatOption,
    ChatOptionOption,
    DepthsOption,
    DeviceOption,
    DtypeOption,
    EffectiveOption,
    HaystackOption,
    LengthsOption,
    MethodsOption,
    MultiturnOption,
    OptionalModelOption,
    OutputOption,
    QuantizationOption,
    RemoteCodeOption,
    RepeatsOption,
    RevisionOption,
    SamplingOption,
    SeedOption,
    SystemOption,
    ThinkBudgetOption,
    ThinkEndOption,
    TooLongOption,
    loaded,
    prompt_format,
    with_option,
)
from lcbench.cli.engines import (
    ApiOption,
    ConcurrencyOption,
    EndpointOption,
    EngineChoice,
    EngineOption,
    EngineOptionsOption,
    ServedAsOption,
    StrictOption,
    TimeoutOption,
    TokenizerOption,
)
from lcbench.cli.run_output import print_table, show_plan, show_time
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.core.processes import launched
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from lcbench.run.requests import Request

app = typer.Typer()
EXAMPLES = """Examples: lcbench run passkey --method vanilla,dca:mscale=0.1 --seq-len 256..1k --samples 5

lcbench run needle --method dca --seq-len 4k,8k --depths 11 --model ./llama -o needle --dry-run

lcbench run ./mine.yaml --endpoint http://localhost:8000/v1 --model NAME --seq-len 32k"""


@app.command(epilog=EXAMPLES)
def run(
    target: Annotated[str, typer.Argument(help="A task (`lcbench list tasks`), or the YAML file of a task or suite.")],
    method: MethodsOption = None,
    seq_len: LengthsOption = None,
    model: OptionalModelOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in tables and figures; default: as typed.")
    ] = None,
    depths: DepthsOption = None,
    haystack: HaystackOption = None,
    too_long: TooLongOption = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "--limit", "--num-samples", min=1, help="Samples per cell; default: the task's."),
    ] = None,
    chat: ChatOption = None,
    bos: BosOption = None,
    system: SystemOption = None,
    chat_option: ChatOptionOption = None,
    think_budget: ThinkBudgetOption = None,
    think_end: ThinkEndOption = None,
    sampling: SamplingOption = None,
    repeats: RepeatsOption = None,
    seed: SeedOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    device_map: Annotated[
        str | None,
        loaded("--device-map", help="auto: spread a large model over all GPUs, RAM and disk."),
    ] = None,
    tensor_parallel: Annotated[
        bool,
        loaded("--tensor-parallel", help="Split the model over the processes of torchrun."),
    ] = False,
    slurm: Annotated[
        str | None,
        loaded("--slurm", help="Split the cells over this many SLURM jobs: `8,partition=gpu,gpus_per_node=1`."),
    ] = None,
    attention: Annotated[
        str,
        loaded(help="Backend: auto (the fastest one that can), reference, matmul, tiled, flash, flex, triton."),
    ] = "auto",
    kv_dtype: Annotated[
        str,
        loaded(help="KV cache: auto (the model's), float32, bfloat16, float16, float8_e4m3fn."),
    ] = "auto",
    kv_offload: Annotated[
        bool,
        loaded("--kv-offload", help="Keep the KV cache in RAM."),
    ] = False,
    endpoint: EndpointOption = None,
    endpoint_api: ApiOption = "completions",
    tokenizer: TokenizerOption = None,
    served_as: ServedAsOption = None,
    concurrency: ConcurrencyOption = 4,
    request_timeout: TimeoutOption = 600.0,
    strict: StrictOption = False,
    engine: EngineOption = "lcbench",
    engine_option: EngineOptionsOption = None,
    revision: RevisionOption = None,
    output: OutputOption = None,
    trust_remote_code: RemoteCodeOption = False,
    adapter: AdapterOption = None,
    quantization: QuantizationOption = None,
    apply_chat_template: ApplyChatOption = False,
    fewshot_as_multiturn: MultiturnOption = False,
    effective: EffectiveOption = 0.856,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and the memory it needs.")] = False,
) -> None:
    """Run a task or a suite; the same command again resumes where it stopped.

    Exit codes: 0 all cells done, 1 some failed, 2 invalid input.
    """
    from lcbench.results.report.overview import require_threshold
    from lcbench.run.plan import make_plan
    from lcbench.run.progress import PlainProgress, SilentProgress, TerminalProgress
    from lcbench.run.requests import read_requests

    require_threshold(effective)
    if fewshot_as_multiturn:
        raise UserError(
            "lcbench has no --fewshot-as-multiturn: many-shot tasks take it as an option, as in trec:multiturn=true; "
            "all others ask in one message."
        )
    format_ = prompt_format(
        chat,
        chat_option,
        apply=apply_chat_template,
        bos=bos,
        system=system,
        think_budget=think_budget,
        think_end=think_end,
        sampling=sampling,
        repeats=repeats,
    )
    requests, defaults = read_requests(target)
    for option, value in (("haystack", haystack), ("too_long", too_long)):
        if value is not None:
            requests = _all_with(requests, option, value)
    requests = [_override(request, method, seq_len, depths, samples, format_) for request in requests]
    local = ModelSource(
        defaults.get("model", DEFAULT_MODEL) if model is None else model,
        revision,
        dtype,
        device,
        trust_remote_code,
        device_map,
        tensor_parallel,
        name,
        adapter,
        quantization,
    )
    processes = launched()
    local.check_processes(processes)
    options = AttentionOptions(attention, kv_dtype, kv_offload)
    choice = EngineChoice(
        engine,
        engine_option or (),
        endpoint,
        endpoint_api,
        tokenizer,
        served_as,
        concurrency,
        request_timeout,
        strict,
    )
    source = choice.source(
        local,
        model,
        {
            "--method": bool(method),
            "--dtype": dtype != "auto" and engine == "lcbench",
            "--device": device != "auto",
            "--device-map": device_map is not None,
            "--tensor-parallel": tensor_parallel,
            "--adapter": adapter is not None,
            "--quantization": quantization is not None,
            "--attention, --kv-dtype or --kv-offload": options != AttentionOptions(),
            "--slurm": slurm is not None,
        },
    )
    seed = defaults.get("seed", 0) if seed is None else seed
    plan = make_plan(source, requests, seed, options, defaults.get("references", ()))
    folder = output or plan.default_output(RESULTS)
    for advice in plan.advice if processes.main else []:
        terminal.say(f"note: {advice}", err=True)
    if processes.main:
        show_time(plan, always=dry_run)
    if dry_run:
        if processes.main:
            show_plan(plan, folder)
        return

    from lcbench.results.register import register
    from lcbench.run.runner import run as run_plan

    if processes.main:
        register(RESULTS, folder)
    if not processes.main:
        run_plan(plan, folder, SilentProgress(), processes=processes)
        return  # the main process reports failures: a launcher ends all processes if one of them fails
    console, errors = terminal.console(), terminal.console(stderr=True)
    progress = TerminalProgress(errors) if errors.is_terminal else PlainProgress(errors)
    if slurm is None:
        outcome = run_plan(plan, folder, progress, processes=processes)
    else:
        from lcbench.run.slurm import parse_array, run_array

        outcome = run_array(plan, requests, folder, progress, parse_array(slurm))
    print_table(console, outcome.folder, plan, effective)
    console.print(f"records: {outcome.folder}", markup=False, highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)


def _all_with(requests: list[Request], option: str, value: str) -> list[Request]:
    """The requests with this option of their tasks set, where a task takes it. Raises: UserError if none does."""
    from dataclasses import replace

    from lcbench.tasks import load_task

    changed, refusals = [], []
    for request in requests:
        task = request.task
        try:
            task = with_option(task, option, value)
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
    format_: tuple[tuple[str, object], ...],
) -> Request:
    """The request with the command line's options, which take precedence over the suite's."""
    from dataclasses import replace

    from lcbench.core.specs import parse_depths, parse_lengths, split_list

    changes: dict[str, object] = {"format": format_}
    if methods:
        changes["methods"] = tuple(entry for text in methods for entry in split_list(text))
    if seq_len is not None:
        changes["seq_lens"] = tuple(parse_lengths(seq_len))
    if depths is not None:
        changes["depths"] = tuple(parse_depths(depths))
    if samples is not None:
        changes["samples"] = samples
    return replace(request, **changes)  # type: ignore[arg-type]
