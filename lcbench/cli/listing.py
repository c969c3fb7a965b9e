"""`lcbench list` and `lcbench show`: what can be named on the command line, and one prompt with its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lcbench.cli import names
from lcbench.cli.common import (
    RESULTS,
    HaystackOption,
    ModelOption,
    RemoteCodeOption,
    RevisionOption,
    SeedOption,
    with_haystack,
)
from lcbench.core.errors import unknown
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from lcbench.tasks import Example

app = typer.Typer()


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="A task, options after a colon.")],
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
    from lcbench.core.specs import parse_seq_len
    from lcbench.tasks import Cell, load_task

    length = parse_seq_len(seq_len)
    loaded = load_task(with_haystack(task, haystack)).for_lengths([length])
    source = ModelSource(model, revision, trust_remote_code=trust_remote_code)
    source.check_exists()
    loaded.require_data()
    tokenizer = source.tokenizer()
    example = loaded.example(Cell(length, depth), sample, tokenizer, seed or 0)
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
    kinds = {"methods": names.methods, "tasks": names.tasks, "models": names.models, "runs": names.runs}
    if what not in kinds:
        raise unknown("list", what, kinds)
    kinds[what](Console(), RESULTS)


def _counts(example: Example) -> str:
    """The parts of an example and their lengths in tokens."""
    parts = f"head {len(example.head)} + context {len(example.context)}"
    if example.reading:
        windows = example.reading.windows
        scored, several = sum(window.stop - window.first for window in windows), "s" if len(windows) > 1 else ""
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
