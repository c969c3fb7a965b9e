"""Records of likelihoods: the numbers of a plain loop over windows, prefixes that are proven, files that survive."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import lcbench
from lcbench.core import files
from lcbench.engine import reading
from lcbench.engine.models import ModelSource
from lcbench.methods import Lengths, Method
from lcbench.methods.base import REGISTRY
from lcbench.methods.pieces import Piece
from lcbench.results.nll import TokenNll
from lcbench.results.records import RunWriter
from lcbench.run import runner
from lcbench.run.plan import make_plan
from lcbench.run.requests import Request
from lcbench.tasks import Cell, load_task
from tests.engine.test_prefix_reuse import Silent
from tests.helpers import Fields, cli, fields_of, records_of
from tests.killed_writer import in_child

WIDE = ModelSource(dtype="float64")
LONGROPE = f"longrope:factors=[{','.join(['1.5'] * 32)}],attention_factor=1.1"
METHODS = (
    *("vanilla", "dca", "dca:mscale=0.1", "self_extend:group_size=4", "streaming", "logn", "dynamic_ntk"),
    *(LONGROPE, "entropy_abf", "leaky_rerope:k=3"),
)
FAST = ("vanilla", "dca:mscale=0.1", "dynamic_ntk")


def run(folder: Path, task: str, methods: tuple[str, ...], seq_lens: tuple[int, ...], samples: int = 2) -> Any:
    plan = make_plan(WIDE, [Request(task, methods, seq_lens, None, samples)])
    return runner.run(plan, folder, Silent())


def truth(task_name: str, record: Fields, lengths: tuple[int, ...]) -> list[list[float]]:
    """The NLL of every scored token, window by window, from full logits in float64, in a block of this length."""
    tokenizer, task = WIDE.tokenizer(), load_task(task_name).for_lengths(list(lengths))
    example = task.example(Cell(record["seq_len"]), record["sample"], tokenizer, 0)
    assert example.reading is not None
    nll = []
    with lcbench.extend(WIDE.model(), record["method"], length=record["seq_len"]) as model, torch.no_grad():
        for window in example.reading.windows:
            tokens = [tokenizer.bos_token_id, *example.context[window.start : window.stop]]
            logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            places = range(1 + window.first - window.start, len(tokens))
            nll.append([-float(logs[place - 1, tokens[place]]) for place in places])
    return nll


@pytest.mark.parametrize(
    "method", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_prefix_as_a_plain_loop(method: str, tmp_path: Path) -> None:
    lengths = (128, 200, 400)
    assert not run(tmp_path / "run", "pg19", (method,), lengths).failed
    records = fields_of(tmp_path / "run")
    assert len(records) == 6
    for record in records:
        (expected,) = truth("pg19", record, lengths)
        kept = TokenNll.read(tmp_path / "run" / record["nll"]["file"])
        assert kept.nll.dtype == np.float32
        np.testing.assert_allclose(kept.nll, expected, rtol=1e-5, atol=1e-5)
        mean = sum(expected) / len(expected)
        assert record["scores"]["nll"] == pytest.approx(mean, abs=1e-6)
        assert record["scores"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
        assert record["nll"]["tokens"] == len(expected) == record["seq_len"] - 1 == record["prompt_tokens"] - 1
        bits = sum(expected) / math.log(2)
        assert record["scores"]["bits_per_byte"] == pytest.approx(bits / record["nll"]["bytes"], rel=1e-5)
        assert record["scores"]["bits_per_word"] == pytest.approx(bits / record["nll"]["words"], rel=1e-5)
        for first, last, total, count in record["nll"]["buckets"]:
            here = expected[first - 1 : last]
            assert count == len(here) and total == pytest.approx(sum(here), rel=1e-5)
        assert sum(bucket[3] for bucket in record["nll"]["buckets"]) == len(expected)


@pytest.mark.parametrize(
    "task",
    [
        "pg19:protocol=sliding,stride=40,book_tokens=400",
        "pg19:protocol=sliding,averaging=chunkllama,stride=100,book_tokens=600",
        "pg19:protocol=segments,book_tokens=400",
    ],
)
def test_windows_as_a_plain_loop(task: str, tmp_path: Path) -> None:
    run(tmp_path / "run", task, ("vanilla", "dca"), (120,), samples=1)
    for record in fields_of(tmp_path / "run"):
        expected = truth(task, record, (120,))
        np.testing.assert_allclose(
            TokenNll.read(tmp_path / "run" / record["nll"]["file"]).nll,
            [nats for window in expected for nats in window],
            rtol=1e-5,
            atol=1e-5,
        )
        means = [sum(window) / len(window) for window in expected]
        flat = sum(map(sum, expected)) / sum(map(len, expected))
        chunkllama = "chunkllama" in task
        assert record["scores"]["nll"] == pytest.approx(sum(means) / len(means) if chunkllama else flat, abs=1e-6)
        assert record["nll"]["averaging"] == ("windows" if chunkllama else "tokens")
        assert record["nll"]["buckets"][-1][:2] == [64, 127] and record["cost"]["reused_tokens"] == 0
        assert record["document"] == "generated book 900000" and record["protocol"].startswith(
            ("sliding, ", "segments")
        )


def test_what_a_prefix_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = reading.score_tokens
    monkeypatch.setattr(
        reading,
        "score_tokens",
        lambda model, tokens, first, **way: read.append(len(tokens)) or plain(model, tokens, first, **way),
    )
    run(tmp_path / "run", "pg19", ("dca",), (128, 256, 512))
    assert read == [512, 128, 512]  # the second is the proof
    records = {(record["seq_len"], record["sample"]): record for record in fields_of(tmp_path / "run")}
    for (length, _), record in records.items():
        cost, computed = record["cost"], length == 512
        assert cost["reused_tokens"] == (0 if computed else length)
        assert (cost["prefill_seconds"] > 0) == computed and cost["peak_memory_bytes"] > 0
        assert cost["reuse_difference"] is None if computed else 0 <= cost["reuse_difference"] < 1e-8
    read.clear()
    run(tmp_path / "run", "pg19", ("dca",), (128, 256, 512), samples=3)
    assert read == [512, 128]
    read.clear()
    run(tmp_path / "ntk", "pg19", ("dynamic_ntk",), (128, 256))
    assert sorted(read) == [128, 128, 256, 256]


def test_nothing_is_shared_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "grouped", lambda jobs, by_length: [runner.Group(list(jobs), shares=False)])
    run(tmp_path / "run", "pg19", ("vanilla",), (512, 128), samples=1)
    assert [record["cost"]["reused_tokens"] for record in fields_of(tmp_path / "run")] == [0, 0]


def test_long_texts_go_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that takes less memory than a cache: not for a short text, nor where the cache forgets."""

    def ways(folder: Path) -> dict[tuple[str, int], str]:
        return {(record["method"], record["seq_len"]): record["cost"]["pass"] for record in fields_of(folder)}

    methods = ("vanilla", "dca", "fot:memory_layers=[1],context_length=16", "dynamic_ntk")
    run(tmp_path / "cached", "pg19", methods, (128, 256))
    assert set(ways(tmp_path / "cached").values()) == {"cached"}
    monkeypatch.setattr("lcbench.engine.generate.PREFILL_CHUNK", 200)
    run(tmp_path / "layerwise", "pg19", methods, (128, 256))
    assert ways(tmp_path / "layerwise") == {
        ("vanilla", 128): "layerwise",  # a part of the pass over 256
        ("vanilla", 256): "layerwise",
        ("dca", 128): "layerwise",
        ("dca", 256): "layerwise",
        ("fot:memory_layers=[1],context_length=16", 128): "cached",
        ("fot:memory_layers=[1],context_length=16", 256): "cached",
        ("dynamic_ntk", 128): "layerwise",  # taken over from vanilla
        ("dynamic_ntk", 256): "layerwise",
    }
    for one, other in zip(fields_of(tmp_path / "cached"), fields_of(tmp_path / "layerwise"), strict=True):
        assert one["id"] == other["id"] and one["scores"]["nll"] == pytest.approx(other["scores"]["nll"], abs=1e-6)
    monkeypatch.setattr("lcbench.engine.layerwise._is_stack", lambda *_: False)
    run(tmp_path / "refused", "pg19", ("vanilla",), (256,))
    (way,) = set(ways(tmp_path / "refused").values())
    assert way.startswith("cached, since the decoder of LlamaForCausalLM is not a plain stack")


