"""`lcbench bench` as a user runs it: what it writes, what ends it, and what it says. No test looks at the clock."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import pytest
import torch
from torch import Tensor

from lcbench.apps.bench import measure, passes, subjects, timing
from lcbench.apps.bench.result import PARTS, Result
from tests.helpers import Outcome, cli

DCA, FOT = "dca:chunk_size=64,max_position=95", "fot:memory_layers=[1],context_length=64"
METHODS = ["vanilla", DCA, FOT]
SMALL = ["bench", "--shape", "tiny", "--layers", "2", "--device", "cpu", "--rounds", "2"]


@pytest.fixture(autouse=True)
def short_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "TURN", 0.0)
    monkeypatch.setitem(passes.MATMUL_SIZE, "cpu", 64)
    monkeypatch.setattr(passes, "STEPS", 2)


def bench(*arguments: str) -> Outcome:
    return cli(*SMALL, *arguments)


def read(path: str) -> SimpleNamespace:
    """What `--json` wrote, with attributes for its fields."""

    def as_object(fields: dict[str, Any]) -> Any:
        return SimpleNamespace(**fields) if fields.keys() & {"skipped", "part", "median"} else fields

    content: SimpleNamespace = json.loads(Path(path).read_text(), object_hook=as_object)
    assert content.format == 1
    return content


def test_everything_is_measured_once(tmp_path: Path) -> None:
    methods = [text for method in METHODS for text in ("--method", method)]
    done = bench(*methods, "--seq-len", "128,150", "--json", "b.json", "--plot", "b.png")
    assert done.code == 0, done.err
    found = read("b.json")
    names = ["sdpa", *METHODS]
    assert [(row.part, row.length, row.subject) for row in found.rows] == [
        (part, length, name)
        for length in (128, 150)
        for parts in (["attention"], ["block"], ["prefill", "decode", "memory"])
        for part in parts
        for name in names
    ]
    assert found.skipped == []
    for row in found.rows:
        assert row.baseline == (row.subject == "sdpa")
        memory = row.part == "memory"
        assert (row.seconds is None) == (row.tokens_per_second is None) == memory == (row.peak_bytes is not None)
        assert (row.matmul_share is None) == (row.part in ("decode", "memory"))
        assert row.layer == (int(row.subject == FOT) if row.part in ("attention", "block") else None)
        assert row.backends == ([] if row.baseline else row.backends) and (row.baseline or row.backends)
        if not memory:
            assert row.seconds and row.seconds.low and row.seconds.low <= row.seconds.median
            assert set(row.ratios) == {"sdpa"} and row.ratios["sdpa"].median > 0
            assert not row.baseline or row.ratios["sdpa"].median == 1
    assert {(check["subject"], check["length"]) for check in found.checks} == {
        (n, k) for n in names for k in (128, 150)
    }
    about = found.about
    assert (about["model"], about["weights"], about["layers"], about["own_layers"]) == ("tiny", "random", 2, 4)
    assert (about["dtype"], about["device"], about["rounds"], about["threads"]) == ("float32", "cpu", 2, 1)
    assert about["clock"] == "CPU time of the process"  # of one thread
    assert found.matmul is not None
    height, width, _ = matplotlib.image.imread("b.png").shape
    assert width > height > 500


def test_kv_cache_of_a_row_is_what_its_method_keeps() -> None:
    done = bench("--method", f"vanilla,{FOT}", "--seq-len", "256", "--what", "memory", "--json", "b.json")
    assert done.code == 0, done.err
    kept = {row.subject: row.kv_bytes for row in read("b.json").rows}
    key = 2 * 4 * 64 * 4  # keys and values of 4 heads of 64 channels in float32
    assert kept["sdpa"] == kept["vanilla"] == 2 * 256 * key
    assert kept[FOT] is not None and 256 * key < kept[FOT] < 2 * 256 * key


def test_a_backend_by_name_and_several_side_by_side() -> None:
    run = ["--method", DCA, "--seq-len", "256", "--what", "attention", "--json", "b.json"]
    assert bench(*run, "--attention", "joint").code == 0
    assert [(row.subject, row.backends) for row in read("b.json").rows] == [("sdpa", []), (DCA, ["matmul"])]
    assert bench(*run, "--attention", "joint,tiled").code == 0
    rows = {row.subject: row.backends for row in read("b.json").rows}
    assert rows == {"sdpa": [], f"{DCA} (matmul)": ["matmul"], f"{DCA} (tiled)": ["tiled"]}


def test_a_model_instead_of_a_shape() -> None:
    run = ["bench", "--model", "lcbench-tiny-fot", "--method", "fot", "--seq-len", "300", "--rounds", "1"]
    done = cli(*run, "--what", "attention", "--device", "cpu", "--json", "b.json")
    assert done.code == 0, done.err
    found = read("b.json")
    assert found.about["weights"] == "its own" and [row.layer for row in found.rows] == [0, 1]
    assert all(row.seconds and row.seconds.low is None for row in found.rows)  # a single round


# Correctness first


def forgets_a_key(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    module, q, k, v, span = args
    v = v.clone()
    v[:, :, 17] = 0
    return WRONG_OF["lcbench"](module, q, k, v, span, **kwargs)


def mixes_up_heads(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    out, _ = WRONG_OF["lcbench"](*args, **kwargs)
    return out.roll(1, dims=2), None


def ignores_the_method(module: Any, q: Tensor, k: Tensor, v: Tensor, *_: Any, scaling: float) -> tuple[Tensor, None]:
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    return out.transpose(1, 2), None


def answers_nan(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    out, _ = WRONG_OF["lcbench"](*args, **kwargs)
    out[:, -1] = torch.nan
    return out, None


WRONG_OF = {"lcbench": subjects.steered_attention}


@pytest.mark.parametrize("wrong", [forgets_a_key, mixes_up_heads, ignores_the_method, answers_nan])
def test_a_wrong_method_is_not_timed(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are."""
    monkeypatch.setattr(subjects, "steered_attention", wrong)
    done = bench("--method", DCA, "--seq-len", "256", "--what", "attention", "--json", "b.json")
    assert done.code == 1
    assert re.search(
        rf"\nfailed: attention of {re.escape(DCA)} at 256 tokens: it differs from the float64 reference by \S+ of a "
        r"row in layer 0, more than \S+; it was not timed\.\n",
        done.out,
    )
    found = read("b.json")
    assert [row.subject for row in found.rows] == [check["subject"] for check in found.checks] == ["sdpa"]
    assert [(skip.subject, skip.failed) for skip in found.skipped] == [(DCA, True)]


