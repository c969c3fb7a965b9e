"""The verb `lcbench bench`. Everything heavy is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcbench.cli.common import DeviceOption, loaded, require_folder, write_output
from lcbench.core import terminal
from lcbench.core.errors import UserError, unknown
from lcbench.engine.dtypes import check_dtype
from lcbench.engine.models import ModelSource

if TYPE_CHECKING:
    from lcbench.apps.bench.result import Result
    from lcbench.apps.bench.target import Target

METHODS = "vanilla,self_extend,dca"
SHAPES = {"cpu": "tiny", "cuda": "llama-3-8b"}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
LENGTHS = {"cpu": "4k..16k", "cuda": "4k..128k"}
app = typer.Typer()


@app.command()
def bench(
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help=f"Methods, e.g. `dca,fot:memory_layers=[1]`; default: {METHODS}."),
    ] = None,
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Tokens: `128k`, `4k..1m`; default: 4k..16k, on a GPU 4k..128k.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights of this shape; default: tiny, on a GPU llama-3-8b.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A real model instead: embedded, a folder, a Hugging Face id, a GGUF file."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, max=10**4, help="Build only this many layers of the shape.")
    ] = None,
    what: Annotated[
        str,
        typer.Option("--what", help="Of attention, block, prefill, decode, memory, score (perplexity)."),
    ] = "attention,block,prefill,decode,memory",
    attention: Annotated[
        str, typer.Option("--attention", help="Backends to run every method with: `flash,flex`; see lcbench run.")
    ] = "auto",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Among `sdpa,sdpa flash,sdpa cudnn,fa3`; default: all that this machine has."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10**6, help="Timed rounds, taken in turns.")] = 5,
    warm_up: Annotated[int, typer.Option("--warm-up", min=0, max=10**6, help="Untimed rounds before them.")] = 1,
    dtype: Annotated[
        str,
        loaded("--dtype", help="float32, bfloat16, float16, float64; default: the model's; of shapes, the device's."),
    ] = "auto",
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="Write all results here as they are measured.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw a figure: PNG, SVG or PDF by suffix.")] = None,
) -> None:
    """Measure what methods cost beside vanilla attention: checked for correctness, then timed in turns, in one run.

    Exit codes: 0 done, 1 an attention was wrong or failed and its rows are missing, 2 invalid input.
    """
    from lcbench.apps.bench.result import PARTS
    from lcbench.apps.bench.shapes import shape_fields
    from lcbench.attention.options import backend_name, check_backend_name
    from lcbench.core.specs import parse_lengths, split_list
    from lcbench.methods import parse_method

    parts, backends = ([name.strip() for name in text.split(",")] for text in (what, attention))
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    lengths = None if seq_len is None else parse_lengths(seq_len)
    methods = list(dict.fromkeys(entry for text in method or [METHODS] for entry in split_list(text)))
    for spec in methods:
        parse_method(spec)
    for backend in backends:
        check_backend_name(backend)
    backends = list(dict.fromkeys(map(backend_name, backends)))
    source = ModelSource(model or "", dtype=dtype, device=device)
    check_dtype(source.dtype)
    if source.name:
        source.checkpoint.check_exists()
    elif shape is not None:
        shape_fields(shape, layers)
    _require_writable(json, plot)

    from lcbench.apps.bench.draw import draw
    from lcbench.apps.bench.measure import Bench
    from lcbench.apps.bench.show import print_result
    from lcbench.results.report.figure import save

    target, own_layers = _target(source, shape, layers)
    lengths = lengths or parse_lengths(LENGTHS[target.device.type])
    errors = terminal.console(stderr=True)
    names = None if baseline is None else [name.strip() for name in baseline.split(",")]
    measured = Bench(target, methods, backends, lengths, parts, rounds, baseline=names, warm_up=warm_up)
    about = _about(target, own_layers, measured, shaped=model is None)

    def keep(result: Result) -> None:
        if json is not None:
            write_output(json, result.to_json(), "--json")

    result = measured.run(about, lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True), keep)
    keep(result)
    print_result(terminal.console(), result)
    if plot is not None:
        save(draw(result), plot)
    if any(skipped.failed for skipped in result.skipped):
        raise typer.Exit(1)


def _require_writable(json: Path | None, plot: Path | None) -> None:
    """Raises: UserError for files that could not be written once all is measured."""
    from lcbench.results.report.figure import SUFFIXES

    for path in (json, plot):
        require_folder(path)
    if plot is not None and plot.suffix.lower().removeprefix(".") not in SUFFIXES:
        raise UserError(f"cannot draw {plot}: its name must end with one of .{', .'.join(SUFFIXES)}.")


def _target(source: ModelSource, shape: str | None, layers: int | None) -> tuple[Target, int]:
    """The model to measure, and how many layers it would have by itself. Raises: UserError."""
    from dataclasses import replace

    from lcbench.apps.bench.shapes import random_model, shape_config
    from lcbench.apps.bench.target import Target

    device = source.placement.torch_device()
    if device.type not in SHAPES:
        raise UserError(f"bench measures on cpu and cuda, not on {device.type}.")
    if source.name:
        if shape is not None or layers is not None:
            raise UserError("--model has its own shape and layers; leave --shape and --layers out, or --model.")
        loaded = source.model()
        return Target(source.name, loaded), loaded.config.get_text_config().num_hidden_layers
    name = SHAPES[device.type] if shape is None else shape
    own = shape_config(name).num_hidden_layers
    config = shape_config(name, layers)
    chosen = replace(source, dtype=DTYPES[device.type] if source.dtype == "auto" else source.dtype)
    return Target(name, random_model(name, config, chosen.torch_dtype(config), device)), own


def _about(target: Target, own_layers: int, measured: Any, *, shaped: bool) -> dict[str, Any]:
    """What was measured, on what and how."""
    import torch

    from lcbench.apps.bench.passes import STEPS, WARM_STEPS
    from lcbench.core.provenance import session

    made = session()
    on_gpu = target.device.type == "cuda"
    return {
        "model": target.name,
        "weights": "random" if shaped else "its own",
        "layers": len(target.layers),
        "own_layers": own_layers,
        "pretraining_length": target.pretraining,
        "dtype": str(target.dtype).removeprefix("torch."),
        "device": target.device.type,
        "hardware": torch.cuda.get_device_name(target.device) if on_gpu else made["hardware"]["cpu"],
        "threads": torch.get_num_threads(),
        "clock": measured.passes.clock.name,
        "rounds": measured.rounds,
        "warm_up": measured.warm_up,
        "matmul_size": measured.passes.matmul_size,
        "decode_steps": {"not counted": WARM_STEPS, "timed": STEPS},
        "session": made,
    }