@dataclass(frozen=True)
class Liar(Method):
    """Says that prefixes are stable, as every method does that does not say otherwise."""

    name: ClassVar[str] = "liar"

    way: str = "run"
    prompt: int = 0

    def for_prompt(self, length: int | None) -> Liar:
        return dataclasses.replace(self, prompt=(length or 0) if self.way == "prompt" else 0)

    def score_scale(self, i: Tensor, lengths: Lengths) -> Tensor | None:
        run = lengths.run or 0
        return torch.full((len(i),), 1 + run / 1000, dtype=torch.float64) if self.way == "run" else None

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return (inv_freq / (lengths.run or 1), 1.0) if self.way == "rope" else (inv_freq, 1.0)

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        return [Piece(q_pos=i + self.prompt // 100, k_pos=j, start=torch.zeros_like(i), stop=i + 1)]


del REGISTRY["liar"]  # other tests look at all methods


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("run", "depends on the length of the run, 128 or 512"),
        ("rope", "depends on the length of the run, 128 or 512"),
        ("prompt", "by itself differs by"),
    ],
)
def test_a_method_that_lies_fails_with_the_reason(
    way: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "liar", Liar)
    outcome = run(tmp_path / "run", "pg19", (f"liar:way={way}",), (128, 256, 512))
    assert {job.cell.seq_len for job, _ in outcome.failed} == {128, 256}
    for _, reason in outcome.failed:
        assert words in reason and "correct its prefix_stable" in reason
    done = [record for record in fields_of(tmp_path / "run") if record["error"] is None]
    assert {record["seq_len"] for record in done} == {512}
    monkeypatch.setattr(Liar, "prefix_stable", False, raising=False)
    assert not run(tmp_path / "honest", "pg19", (f"liar:way={way}",), (128, 256, 512)).failed