def test_a_wrong_baseline_is_not_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sdpa = subjects.ALL_ATTENTION_FUNCTIONS["sdpa"]
    wrong = {"sdpa": lambda *args, **kwargs: (sdpa(*args, **kwargs)[0] * 1.001, None)}
    monkeypatch.setattr(subjects, "ALL_ATTENTION_FUNCTIONS", wrong)
    done = bench("--method", DCA, "--seq-len", "256", "--what", "attention", "--json", "b.json")
    assert done.code == 1 and "failed: attention of sdpa at 256 tokens: it differs" in done.out
    assert [(row.subject, vars(row)["ratios"]) for row in read("b.json").rows] == [(DCA, {})]


def test_what_fails_fails_its_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfResourcesError(Exception):
        """As Triton raises it, which is no RuntimeError."""

    def attend(self: subjects.Steered, *args: Any) -> Tensor:
        if self.name == DCA:
            raise OutOfResourcesError("shared memory, Required: 262152, Hardware limit: 232448.")
        return own(self, *args)

    own = subjects.Steered.attend
    monkeypatch.setattr(subjects.Steered, "attend", attend)
    done = bench("--method", f"{DCA},vanilla", "--seq-len", "256", "--what", "attention", "--json", "b.json")
    assert done.code == 1
    assert (
        f"failed: attention of {DCA} at 256 tokens: it failed (OutOfResourcesError: shared memory, Required:"
        in done.out
    )
    assert [row.subject for row in read("b.json").rows] == ["sdpa", "vanilla"]


