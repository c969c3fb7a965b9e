"""`lcbench train`: one verb per kind of training. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lcbench.cli.common import ModelOption
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.core.specs import LARGEST_SEED
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train a model; the same command resumes an interrupted training.",
)

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, its recipe, log and loss curve.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of everything drawn at random.")]


@app.command()
def reference(
    out: OutOption,
    seed: SeedOption = 0,
    structured_start: Annotated[
        bool, typer.Option(help="Initialise retrieval heads roughly; without this, they hardly emerge.")
    ] = True,
) -> None:
    """Train the embedded reference model from scratch: 40 minutes on one core."""
    from lcbench.apps.train.progress import console_progress
    from lcbench.apps.train.reference import train_reference

    folder = train_reference(out, seed, structured_start, progress=console_progress())
    terminal.say(f"model: {folder}")


StepsOption = Annotated[int, typer.Option("--steps", min=1, max=10**9, help="Optimizer steps.")]
RateOption = Annotated[float, typer.Option("--learning-rate", help="Peak learning rate of AdamW.")]
MethodOption = Annotated[str | None, typer.Option("--method", help="Train under a method, e.g. `dca` or `fot`.")]
TEXT_HELP = "A .txt, .jsonl or .parquet file (column `text`), a folder of them, or a `datasets` id"


@app.command()
def fot(
    out: OutOption,
    memory_layers: Annotated[str, typer.Option("--memory-layers", help="Layers with memory, from 0: `6,12,18`.")],
    model: ModelOption = DEFAULT_MODEL,
    d: Annotated[
        str,
        typer.Option("--d", help="Documents a memory layer sees, over the run: `1,2,4,8,16`, or one number."),
    ] = "1,2,4,8,16",
    steps: StepsOption = 800,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Peak learning rate of AdamW; 2e-5 suits 3 billion parameters.")
    ] = 1e-3,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=2**20, help="Documents (two windows each) per step.")
    ] = 16,
    context_length: Annotated[
        str | None, typer.Option("--context-length", help="Window in tokens; default: the trained length.")
    ] = None,
    last_context_length: Annotated[
        str | None,
        typer.Option("--last-context-length", help="Local window at inference; default: half a window."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help=f"{TEXT_HELP}; default: generated documents.")] = None,
    compile: Annotated[bool, typer.Option(help="Use torch.compile; it pays off from 100 steps on.")] = True,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune a model for memory by cross-batch training: 20 minutes on one core for the embedded one."""
    source = _source(model)
    _require_reachable([text] if text else [])
    layers, contexts = _whole_numbers("--memory-layers", memory_layers), _whole_numbers("--d", d)
    window, last_window = _length(context_length), _length(last_context_length)

    from lcbench.apps.train.fot import train_fot
    from lcbench.apps.train.progress import console_progress

    folder = train_fot(
        source,
        out,
        layers,
        contexts=contexts,
        context_length=window,
        last_context_length=last_window,
        text=text,
        steps=steps,
        learning_rate=learning_rate,
        batch=batch,
        seed=seed,
        compile_decoder=compile,
        progress=console_progress(),
    )
    terminal.say(f"model: {folder}")


@app.command()
def instruct(
    out: OutOption,
    data: Annotated[
        list[str], typer.Option("--data", help="A .jsonl or .parquet file or a `datasets` id; repeatable.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    proportions: Annotated[
        str | None, typer.Option("--proportions", help="Shares of the sources, e.g. `0.99,0.01`; default: equal.")
    ] = None,
    formats: Annotated[
        Path | None,
        typer.Option("--formats", help="YAML: columns and texts of `instructions` and `chat`."),
    ] = None,
    method: MethodOption = None,
    max_input_length: Annotated[str | None, typer.Option(help="Tokens; default: --max-total-length.")] = None,
    max_output_length: Annotated[str | None, typer.Option(help="Tokens; default: --max-total-length.")] = None,
    max_total_length: Annotated[str | None, typer.Option(help="Tokens; default: the trained length.")] = None,
    steps: StepsOption = 4000,
    learning_rate: RateOption = 1e-5,
    batch: Annotated[int, typer.Option("--batch", min=1, max=2**20, help="Samples per step.")] = 16,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune a model on instructions and chats in LongLLaMA's format."""
    source = _source(model, method)
    _require_reachable(data)
    shares = None if proportions is None else _numbers("--proportions", proportions)
    own_formats = None if formats is None else _read_yaml(formats)
    most_input, most_output, most = map(_length, (max_input_length, max_output_length, max_total_length))

    from lcbench.apps.train.instruct import train_instruct
    from lcbench.apps.train.progress import console_progress

    folder = train_instruct(
        source,
        out,
        data,
        proportions=shares,
        formats=own_formats,
        method=method,
        max_input_length=most_input,
        max_output_length=most_output,
        max_total_length=most,
        steps=steps,
        learning_rate=learning_rate,
        batch=batch,
        seed=seed,
        progress=console_progress(),
    )
    terminal.say(f"model: {folder}")


@app.command()
def lm(
    out: OutOption,
    text: Annotated[str, typer.Option("--text", help=f"{TEXT_HELP}.")],
    model: ModelOption = DEFAULT_MODEL,
    method: MethodOption = None,
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Window in tokens, e.g. `16k`; default: the trained length.")
    ] = None,
    steps: StepsOption = 1000,
    learning_rate: RateOption = 2e-5,
    batch: Annotated[int, typer.Option("--batch", min=1, max=2**20, help="Windows per step.")] = 8,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune a model on text under any method: `--method dca`, for instance, as ChunkLlama does at 16k tokens."""
    source, length = _source(model, method), _length(seq_len)
    _require_reachable([text])

    from lcbench.apps.train.lm import train_lm
    from lcbench.apps.train.progress import console_progress

    folder = train_lm(
        source,
        out,
        text,
        method=method,
        length=length,
        steps=steps,
        learning_rate=learning_rate,
        batch=batch,
        seed=seed,
        progress=console_progress(),
    )
    terminal.say(f"model: {folder}")


def _source(model: str, method: str | None = None) -> ModelSource:
    """Float32 weights, which training in mixed precision keeps; the loop moves them to its device.

    Raises: UserError for an unknown model or method, before anything heavy is imported.
    """
    from lcbench.methods import parse_method

    if method is not None:
        parse_method(method)
    source = ModelSource(model, dtype="float32", device="cpu")
    source.checkpoint.check_exists()
    return source


def _require_reachable(sources: list[str]) -> None:
    """Raises: UserError for a data set of a hub that does not answer, before the model is loaded."""
    from lcbench.core.hub import require_hub
    from lcbench.data import is_prepared_data

    for source in sources:
        named = "/" in source and not Path(source).suffix and not Path(source).expanduser().exists()
        if named and not is_prepared_data(source):
            require_hub(source)


def _length(text: str | None) -> int | None:
    from lcbench.core.specs import parse_seq_len

    return None if text is None else parse_seq_len(text)


def _whole_numbers(option: str, text: str) -> list[int]:
    if not all(item.strip().isdecimal() for item in text.split(",")):
        raise UserError(f"{option}: {text!r} is not a list of whole numbers such as 1,2,4.")
    return [int(item) for item in text.split(",")]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise UserError(f"{option}: {text!r} is not a list of numbers such as 0.99,0.01.") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    from lcbench.core.yaml_files import read_yaml_file

    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} has no mapping of `instructions` and `chat`.")
    return content