def test_no_number_fails_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.engine.score._nll", lambda logits, targets: targets * float("nan"))
    outcome = run(tmp_path / "run", "pg19", ("vanilla",), (128,))
    assert "NotFiniteError: the logits are NaN or infinite" in outcome.failed[0][1]
    assert not list((tmp_path / "run").glob("nll/*"))


def test_a_resumed_run_is_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    for samples in (1, 3):
        run(tmp_path / "parts", "pg19", ("vanilla", "dynamic_ntk"), (128, 300), samples)
    run(tmp_path / "whole", "pg19", ("vanilla", "dynamic_ntk"), (128, 300), 3)
    assert records_of(tmp_path / "parts") == records_of(tmp_path / "whole")
    parts, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "nll").iterdir()} for name in ("parts", "whole")
    )
    assert parts == whole and len(whole) == 9  # dynamic_ntk at 128 tokens is vanilla


@pytest.mark.parametrize("moment", ["between", "within"])
def test_killed_beside_an_array(moment: str, tmp_path: Path) -> None:
    """When the array is there and its record is not; in the middle of the array."""
    command = ("run", "pg19", "--seq-len", "128,256", "--samples", "2", "--dtype", "float64", "-o", tmp_path / "run")
    append, seen = RunWriter.append, []

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        if moment == "between":
            RunWriter.append = lambda self, record: die() if len(seen) == 2 else (seen.append(1), append(self, record))
        else:  # run.json and its folder, then of each sample the array, its folder and the record
            files.os.fsync = lambda file: (seen.append(1), die() if len(seen) == 12 else None)
        cli(*command)

    assert in_child(killed) == signal.SIGKILL
    arrays = tmp_path / "run" / "nll"
    assert len(list(arrays.iterdir())) > len(fields_of(tmp_path / "run")) > 0
    assert any(path.suffix == ".tmp" for path in arrays.iterdir()) == (moment == "within")
    assert cli(*command).code == 0
    run(tmp_path / "whole", "pg19", ("vanilla",), (128, 256))
    names = [sorted(path.name for path in (tmp_path / name / "nll").iterdir()) for name in ("run", "whole")]
    assert names[0] == names[1]
    found, expected = records_of(tmp_path / "run"), records_of(tmp_path / "whole")
    assert found.keys() == expected.keys()
    for id, record in expected.items():
        # Of a book that was interrupted a shorter length is not a slice of the longer any more.
        assert found[id].pop("scores") == pytest.approx(record.pop("scores"), rel=1e-6)
        buckets = [each["nll"].pop("buckets") for each in (found[id], record)]
        np.testing.assert_allclose(*buckets, rtol=1e-6)
        assert found[id] == record


