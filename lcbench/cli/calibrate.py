"""The verb `lcbench calibrate`. Everything heavy is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcbench.cli.common import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    OwnSeedOption,
    PromptLengthOption,
    RemoteCodeOption,
    RevisionOption,
    require_folder,
    write_output,
)
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

app = typer.Typer()


@app.command()
def calibrate(
    method: Annotated[str, typer.Argument(help="E.g. `duo_attention:sinks=16,window=64` or `duo_attention+yarn`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the table of heads, one line per layer.")],
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[
        str, typer.Option("--task", help="Source of the prompts; the model's own answers are the reference.")
    ] = "passkey",
    seq_len: PromptLengthOption = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=10**6, help="Number of prompts.")] = 4,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest loss of likelihood of the answers, in nats per token.")
    ] = 0.05,
    seed: OwnSeedOption = 1000,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
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
        raise UserError(f"{asked.name} generates no answers; calibrate with a task that does, such as passkey.")
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
        f"{found.full} of {len(found.heads)} KV heads keep every key; with the others limited, answers lose "
        f"{max(0.0, found.loss):.3f} nats per token: --method {calibrated(chosen, file=str(out))}"
    )


def _tell(done: int, total: int) -> None:
    """A line for every tenth of the passes."""
    step = max(1, total // 10)
    if done % step == 0:
        terminal.say(f"note: {done} of {total} passes", err=True)
