"""Cells that fail: recorded with the reason, skipped by nobody else, tried again by the same command."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from lcbench.engine import generate as engine
from lcbench.engine import steered
from lcbench.engine.generate import Prompt
from lcbench.results.records import RECORDS
from tests.helpers import cli, lines_of, records_of

SMALL = ["run", "passkey", "--seq-len", "150", "--samples", "2"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def the_run() -> Path:
    (folder,) = (path for path in Path("results").iterdir() if path.is_dir())
    return folder


def test_a_failed_cell_lets_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = steered.generate_together

    def short_of_memory(model: Any, prompts: list[Prompt], *rest: Any) -> Any:
        if any(len(prompt.tokens) > 200 for prompt in prompts):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 100 GiB.\nGPU 0 has ...")
        return generate(model, prompts, *rest)

    arguments = ["run", "passkey", "--seq-len", "150,256,160", "--samples", "3"]
    monkeypatch.setattr(steered, "generate_together", short_of_memory)
    failed = cli(*arguments)
    assert failed.code == 1
    assert "failed: passkey  256  vanilla: out of memory" in failed.err
    assert "failed: vanilla at 256: out of memory" in failed.out and "Traceback" not in failed.err
    by_length = {150: 3, 160: 3, 256: 1}  # a cell that fails is not tried with further samples
    assert {n: sum(line["seq_len"] == n for line in lines_of(the_run())) for n in by_length} == by_length
    (bad,) = [line for line in lines_of(the_run()) if line["error"]]
    assert bad["error"] == "out of memory" and bad["seq_len"] == 256 and "scores" not in bad
    assert "failed" in cli("table", "-f", "markdown").out

    monkeypatch.setattr(steered, "generate_together", generate)
    again = cli(*arguments)
    assert again.code == 0 and "6 of them already recorded" in again.err and "failed" not in again.out
    cli(*arguments, "-o", "undisturbed")
    assert records_of(the_run()) == records_of(Path("undisturbed"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out of memory"),
        (RuntimeError("boom\nat line 3"), "RuntimeError: boom at line 3"),
        (ZeroDivisionError("float division by zero"), "ZeroDivisionError: float division by zero"),
    ],
)
def test_reasons(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(steered, "generate_together", fail)
    assert cli(*SMALL).code == 1
    assert [line["error"] for line in lines_of(the_run())] == [reason]
    assert json.loads((the_run() / RECORDS).read_text())["error"] == reason


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A model whose memory runs out at more than so many tokens per call; the sizes of its calls are noted."""
    calls, forward = [], LlamaForCausalLM.forward

    def limited(self: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        calls.append(input_ids.shape[1])
        if input_ids.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 100 GiB.")
        return forward(self, input_ids, *rest, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
    return calls


def test_out_of_memory_halves_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """At this length and from then on, told in a line and in the records; the answers are those of whole chunks."""
    arguments = ["run", "passkey", "--seq-len", "1500,400", "--samples", "2", "-o"]
    assert cli(*arguments, "undisturbed").code == 0
    monkeypatch.setattr(engine, "SMALLEST_CHUNK", 200)
    calls = short_of_memory(monkeypatch, most=400)
    done = cli(*arguments, "short")
    assert done.code == 0
    notes = [line for line in done.err.splitlines() if "out of memory" in line]
    less = ("2 prompts at once", "one prompt at a time", "747 tokens per call", "373 tokens per call")
    assert notes == [f"out of memory: passkey  1500  vanilla; trying again with {how}." for how in less]
    assert sum(size > 400 for size in calls) == 4  # the second sample of this length begins with what is known
    chunks = {line["seq_len"]: line["cost"]["prefill_chunk"] for line in lines_of(Path("short"))}
    assert chunks == {1500: 373, 400: engine.PREFILL_CHUNK}
    assert records_of(Path("short")) == records_of(Path("undisturbed"))


@pytest.mark.slow
def test_a_smaller_chunk_does_not_always_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk below the smallest is tried, and none that would be as large as the prompt anyway."""
    monkeypatch.setattr(engine, "SMALLEST_CHUNK", 200)
    calls = short_of_memory(monkeypatch, most=50)
    failed = cli("run", "passkey", "--seq-len", "1000,300", "--samples", "2")
    assert failed.code == 1 and failed.err.count("trying again") == 5
    assert [size for size in calls if size > 50] == [994, 994, 994, 497, 248, 294, 294]
    assert [(line["seq_len"], line["error"]) for line in lines_of(the_run())] == [
        (1000, "out of memory"),
        (300, "out of memory"),
    ]


@pytest.mark.slow
def test_a_failed_call_leaves_nothing_behind_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it held is let go of before the smaller chunk is tried: on a GPU it would fail again otherwise."""
    monkeypatch.setattr(engine, "SMALLEST_CHUNK", 100)
    forward, held = LlamaForCausalLM.forward, []

    def limited(self: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        caches = [one for one in gc.get_objects() if type(one) is DynamicCache]
        held.append(len(caches))
        if input_ids.shape[1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, *rest, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
    assert cli("run", "passkey", "--seq-len", "600", "--samples", "1").code == 0
    assert max(held) == 1


@pytest.mark.slow
def test_memory_really_runs_out(tmp_path: Path) -> None:
    """With 200 MiB left for keys and values that need 512, the long cell fails and the short one after it is done."""
    limited = """
import resource, sys
from lcbench.__main__ import main
from lcbench.engine.models import ModelSource

load = ModelSource.model

def load_and_limit(source):
    model = load(source)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, -1))
    return model

ModelSource.model = load_and_limit
sys.argv = ["lcbench", "run", "passkey", "--seq-len", "64k,150", "--samples", "1"]
main()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "failed: passkey  65536  vanilla: out of memory" in done.stderr
    assert [(line["seq_len"], line["error"]) for line in lines_of(the_run())] == [(65536, "out of memory"), (150, None)]