def test_a_time_limit_loses_what_was_not_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.Passes, "attention", lambda self, subject, length: 1 / 0 if length > 256 else turn)
    monkeypatch.setattr(passes.Passes, "matmul", lambda self: lambda: passes.Turn({passes.MATMUL: 1.0}))

    def turn() -> passes.Turn:
        return passes.Turn({"attention": 1.0})

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        bench("--method", "vanilla", "--seq-len", "256,300", "--what", "attention", "--json", "b.json")
    assert [row.length for row in read("b.json").rows] == [256, 256] and len(read("b.json").checks) == 4


def test_score_baselines_and_warm_up() -> None:
    asked = ["--method", DCA, "--seq-len", "256", "--what", "score", "--rounds", "1", "--warm-up", "0"]
    done = bench(*asked, "--baseline", "sdpa, sdpa flash", "--json", "b.json")
    assert done.code == 0, done.err
    found = read("b.json")
    assert [(row.part, row.subject) for row in found.rows] == [("score", each) for each in ("sdpa", "sdpa flash", DCA)]
    assert found.about["warm_up"] == 0 and "likelihood of a text" in done.out


# What cannot be measured


def test_what_memory_is_not_there_for_is_skipped_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: 20_000_000)
    done = bench("--method", "vanilla", "--seq-len", "256,8k", "--what", "attention", "--json", "b.json")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("skipped: ")]
    assert lines == [
        f"skipped: attention of {name} at 8,192 tokens: it needs some 80 MiB of memory, and 19 MiB are free."
        for name in ("sdpa", "vanilla")
    ]
    assert [(row.length, row.subject) for row in read("b.json").rows] == [(256, "sdpa"), (256, "vanilla")]


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: 1)
    done = bench("--method", "vanilla", "--seq-len", "256", "--json", "b.json", "--plot", "b.svg")
    assert done.code == 0 and done.out.count("skipped: ") == 2 * 5
    assert read("b.json").rows == [] and read("b.json").matmul is None and Path("b.svg").exists()


