"""The verb `lcbench calibrate`. Everything heavy is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcbench.cli.common import ModelOption, RemoteCodeOption, RevisionOption, require_folder, write_output
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.core.specs import LARGEST_SEED
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

app = typer.Typer()


@app.command()
def calibrate(
    method: Annotated[str, typer.Argument(help="As in `duo_attention:sinks=16,window=64` or `duo_attention+yarn`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the table of heads, a line a layer.")],
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[str, typer.Option("--task", help="What the model is asked; its answers are its own.")] = "passkey",
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Tokens of a prompt and its answer; default: the trained length.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=10**6, help="Prompts.")] = 4,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="What an answer may lose, in nats a token.")
    ] = 0.05,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of the prompts; another than that of a run."),
    ] = 1000,
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16, float64.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
) -> None:
    """Find the KV heads that need every key, for `--method duo_attention:file=FILE`."""
    from lcbench.core.specs import parse_seq_len
    from lcbench.methods import parse_method
    from lcbench.tasks import load_task

    chosen, asked = parse_method(method), load_task(task)
    length = None if seq_len is None else parse_seq_len(seq_len)
    require_folder(out)
    source = ModelSource(model, revision, dtype, device, trust_remote_code)
    source.check()
    if asked.measure != "answer":
        raise UserError(f"{asked.name} asks for no answer; calibrate with a task that does, such as passkey.")
    asked.require_data()

    from lcbench.apps.calibrate import Calibrator, calibrated, require_calibrated
    from lcbench.methods.trained_length import trained_length
    from lcbench.tasks.base import Cell

    require_calibrated(chosen)
    tokenizer = source.tokenizer()
    cell = Cell(length or trained_length(source.config()))
    asked = asked.for_lengths([cell.seq_len])
    examples = [asked.example(cell, sample, tokenizer, seed) for sample in range(samples)]
    calibrator = Calibrator(
        source.model(), chosen, [each.prompt for each in examples], max(each.max_new_tokens for each in examples)
    )
    found = calibrator.run(tolerance, _tell)
    write_output(out, found.table(), "--out")
    terminal.say(
        f"{found.full} of {len(found.heads)} KV heads are full; answers lose {max(0.0, found.loss):.3f} nats a token "
        f"by the others: --method {calibrated(chosen, file=str(out))}"
    )


def _tell(done: int, total: int) -> None:
    """A line for every tenth of the passes."""
    step = max(1, total // 10)
    if done % step == 0:
        terminal.say(f"note: {done} of {total} passes", err=True)
