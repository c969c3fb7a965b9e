"""Logs of other harnesses become runs that tables, comparisons, pages and gates read; what is not a log is a
sentence."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lcbench.results.imported import inspect_ai
from lcbench.results.records import read_manifest, read_records
from lcbench.results.schema import Record
from tests.helpers import cli
from tests.results.imported.logs import (
    chosen,
    generated,
    header,
    inspect_json,
    inspect_zip,
    inspect_zstandard,
    lm_eval,
    results,
    sample,
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def imported(path: Path | str, *options: str, out: str = "run") -> list[Record]:
    done = cli("import", path, "-o", out, *options)
    assert done.code == 0, done.err
    return read_records(Path(out))


def refused(path: Path | str, *options: str) -> str:
    done = cli("import", path, "-o", "refused", *options)
    assert done.code == 2 and not Path("refused").exists() and len(done.error) < 600, done.err
    return done.error.replace("\n", " ")


def test_what_the_harness_generated() -> None:
    lm_eval(Path("logs"), [generated(n, n % 2 == 0) for n in (3, 0, 1, 2)])
    records = imported("logs")
    assert [one.identity.sample for one in records] == [0, 1, 2, 3] and [one.score for one in records] == [1, 0, 1, 0]
    one = records[1]
    assert one.identity.id == "lm_eval/gsm8k/served/2048/uniform/1" and one.identity.method == "served"
    assert (one.measured.answer.prediction, one.prompt.references, one.prompt.max_new_tokens) == (" no", ["1"], 8)
    assert one.imported and one.imported.harness == "lm_eval" and "prompt_tokens" in one.imported.unknown
    assert "seq_len" not in one.imported.unknown and "max_new_tokens" not in one.imported.unknown
    manifest = read_manifest(Path("run"))
    assert manifest.identity.tasks[0].protocol == "version 3.0, 5-shot" and manifest.identity.engine == "lm_eval"
    assert manifest.sessions[0].versions == {"lm_eval": "0.4.13"} and manifest.missing(records) == 0
    again = cli("import", "logs", "-o", "run")
    assert again.code == 0 and "4 records: run" in again.out


def test_choices_and_filters_of_one_document() -> None:
    lm_eval(Path("mc"), [chosen(0), chosen(1, ("-0.5", "-1.5"))])
    first, second = imported("mc", out="chosen")
    assert first.measured.answer.choices == {" a": -1.5, " b": -0.5} and first.measured.answer.prediction == "b"
    assert second.measured.answer.prediction == "a" and first.measured.scores.metric == "acc"
    assert [one.score for one in imported("mc", "--metric", "acc_norm", out="norm")] == [0, 0]

    strict = [generated(n, True, filter="strict-match") for n in range(2)]
    flexible = [generated(n, False, filter="flexible-extract") for n in range(2)]
    lm_eval(Path("two"), [*strict, *flexible])
    records = imported("two", "--metric", "exact_match,flexible-extract", out="filters")
    assert [one.measured.scores.scores for one in records] == 2 * [
        {"exact_match,strict-match": 1.0, "exact_match,flexible-extract": 0.0}
    ]
    assert [one.score for one in records] == [0, 0]


def test_a_gate_on_two_logs() -> None:
    """The same documents pair up, and others do not, whatever their number."""
    for name, right, model in (("old", 40, "m"), ("new", 12, "m2")):
        lm_eval(Path(name), [generated(n, n < right) for n in range(40)], results(model))
        imported(name, out=f"run_{name}")
    gate = cli("compare", "run_old", "run_new", "--fail-on-regression")
    assert gate.code == 1 and "regressed" in gate.out and "model" in gate.out
    assert cli("compare", "run_old", "run_old", "--fail-on-regression").code == 0
    lm_eval(Path("other"), [generated(n, True, doc_hash=f"another {n}") for n in range(40)])
    imported("other", out="run_other")
    told = " ".join(cli("compare", "run_old", "run_other").out.split())
    assert "not comparable" in told and "the seeds of" in told


def test_what_others_read() -> None:
    lm_eval(Path("logs"), [generated(n, n % 2 == 0) for n in range(4)], results(max_length=None))
    (record, *_) = imported("logs")
    assert record.identity.seq_len == 0 and record.imported and "seq_len" in record.imported.unknown
    for verb in (("table", "run"), ("compare", "run", "run"), ("report", "run"), ("export", "run"), ("list", "runs")):
        done = cli(*verb)
        assert done.code == 0, (verb, done.err)
        assert verb[0] not in ("table", "compare") or "unknown" in done.out
    assert "imported from lm_eval, which computed its scores" in cli("rescore", "run").error
    assert {one.identity.seq_len for one in imported("logs", "--seq-len", "4k", out="known")} == {4096}


def test_a_log_of_lcbench_tells_its_method() -> None:
    own = {"model": "tiny", "method": "dca:chunk_size=48", "method_options": {"chunk_size": 48}, "layers_steered": 4}
    for name, method in (("a", "vanilla"), ("b", "dca:chunk_size=48")):
        told = results(config=own | {"method": method, "pretraining_length": 256})
        lm_eval(Path("both", name), [generated(n, True) for n in range(3)], told)
    records = imported("both")
    assert {one.identity.method for one in records} == {"vanilla", "dca:chunk_size=48"}
    assert {one.identity.model for one in records} == {"tiny"}
    assert read_manifest(Path("run")).identity.pretraining_length == 256
    assert cli("compare", "run", "run", "--pair", "vanilla=dca:chunk_size=48").code == 0


@pytest.mark.parametrize("make", [inspect_json, inspect_zip, inspect_zstandard])
def test_what_inspect_logged(make: Any) -> None:
    long = sample(3, "P", input="attachment://x", attachments={"x": "a long question"})
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Q2?"}]}]
    failed = sample("4/five", None, scores=None, error={"message": "it broke", "traceback": "", "traceback_ansi": ""})
    path = make(Path(f"log{'.json' if make is inspect_json else '.eval'}"), [
        sample(1, "C"), sample(2, 0, input=said), long, failed,
    ])  # fmt: skip
    records = {str(one.prompt.details and one.prompt.details["id"]): one for one in imported(path)}
    assert {id: one.score for id, one in records.items()} == {"1": 1.0, "2": 0.0, "3": 0.5, "4/five": None}
    assert records["4/five"].error == "it broke" and records["4/five"].identity.id.count("/") == 5
    first = records["1"]
    assert (first.prompt.prompt_tokens, first.measured.answer.output_tokens) == (30, 5)
    assert first.measured.answer.prediction == "It is 1." and first.measured.answer.finish_reason == "stop"
    assert first.imported and first.imported.unknown[:2] == ["seq_len", "max_new_tokens"]
    manifest = read_manifest(Path("run"))
    assert manifest.identity.model == "p/m" and manifest.identity.tasks[0].name == "inspect_ai/sums"
    assert cli("table", "run").code == 0


def test_epochs_are_repeats_and_an_unfinished_log_says_so() -> None:
    inspect_zip(Path("a.eval"), [sample(n, "C", epoch=e) for n in (1, 2) for e in (1, 2)], config={"epochs": 2})
    records = imported("a.eval")
    assert [(one.identity.sample, one.identity.repeat) for one in records] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    inspect_json(Path("b.json"), [sample(1, "C")])
    assert read_manifest(Path("run")).identity.jobs and len(imported("b.json", out="part")) == 1
    assert "part is unfinished: 1 of 4 samples" in cli("table", "part").err


def broken_line(line: str) -> Path:
    path = lm_eval(Path("logs"), [generated(0, True)])
    path.write_text(path.read_text() + line)
    return Path("logs")


BROKEN: dict[str, tuple[Any, str]] = {
    "half a line": (lambda: broken_line('{"doc_id": 1, "do'), "line 2: is not JSON"),
    "a list": (lambda: broken_line("[]\n"), "line 2: is not a JSON object"),
    "no id": (lambda: broken_line("{}\n"), "line 2: doc_id is missing"),
    "an id in words": (lambda: broken_line('{"doc_id": "x"}\n'), "line 2: doc_id must be a whole number, not 'x'"),
    "no metrics": (lambda: broken_line('{"doc_id": 1}\n'), "line 2: metrics is missing"),
    "twice": (lambda: broken_line(json.dumps(generated(0, True)) + "\n"), "document 0 occurs twice"),
    "no samples": (lambda: lm_eval(Path("logs"), []), "has no samples"),
    "no numbers": (
        lambda: lm_eval(Path("logs"), [generated(0, True, exact_match=["a"])]),
        "is one number per sample",
    ),
    "lower is better": (
        lambda: lm_eval(Path("logs"), [generated(0, True, metrics=["ter"], ter=0.3)]),
        "ter is better when lower",
    ),
    "no model": (lambda: lm_eval(Path("logs"), [generated(0, True)], {"config": {}}), "model_name is missing"),
    "results of a list": (lambda: lm_eval(Path("logs"), [generated(0, True)], []), "is not a JSON object"),  # type: ignore[arg-type]
    "an empty folder": (lambda: Path("empty").mkdir() or Path("empty"), "has no sample log"),
    "nothing": (lambda: Path("nowhere"), "there is no file or folder"),
    "another file": (lambda: Path("x.txt").write_text("x") and Path("x.txt"), "is not a sample log"),
    "other JSON": (lambda: Path("x.json").write_text("{}") and Path("x.json"), "task is missing"),
    "no zip": (lambda: Path("x.eval").write_text("x") and Path("x.eval"), "as a zip"),
    "a zip without header": (lambda: zipped({"samples/1_epoch_1.json": b"{}"}), "has no header.json"),
    "a sample of a list": (
        lambda: zipped({"header.json": json.dumps(header()).encode(), "samples/1_epoch_1.json": b"[]"}),
        "samples/1_epoch_1.json: is not a JSON object",
    ),
    "a member that is damaged": (lambda: damaged(inspect_zstandard(Path("x.eval"), [sample(1, "C")])), "is damaged"),
    "a score of a text": (lambda: inspect_json(Path("a.json"), [sample(1, "great")]), "no sample with a score"),
    "a sample twice": (lambda: inspect_json(Path("a.json"), [sample(1, "C"), sample(1, "I")]), "occurs twice"),
    "tokens below zero": (
        lambda: inspect_json(Path("a.json"), [sample(1, "C", output={"usage": {"output_tokens": -1}})]),
        "a.json, sample 1: field `output_tokens` must be a whole number",
    ),
    "a share below zero": (
        lambda: lm_eval(Path("logs"), [generated(0, True, exact_match=-1.0)]),
        "sample 0: field `exact_match` must be from 0 to 1, not -1",
    ),
    "an id of a list": (lambda: inspect_json(Path("a.json"), [sample(1, "C") | {"id": [1]}]), "samples[0]: id must be"),
}


def damaged(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[80] ^= 255
    path.write_bytes(content)
    return path


def zipped(members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile("x.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Path("x.eval")


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_log(what: str) -> None:
    make, sentence = BROKEN[what]
    assert sentence in refused(make())


def test_logs_that_do_not_go_together() -> None:
    for name in ("one", "two"):
        lm_eval(Path("logs", name), [generated(0, True)], results(name))
    assert "logs of several models (one, two)" in refused("logs")
    lm_eval(Path("same", "a"), [generated(0, True)])
    lm_eval(Path("same", "b"), [generated(0, True)])
    assert "lm_eval/gsm8k is in both" in refused("same")
    path = lm_eval(Path("alone"), [generated(0, True)])
    assert "did you mean 'exact_match'" in refused(path, "--metric", "exact_mach")
    told = next(Path("alone").glob("results_*"))
    named = told.rename(told.with_name(told.name.replace("results", "mine")))  # of `--output_path mine.json`
    assert (
        [one.identity.sample for one in imported(named, out="named")]
        == [0]
        == [one.identity.sample for one in imported("alone", out="folder")]
    )
    named.unlink()
    assert "beside it, which names the model" in refused(path)
    Path("taken").mkdir()
    taken = cli("import", "same/a", "-o", "taken")
    assert taken.code == 2 and "already exists" in taken.error


def test_bombs_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_ai, "LARGEST_LOG", 2**20)
    bomb = zipped({"header.json": b" " * 2**21, "samples/1_epoch_1.json": b"{}"})
    assert "unpacks to 2 MB" in refused(bomb)
    monkeypatch.setattr(inspect_ai, "LARGEST_LOG", 2**32)
    monkeypatch.setattr(inspect_ai, "LARGEST_SAMPLE", 2**20)
    assert "header.json has more than 1 MB" in refused(bomb)
    Path("pipe.json").unlink(missing_ok=True)
    os.mkfifo("samples_x_2026-01-01T00-00-00.0.jsonl")
    Path("results_2026-01-01T00-00-00.0.json").write_text(json.dumps(results()))
    assert "device or a pipe" in refused("samples_x_2026-01-01T00-00-00.0.jsonl")


def test_folders_that_vanish_or_are_forbidden_are_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below /proc, where every other program that ends takes its folder along."""
    scan = os.scandir

    def gone(path: str | Path) -> Any:
        if Path(path).name == "4711":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scan(path)

    Path("proc/4711").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", gone)
    assert "proc has no sample log" in cli("import", "proc").error