@pytest.mark.parametrize("when", ["while it is checked", "while it is timed"])
def test_a_subject_that_runs_out_of_memory_is_left_out(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = subjects.Steered.attend, {"n": 0}

    def attend(self: subjects.Steered, *args: Any) -> Tensor:
        calls["n"] += self.name == DCA
        if self.name == DCA and calls["n"] > (when == "while it is timed"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB.")
        return own(self, *args)

    monkeypatch.setattr(subjects.Steered, "attend", attend)
    done = bench("--method", f"vanilla,{DCA}", "--seq-len", "256", "--what", "attention", "--json", "b.json")
    assert done.code == 0, done.err
    assert f"skipped: attention of {DCA} at 256 tokens: out of memory." in done.out.splitlines()
    assert [row.subject for row in read("b.json").rows] == ["sdpa", "vanilla"]


def test_a_kernel_that_the_machine_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def cudnn_too(target: Any, names: Any) -> list[subjects.Subject]:
        cudnn = subjects.Baseline(target, "sdpa cudnn", "sdpa", torch.nn.attention.SDPBackend.CUDNN_ATTENTION)
        return [subjects.Baseline(target, "sdpa", "sdpa"), cudnn]

    monkeypatch.setattr(measure, "baselines", cudnn_too)
    done = bench("--method", "vanilla", "--seq-len", "256", "--what", "attention", "--json", "b.json")
    assert done.code == 0, done.err
    (skipped,) = read("b.json").skipped
    assert skipped.subject == "sdpa cudnn" and skipped.why.startswith("it does not run here (")
    assert [row.subject for row in read("b.json").rows] == ["sdpa", "vanilla"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shape", "llama-3-9b"], "unknown shape 'llama-3-9b'; did you mean 'llama-3-8b'?"),
        (["--what", "atention"], "unknown part 'atention'; did you mean 'attention'?"),
        (["--baseline", "sdpa cudn"], "unknown baseline 'sdpa cudn'; did you mean 'sdpa cudnn'?"),
        (["--method", "dcaa"], "unknown method 'dcaa'; did you mean 'dca'?"),
        (["--attention", "flsh"], "unknown attention backend 'flsh'; did you mean 'flash'?"),
        (["--layers", "5"], "tiny has 4 layers; --layers 5 is more than that."),
        (["--dtype", "float31"], "unknown dtype 'float31'; did you mean 'float32'?"),
        (["--seq-len", "4q"], "'4q' is not a length in tokens; write 4096, 4k or 128k (k = 1024)."),
        (["--plot", "b.gif"], "cannot draw b.gif: its name must end with one of .png, .svg, .pdf."),
        (["--json", "no/b.json"], "cannot write no/b.json: there is no folder no; create it first."),
        (
            ["--model", "lcbench-tiny"],
            "--model has its own shape and layers; leave --shape and --layers out, or --model.",
        ),
        (["--device", "meta"], "device 'meta' is not available here; use cpu, or leave --device out."),
    ],
)
def test_bad_input(arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.Clock, "seconds", lambda *_: pytest.fail("timed"))
    done = bench("--seq-len", "256", *arguments)
    assert (done.code, done.out, done.error) == (2, "", f"error: {sentence}")


@pytest.mark.parametrize(
    ("method", "sentence"),
    [("fot", "memory_layers"), (f"{FOT},memory=knn", "use memory=dense"), ("dca+self_extend", "position plans")],
)
def test_methods_that_cannot_be_measured(method: str, sentence: str) -> None:
    done = bench("--method", method, "--seq-len", "256")
    assert done.code == 2 and sentence in done.error and done.out == ""


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcbench.apps.bench.memory.free_memory", lambda device: 2**20)
    done = bench("--seq-len", "256")
    assert done.code == 2
    assert re.match(r"error: the weights of tiny in float32 take \d+ MiB, more than cpu has free; pass", done.error)


# What people see


def test_plain_in_a_pipe() -> None:
    done = bench("--method", DCA, "--seq-len", "256", "--rounds", "1")
    assert done.code == 0 and done.err.splitlines() == [
        "checking attention at 256 tokens against the float64 reference",
        "measuring attention at 256 tokens",
        "measuring block at 256 tokens",
        "measuring prefill, decode, memory at 256 tokens",
    ]
    assert not re.search(r"[^\x20-\x7e\n]", done.out)
    head, *tables = done.out.split("\n\n")
    assert head.startswith("tiny, random weights, 2 of 4 layers, trained at 4,096 tokens, float32, ")
    assert len(tables) == len(PARTS) - 1  # all but score
    for table in tables:
        _, heading, *rows = table.splitlines()
        assert heading.split()[:2] == ["tokens", "method"] and heading.rstrip().endswith("x sdpa")
        assert [row.split()[:2] for row in rows] == [["256", "sdpa"], ["256", DCA]]


def test_in_a_narrow_terminal_nothing_is_lost() -> None:
    import io

    from rich.console import Console

    from lcbench.apps.bench.show import print_result

    assert bench("--method", DCA, "--seq-len", "256", "--rounds", "3", "--json", "b.json").code == 0
    screen = io.StringIO()
    found = vars(read("b.json"))
    del found["format"]
    print_result(Console(file=screen, force_terminal=True, width=80, color_system=None), Result(**found))
    assert max(map(len, screen.getvalue().splitlines())) <= 80
    assert "…" not in screen.getvalue() and "─" in screen.getvalue()
