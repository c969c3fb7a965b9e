"""Every question about a GPU, within a quarter of an hour on a bare machine: `python -m benchmarks.gpu --out FOLDER`.

Stages run in the order of their importance, each in a process of its own with its own time limit, on random weights of
Llama 3 8B's shape: nothing is downloaded. Every result is a line of JSON in FOLDER/rows.jsonl as soon as it is there. A
kernel that is wrong or fails costs its own rows, a stage that takes too long what it has not measured yet.

`--dry-run` runs the same program on a CPU, at a hundred tokens of a small shape.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

METHODS = ("self_extend", "dca", "fot:memory_layers=[0]")
DEEP_METHODS = ("self_extend", "dca", "fot:memory_layers=[6,12,18]")
K = 1024
SMALL = 128  # tokens of a dry run
Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Stage:
    """One `Bench`, and the seconds that it may take. `parts` may be empty: only correctness is checked."""

    name: str
    seconds: int
    lengths: tuple[int, ...]
    parts: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    backends: tuple[str, ...] = ("auto",)
    layers: int | None = 1
    rounds: int = 3
    baselines: tuple[str, ...] | None = None


STAGES = (
    Stage("correct", 60, (8 * K,), (), ("vanilla", *METHODS, "streaming"), ("flash", "triton", "matmul")),
    Stage("attention 32k", 100, (32 * K,), ("attention",), backends=("flash", "triton")),
    Stage("attention 128k", 130, (128 * K,), ("attention",), backends=("flash", "triton"), rounds=2),
    # By itself, as its compilation takes time, and may fail.
    Stage("flex", 150, (8 * K, 32 * K, 128 * K), ("attention",), ("vanilla", "dca", "self_extend"), ("flash", "flex"),
          rounds=2, baselines=("sdpa",)),
    Stage("model 128k", 260, (128 * K,), ("prefill", "decode", "memory"), DEEP_METHODS, layers=None, rounds=1,
          baselines=("sdpa",)),
    Stage("score 1M", 80, (K * K,), ("score",), ("dca",), layers=2, rounds=1, baselines=()),
    Stage("decode 32k", 60, (32 * K,), ("prefill", "decode"), ("vanilla", "dca"), layers=8, rounds=2),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for rows.jsonl")
    parser.add_argument("--minutes", type=float, default=14, help="of all stages together")
    parser.add_argument("--stages", default="", help="a comma-separated list of names; default: all")
    parser.add_argument("--dry-run", action="store_true", help="small, on the CPU, in this process")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    names = [name.strip() for name in asked.stages.split(",") if name]
    if unknown := set(names) - {stage.name for stage in STAGES}:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(stage.name for stage in STAGES)}")
    ends = time.monotonic() + 60 * asked.minutes
    write = writer(asked.out / "rows.jsonl")
    for stage in (stage for stage in STAGES if not names or stage.name in names):
        left = min(stage.seconds, ends - time.monotonic())
        if asked.dry_run:
            attempt(smaller(stage), "cpu", "tiny", write)
        elif left > 0:
            in_a_process(stage, left, asked.out, write)
        else:
            write({"stage": stage.name, "error": f"the {asked.minutes:g} minutes were over"})


def writer(path: Path) -> Write:
    """A function that appends a row to a file, and shows it."""

    def write(row: dict[str, Any]) -> None:
        line = json.dumps(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    return write


def smaller(stage: Stage) -> Stage:
    """The stage of a dry run: fewer tokens and rounds, backends of a CPU."""
    lengths = tuple({min(length, SMALL) for length in stage.lengths})
    methods = tuple(method for method in stage.methods if not method.startswith("fot") or stage.layers == 1)
    backends = ("auto",) if stage.backends == ("auto",) else ("tiled", "matmul")
    return Stage(stage.name, stage.seconds, lengths, stage.parts, methods, backends, 1, 1, stage.baselines)


def in_a_process(stage: Stage, seconds: float, out: Path, write: Write) -> None:
    """Run a stage on the GPU; end it after its time."""
    started = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(target=on_gpu, args=(stage, out))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        write({"stage": stage.name, "error": f"the time limit of {seconds:.0f} s"})
    elif process.exitcode:
        write({"stage": stage.name, "error": f"exit code {process.exitcode}"})
    write({"stage": stage.name, "seconds": round(time.monotonic() - started, 1)})


def on_gpu(stage: Stage, out: Path) -> None:
    attempt(stage, "cuda", "llama-3-8b", writer(out / "rows.jsonl"))


def attempt(stage: Stage, device: str, shape: str, write: Write) -> None:
    """`run`; what fails as a whole (a package that is missing, memory for the weights) is a row, too."""
    try:
        run(stage, device, shape, write)
    except Exception as error:
        write({"stage": stage.name, "error": f"{type(error).__name__}: {error}"})


def run(stage: Stage, device: str, shape: str, write: Write) -> None:
    """A stage in this process: what it runs on first, then a row for every check, measurement and failure."""
    import torch

    from lcbench.apps.bench.measure import Bench
    from lcbench.apps.bench.result import Result
    from lcbench.apps.bench.shapes import random_model, shape_config
    from lcbench.apps.bench.target import Target

    write({"stage": stage.name, **machine(device)})
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = random_model(shape, shape_config(shape, stage.layers), dtype, torch.device(device))
    bench = Bench(
        Target(shape, model),
        list(stage.methods),
        list(stage.backends),
        list(stage.lengths),
        list(stage.parts),
        stage.rounds,
        baseline=None if stage.baselines is None else list(stage.baselines),
        warm_up=1 if stage.rounds > 1 else 0,
    )
    known: set[str] = set()

    def keep(result: Result) -> None:
        for row in rows(result):
            if (line := json.dumps(row)) not in known:
                known.add(line)
                write({"stage": stage.name, **row})

    keep(bench.run({}, lambda text: None, keep))


def rows(result: Any) -> Iterator[dict[str, Any]]:
    """Everything that a bench has found so far, as rows."""
    for check in result.checks:
        yield {"kind": "check", **check}
    for measured in result.rows:
        yield {"kind": "measured", **asdict(measured)}
    for skipped in result.skipped:
        yield {"kind": "failed" if skipped.failed else "skipped", **asdict(skipped)}


def machine(device: str) -> dict[str, Any]:
    """Versions, the hardware, and the kernels that plain SDPA and the backend `flash` run."""
    import platform

    import torch
    import transformers

    found: dict[str, Any] = {
        "kind": "machine",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "hardware": platform.processor() or platform.machine(),
    }
    if device == "cuda":
        import triton

        from lcbench.attention.backends.flash import kernel_name

        found |= {
            "triton": triton.__version__,
            "hardware": torch.cuda.get_device_name(),
            "cudnn": torch.backends.cudnn.version(),
            "flash": kernel_name(),
            "sdpa": sdpa_kernels(),
        }
    return found


def sdpa_kernels() -> list[str]:
    """Names of the kernels that plain SDPA runs, causal and with grouped queries in bfloat16."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    q, k = (torch.randn(1, heads, 4096, 128, device="cuda", dtype=torch.bfloat16) for heads in (32, 8))
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    return [event.key[:120] for event in profiled.key_averages() if event.device_time_total]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
