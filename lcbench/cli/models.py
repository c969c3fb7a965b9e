"""The verbs that use a model outside of a run: `ask`, and the harness of EleutherAI. Heavy imports come late."""

from __future__ import annotations

import re
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from lcbench.cli.common import (
    AdapterOption,
    DeviceOption,
    DtypeOption,
    QuantizationOption,
    RemoteCodeOption,
    RevisionOption,
)
from lcbench.core import terminal
from lcbench.core.errors import UserError
from lcbench.core.hub import work_without_hub
from lcbench.engine.models import DEFAULT_MODEL, ModelSource

if TYPE_CHECKING:
    from lcbench.apps.ask.conversation import Conversation, Prompts
    from lcbench.apps.ask.pages import Pages
    from lcbench.apps.ask.passages import PassageIndex

QUESTION_TOKENS = 512  # reserved for questions that are still to come
PASSAGES = 3
WIDTH = 100  # characters of a passage that are shown
CUT = " ..."  # behind one that has more
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # terminal control characters
# In the harness's model arguments, as text or as JSON.
PRETRAINED = re.compile(r"""(?:^|[\s,{"'])pretrained["']?\s*[=:]\s*["']?([^\s,"'}]+)""")
app = typer.Typer()


@app.command()
def ask(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A PDF or a UTF-8 text file; - for standard input.")],
    question: Annotated[
        str | None,
        typer.Argument(metavar="[QUESTION]", help="Default: questions from standard input, one per line."),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="E.g. `dca` or `dca:mscale=0.1`.")] = "vanilla",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A folder, a Hugging Face id, a GGUF file, or an embedded model; required."),
    ] = None,
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Tokens for document, question and answer; default: as needed.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=2**27, help="Most tokens per answer.")
    ] = 256,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    adapter: AdapterOption = None,
    quantization: QuantizationOption = None,
) -> None:
    """Ask questions about a document of any length; each answer comes with the passages that share most words with it.

    Without a question, questions are read from the terminal or a pipe; the document is prefilled once for all of them.

    Ctrl-C stops an answer and, between answers, ends the conversation.

    A model without a chat template continues the text: end the question with the beginning of its answer.
    """
    from lcbench.apps.ask.pages import STDIN, read_pages
    from lcbench.core.specs import parse_seq_len
    from lcbench.methods import parse_method

    if model is None:
        raise UserError(
            "name the model that should answer: --model with a folder or a Hugging Face id, or, to try it out, "
            f"--model {DEFAULT_MODEL}, which ships with lcbench."
        )
    if file == STDIN and question is None:
        raise UserError("standard input is the document, so the question must be given on the command line.")
    chosen = parse_method(method)
    if seq_len is not None:
        parse_seq_len(seq_len)
    source = ModelSource(model, revision, dtype, device, trust_remote_code, adapter=adapter, quantization=quantization)
    source.check()
    pages = read_pages(file)
    config = source.config()
    source.check_weights(config)

    from lcbench.apps.ask.conversation import Conversation, Prompts
    from lcbench.apps.ask.passages import PassageIndex
    from lcbench.attention.steering import Steering

    prompts = Prompts(model, source.tokenizer(), pages)
    length = _length(prompts, question, seq_len, max_new_tokens)
    for note in source.notes(config):
        _tell(note)
    steering = Steering(source.model(), chosen, length)
    _tell(steering.method.advice(steering.lengths))
    if length > steering.lengths.pretraining and steering.method.label == "vanilla":
        _tell(
            f"{length:,} tokens are more than the {steering.lengths.pretraining:,} that {model} was trained for; "
            "a method such as --method dca may reach further."
        )
    if not prompts.chat:
        _tell(f"{model} has no chat template and continues the text: end a question with the beginning of its answer.")
    with steering as steered:
        conversation = Conversation(steered, steering.method, prompts, length, max_new_tokens)
        index = PassageIndex(pages)
        if question is not None:
            _answer(conversation, question, pages, index)
            return
        for line in _questions():
            try:
                with _CtrlC() as ctrl_c:
                    _answer(conversation, line, pages, index, ctrl_c)
            except UserError as error:
                terminal.say(f"error: {error}", err=True)


@app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def lm_eval(context: typer.Context) -> None:
    """Run EleutherAI's lm-evaluation-harness with `--model lcbench`; its options: `lcbench lm-eval run --help`."""
    from importlib.util import find_spec

    from lcbench.data.harness import check_tasks

    harness = find_spec("lm_eval")
    if harness is None:
        raise UserError("the lm-evaluation-harness is not installed; pip install 'lcbench[lm-eval]'.")
    pretrained = PRETRAINED.search(" ".join(context.args))
    if pretrained and "lcbench" in context.args:
        ModelSource(pretrained[1]).checkpoint.check_exists()
    for folder in harness.submodule_search_locations or ():
        check_tasks(context.args, Path(folder, "tasks"))
    work_without_hub()
    from lcbench.apps.lm_eval import main

    main(context.args)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="A folder or a Hugging Face id.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    revision: RevisionOption = None,
) -> None:
    """Convert a model with pickled weights (pytorch_model*.bin) to a folder with safetensors."""
    from lcbench.engine.convert import convert_checkpoint

    for path in convert_checkpoint(model, out, revision):
        terminal.say(path)


class _CtrlC:
    """While an answer is printed, Ctrl-C stops it; before its first word, as during the prefill, it ends the
    program."""

    def __init__(self) -> None:
        self.answering = self.pressed = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if not self.answering:
            raise KeyboardInterrupt
        self.pressed = True


def _answer(
    conversation: Conversation, question: str, pages: Pages, index: PassageIndex, ctrl_c: _CtrlC | None = None
) -> None:
    """Print an answer as it comes, and the passages to look at."""

    def show(piece: str) -> bool:
        if ctrl_c is not None:
            ctrl_c.answering = True  # before the first character is visible
        terminal.say(CONTROLS.sub("", piece), end="")
        sys.stdout.flush()
        return ctrl_c is not None and ctrl_c.pressed

    answer = conversation.ask(question, show)
    terminal.say("" if answer else "(no answer: the model ended its turn immediately)")
    for passage in index.best(f"{question} {answer}", PASSAGES):
        where = f"page {passage.page}" if pages.numbered else f"line {passage.line}"
        (text, *more) = textwrap.wrap(passage.text, WIDTH - len(CUT)) if len(passage.text) > WIDTH else [passage.text]
        text += CUT if more else ""
        terminal.say(f"  {where}: {CONTROLS.sub('', text)}")


def _questions() -> Iterator[str]:
    """What is typed or piped, a question a line."""
    while True:
        try:
            line = input("? " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line


def _length(prompts: Prompts, question: str | None, seq_len: str | None, max_new_tokens: int) -> int:
    """The run's length in tokens. Raises: UserError if the document does not fit into --seq-len."""
    from lcbench.core.specs import parse_seq_len

    reserved = 0 if question is not None else QUESTION_TOKENS
    needed = len(prompts("?" if question is None else question)) + max_new_tokens
    if seq_len is None:
        return needed + reserved
    length = parse_seq_len(seq_len)
    if needed > length:
        raise UserError(
            f"document, question and answer need {needed} tokens, more than --seq-len {seq_len}; leave that out, or "
            "pass fewer pages."
        )
    return length


def _tell(note: str | None) -> None:
    if note:
        terminal.say(f"note: {note}", err=True)