def test_scores_from_the_arrays_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "pg19:protocol=segments,book_tokens=300", ("vanilla",), (128,))
    run(folder.with_name("two"), "pg19", ("vanilla",), (128,))
    for each in (folder, folder.with_name("two")):
        assert cli("rescore", each).out == "0 of 2 scores changed\n"
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    right = lines[1]["scores"]["nll"]
    lines[1]["scores"]["nll"] = 99.0
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli("rescore", folder).out.endswith("1 of 2 scores changed\n")
    assert fields_of(folder)[1]["scores"]["nll"] == right
    (folder / lines[0]["nll"]["file"]).unlink()
    shown = cli("rescore", folder)
    assert shown.code == 2 and "cannot read" in shown.error and "restore it" in shown.error


def test_the_other_verbs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cli("run", "pg19", "--seq-len", "128,256", "--samples", "2", "-o", folder, "--method", "vanilla,dca")
    assert done.code == 0 and "pg19  256  dca  nll " in done.err and "perplexity" in done.out
    shown = cli("show", "pg19", "--seq-len", "128")
    assert "head 1 + context 127 = 128 tokens of 'generated book 900000', 1 window, 127 tokens scored" in shown.error
    assert (
        "2 windows, 254 tokens scored, protocol segments"
        in cli("show", "pg19:protocol=segments", "--seq-len", "128").error
    )
    dry = cli("run", "pg19", "--seq-len", "128", "--dry-run")
    assert dry.code == 0 and "pg19  128  vanilla  10 samples" in dry.out
    assert "pg19" in cli("list", "tasks").out
    frame = lcbench.load_run(folder)
    assert str(frame["nll.tokens"].dtype) == "Int64" and set(frame["protocol"]) == {"prefix"}
    assert json.loads(frame["nll.buckets"][0])[0][:2] == [1, 1]
    compared = cli("compare", folder, folder, "--fail-on-regression")
    assert compared.code == 0 and "4 cells: 0 regressed, 0 improved, 4 no evidence" in compared.out


@pytest.mark.parametrize(("protocol", "layerwise"), [("prefix", True), ("segments", True), ("prefix", False)])
def test_progress_moves_within_a_text(
    protocol: str, layerwise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By chunks, layers and windows; a layer-by-layer pass counts as many tokens as take the same share of the work."""
    told: list[tuple[int, int]] = []
    progress = Silent()
    monkeypatch.setattr(progress, "prefilled", lambda job, tokens, total: told.append((tokens, total)))
    monkeypatch.setattr("lcbench.engine.generate.PREFILL_CHUNK", 64)
    if not layerwise:
        monkeypatch.setattr("lcbench.engine.layerwise._is_stack", lambda *_: False)
    plan = make_plan(ModelSource(), [Request(f"pg19:protocol={protocol}", ("vanilla",), (256,), samples=1)])
    runner.run(plan, tmp_path / "run", progress)
    tokens = [each for each, _ in told]
    assert tokens == sorted(tokens) and {total for _, total in told} == {256}
    assert tokens[0] == 0 and tokens[-1] >= 255 and len(set(tokens)) > (12 if layerwise else 4)
