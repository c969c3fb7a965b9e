"""Options, arguments and checks that several commands share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lcbench.cli.verb import empty
from lcbench.core.errors import MANY, UserError
from lcbench.core.specs import LARGEST_SEED
from lcbench.engine.embedded import DEFAULT_MODEL

RESULTS = Path("results")
asked, loaded, served = (  # options in a panel of the help
    partial(typer.Option, rich_help_panel=title)
    for title in ("How prompts are formatted and answered", "How the model is loaded and run", "Served models")
)
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="An embedded model, a folder, a Hugging Face id, or a GGUF file.")
]
OptionalModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="An embedded model, a folder, a Hugging Face id, or a GGUF file (on the hub: `ID:FILE.gguf`); "
        f"default: {DEFAULT_MODEL}, or the model of the suite or run.",
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--method", help="Methods, e.g. `dca,yarn:factor=4`; options follow a colon."),
]
LengthsOption = Annotated[
    str | None, typer.Option("--seq-len", help="Lengths in tokens, answer included: `2k,4k,128k`, or `256..16k`.")
]
PromptLengthOption = Annotated[
    str | None,
    typer.Option("--seq-len", help="Length in tokens, e.g. `8k`, answer included; default: the trained length."),
]
DepthsOption = Annotated[
    str | None, typer.Option("--depths", help="How many (`11`), or a list (`0,0.5,1`); default: drawn at random.")
]
DepthOption = Annotated[float | None, typer.Option("--depth", min=0, max=1, help="Needle depth; default: random.")]
HaystackOption = Annotated[
    str | None,
    typer.Option("--haystack", help="Text to hide needles in: .txt, JSONL, folder or data set; default: generated."),
]
TooLongOption = Annotated[
    str | None,
    typer.Option("--too-long", help="Documents that do not fit: cut (the default), skip, fail."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of all samples; default: 0.")
]
OwnSeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of the samples; unlike that of runs by default.")
]
OutputOption = Annotated[  # readable=False: a folder without read permission is reported by the writer
    Path | None,
    typer.Option("--output", "-o", readable=False, help="Results folder; default: named after what runs."),
]
ChatOption = Annotated[
    str | None,
    asked("--chat", help="Use the tokenizer's chat template: auto (if it has one), on, off."),
]
BosOption = Annotated[
    str | None,
    asked("--bos", help="BOS before the prompt: auto (as the tokenizer does), always (one), never."),
]
SystemOption = Annotated[
    str | None,
    asked("--system", "--system-instruction", help="System message of the chat."),
]
ChatOptionOption = Annotated[
    list[str] | None,
    asked("--chat-option", help="Variable of the chat template, as NAME=VALUE; repeatable."),
]
ThinkBudgetOption = Annotated[
    str | None,
    asked("--think-budget", help="Tokens for thinking before the answer, part of --seq-len: `2k`; default: 0."),
]
ThinkEndOption = Annotated[
    str | None,
    asked("--think-end", "--think-end-token", help="Text that ends thinking; default: the model's own, `</think>`."),
]
SamplingOption = Annotated[
    str | None,
    asked("--sampling", help="E.g. `temperature=0.6,top_p=1`; also top_k, min_p; seeded; default: greedy."),
]
RepeatsOption = Annotated[
    int | None,
    asked("--repeats", min=1, max=10**6, help="Answers per sample, with --sampling; tables show their spread."),
]
EffectiveOption = Annotated[
    float,
    typer.Option("--effective", help="Lowest score (0 to 1) within the effective length; default: RULER's 0.856."),
]
ApplyChatOption = Annotated[bool, typer.Option("--apply-chat-template", "--apply_chat_template", hidden=True)]
MultiturnOption = Annotated[bool, typer.Option("--fewshot-as-multiturn", "--fewshot_as_multiturn", hidden=True)]
RevisionOption = Annotated[
    str | None,
    loaded("--revision", help="Revision of a model on the hub."),
]
AdapterOption = Annotated[
    str | None,
    loaded("--adapter", help="A PEFT adapter to merge into the weights: a folder or Hugging Face id."),
]
QuantizationOption = Annotated[
    str | None,
    loaded("--quantization", help="Quantize the weights: 4bit, 8bit (bitsandbytes), int8 (torchao)."),
]
DtypeOption = Annotated[
    str,
    loaded("--dtype", help="auto (the checkpoint's, or a faster one as exact), float32, bfloat16, float16, float64."),
]
DeviceOption = Annotated[str, loaded("--device", help="auto, cpu, cuda, cuda:1, ...")]
RemoteCodeOption = Annotated[
    bool,
    loaded("--trust-remote-code", help="Let the model's repository run its code."),
]


def prompt_format(
    chat: str | None, options: list[str] | None, *, apply: bool, **typed: object
) -> tuple[tuple[str, object], ...]:
    """The options of the prompt format that were `typed`, as fields of a task. `apply`: whether the harnesses' flag
    --apply-chat-template, here `chat: on`, was passed.

    Raises: UserError for an unknown value."""
    from lcbench.core.specs import convert_options
    from lcbench.tasks import Task

    typed |= {"chat": chat or ("on" if apply else None), "chat_options": options or None}
    given = {name: value for name, value in typed.items() if value is not None}
    return tuple(convert_options("prompts", Task, given).items())


def with_haystack(task: str, haystack: str | None) -> str:
    """The task with its option `haystack` set. Raises: UserError for a task without it."""
    return with_option(task, "haystack", haystack)


def with_option(task: str, name: str, value: str | None) -> str:
    """The task with the option that `--name` sets on the command line. Raises: UserError for a task without it."""
    from dataclasses import fields

    from lcbench.tasks import all_families, load_task, read_yaml, task_files

    if value is None:
        return task
    typed = f"--{name.replace('_', '-')}"
    if name == "haystack" and not value:
        raise empty(typed)
    if "," in value:
        raise UserError(f"{typed} {value} has a comma in it, which ends an option; rename it, or link to it.")
    if name not in {field.name for field in fields(load_task(task))}:
        families = {family for family, cls in all_families().items() if name in {field.name for field in fields(cls)}}
        takers = [one for one in task_files() if read_yaml(one)[1].get("family") in families]
        if len(takers) > MANY:
            takers = sorted({one if "/" not in one else f"{one.partition('/')[0]}/..." for one in takers})
        raise UserError(f"{task} takes no {typed}; tasks that take one: {', '.join(takers)}.")
    return f"{task}{',' if ':' in task else ':'}{name}={value}"


def require_folder(path: Path | None, *suffixes: str) -> None:
    """Check an output file, if there is one, before any work is done.

    Raises: UserError if it cannot be written or, with `suffixes`, if its name promises another format."""
    from lcbench.results.outputs import require_format, require_writable

    if path is not None:
        require_writable(path, "file")
    if path is not None and suffixes:
        require_format(path, *suffixes)


def write_output(path: Path, text: str, option: str) -> None:
    """Write the output file that `option` names. Raises: UserError if it cannot be written."""
    from lcbench.results import outputs

    outputs.write_output(path, text, option)
