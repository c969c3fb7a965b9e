"""The exam of the reference models: every figure of their model cards, and the tables that show them.

    python -m benchmarks.reference_models base --model lcbench-tiny --out base.jsonl
    python -m benchmarks.reference_models fot --model before=lcbench-tiny:1 --model after=FOLDER:1 --out fot.jsonl
    python -m benchmarks.reference_models table base.jsonl

A point (model, method, what is asked, length) is one JSON line, appended once it is measured; the same command again
goes on with those that are missing, or have fewer samples than asked for. Cheap points come first. The samples of a
point are spread over processes of one thread each. What is asked: benchmarks/exam.py.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before torch starts its threads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are the parallelism

import torch
import typer

from benchmarks.exam import Point, measure, summary
from benchmarks.reference_tables import SLIDING, Line, described, tables
from lcbench import __version__
from lcbench.core.errors import UserError
from lcbench.engine.models import DEFAULT_MODEL, ModelSource
from lcbench.methods.trained_length import trained_length

CORES = os.cpu_count() or 1
PIECES = 4  # of a point's samples, for each process

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=(__doc__ or "").split("\n")[0])
ModelsOption = Annotated[
    list[str], typer.Option("--model", "-m", help="[NAME=]MODEL, for fot [NAME=]MODEL[:MEMORY_LAYERS]; repeatable.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="JSON lines; added to.")]
SamplesOption = Annotated[int, typer.Option(min=2, help="Samples a point, for perplexity books.")]
OnlyOption = Annotated[list[str] | None, typer.Option(help="copying, codes, words, passkey, perplexity; repeatable.")]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Processes of one thread each.")]


@dataclass(frozen=True)
class Examined:
    """A model of the exam: how it is called, what loads it, which layers are its memory, and what it is."""

    name: str
    source: ModelSource
    memory_layers: str | None
    trained: int
    fingerprint: str


@dataclass(frozen=True)
class Job:
    """A point to measure, with so many samples."""

    model: Examined
    point: Point
    samples: int

    @property
    def identity(self) -> Line:
        return {"model": self.model.name, "fingerprint": self.model.fingerprint, **asdict(self.point)}


@app.command()
def base(
    out: OutOption,
    model: ModelsOption = [DEFAULT_MODEL],  # noqa: B006  typer copies it
    samples: SamplesOption = 100,
    only: OnlyOption = None,
    processes: ProcessesOption = CORES,
) -> None:
    """A model as it was trained, inside its training length and past it, by method."""
    examined = [_examined(text) for text in model]
    examine([Job(one, point, samples) for one in examined for point in base_points(one.trained)], only, out, processes)


@app.command()
def fot(
    out: OutOption,
    model: ModelsOption,
    samples: SamplesOption = 100,
    samples_256x: Annotated[int, typer.Option("--samples-256x", min=2, help="Samples a point at 256x.")] = 20,
    only: OnlyOption = None,
    processes: ProcessesOption = CORES,
) -> None:
    """Models with memory layers, to 256 times their training length."""
    jobs = [
        Job(one, point, samples if point.length < 256 * one.trained else samples_256x)
        for one in map(_examined, model)
        for point in fot_points(one.trained, one.memory_layers)
    ]
    examine(jobs, only, out, processes)


@app.command()
def table(file: Annotated[Path, typer.Argument(help="What base or fot wrote.")]) -> None:
    """Show what was measured, in Markdown."""
    typer.echo("\n".join(tables(read_lines(file))))


def base_points(trained: int) -> list[Point]:
    """What is asked of a model that knows `trained` tokens."""
    scaled = [f"self_extend:log_scale_base={trained}", "dca:mscale=0.1"]
    methods = ["vanilla", SLIDING, "pi", "ntk", "yarn", "self_extend", "dca", *scaled]
    return [
        Point("copying", "vanilla", trained),
        *(Point("codes", "vanilla", trained, facts) for facts in (1, 4, 8)),
        *(Point("words", "vanilla", trained, facts) for facts in (1, 4)),
        *(Point("passkey", method, times * trained) for times in (1, 2, 4, 8, 16) for method in methods),
        *(Point("perplexity", method, times * trained) for times in (1, 4, 16) for method in methods),
        *(Point(what, method, 16 * trained) for what in ("codes", "words") for method in scaled),
    ]


def fot_points(trained: int, memory_layers: str | None) -> list[Point]:
    """What is asked of a model with memory. Past the training length no fact stands in the last local window.

    64 codes take some 800 tokens; a text that they would fill holds as many as take half of what is before its window.
    """
    layers = f"memory_layers=[{memory_layers}]," if memory_layers else ""
    method = f"fot:{layers}context_length={trained},variant=streaming"
    points = []
    for times in (1, 4, 16, 64, 256):
        local = trained if times > 1 else 0
        codes = {1: 8, 4: 32}.get(times, 64)
        points += [
            Point("passkey", method, times * trained, local=local),
            Point("words", method, times * trained, local=local),
            Point("codes", method, times * trained, codes, local),
        ]
    return points + [Point("perplexity", method, times * trained) for times in (1, 4, 16, 32)]


def examine(jobs: list[Job], only: list[str] | None, out: Path, processes: int) -> None:
    """Measure the jobs that `out` lacks, and add them to it.

    Raises: UserError for a file that cannot be used, and for a model that is another one than the file's of that name.
    """
    if unknown := set(only or ()) - {job.point.what for job in jobs}:
        raise UserError(f"nothing here asks for {', '.join(sorted(unknown))}.")
    known = read_lines(out) if out.exists() else []
    for job in jobs:
        if any(line["model"] == job.model.name and line["fingerprint"] != job.model.fingerprint for line in known):
            raise UserError(f"{out} has points of another model called {job.model.name}; pass another --out, or NAME=.")
    todo = [job for job in jobs if (not only or job.point.what in only) and not _is_known(job, known)]
    todo.sort(key=lambda job: job.samples * job.point.length)
    print(f"{len(todo)} of {len(jobs)} points to measure", file=sys.stderr)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_process) as pool:
        try:
            pieces = {job: _submit(pool, job, PIECES * processes) for job in todo}
            for job, futures in pieces.items():
                scores = [score for future in futures for score in future.result()[0]]
                seconds = sum(future.result()[1] for future in futures)
                line = {**job.identity, "trained": job.model.trained, **summary(job.point, scores)}
                line |= {"cpu_seconds": round(seconds, 2), "lcbench": __version__}
                _append(out, line)
                print(f"{described(line)}  {seconds:.1f} s of CPU", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _examined(text: str) -> Examined:
    """`tuned=folder:1,2` -> the model in `folder`, called `tuned`, memory in layers 1 and 2."""
    found = re.fullmatch(r"(?:(?P<name>[^=/]+)=)?(?P<source>.+?)(?::(?P<layers>\d+(?:,\d+)*))?", text)
    if not found:
        raise UserError(f"{text!r} is not [NAME=]MODEL[:MEMORY_LAYERS].")
    source = ModelSource(found["source"])
    config = source.config()
    name = found["name"] or Path(found["source"]).name
    return Examined(name, source, found["layers"], trained_length(config), source.checkpoint.fingerprint(config))


def _submit(pool: ProcessPoolExecutor, job: Job, pieces: int) -> list[Future[tuple[list[list[float]], float]]]:
    step = -(-job.samples // pieces)
    starts = range(0, job.samples, step)
    return [pool.submit(_work, job, range(start, min(start + step, job.samples))) for start in starts]


def _start_process() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.getLogger("lcbench").setLevel(logging.ERROR)  # advice on group sizes, once a piece


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone: killed, it could not tell."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job, samples: range) -> tuple[list[list[float]], float]:
    """Scores of some samples, and the CPU seconds that they took: other processes do not count."""
    model, tokenizer = _loaded(job.model.source)
    started = time.process_time()
    return measure(model, tokenizer, job.point, samples), time.process_time() - started


@lru_cache
def _loaded(source: ModelSource) -> tuple[Any, Any]:
    return source.model(), source.tokenizer()


def _is_known(job: Job, lines: list[Line]) -> bool:
    return any(job.identity.items() <= line.items() and line["samples"] >= job.samples for line in lines)


def read_lines(file: Path) -> list[Line]:
    """The points of a file; a last line that a killed process left unfinished is left out.

    Raises: UserError for a file that cannot be read, or holds something else.
    """
    try:
        lines = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
        if not all({"model", "fingerprint", "what", "samples"} <= line.keys() for line in lines):
            raise ValueError
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} holds something else than points of this exam; pass another.") from error
    return lines


def _append(file: Path, line: Line) -> None:
    with file.open("a+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        stream.truncate(stream.read(end).rfind(b"\n") + 1)  # an unfinished line
        stream.write((json.dumps(line) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
