"""Folders that were damaged: every verb that reads one says in a sentence what is wrong, or does without it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import lcbench
from lcbench.core.errors import UserError
from lcbench.results.nll import TokenNll
from lcbench.results.records import MANIFEST, RECORDS
from tests.attacks import ALL, report, some
from tests.helpers import Fields, cli
from tests.results.report.samples import failure, likelihood, record

DEEP = "[" * 300 + "]" * 300
# Texts of JSON in the place of a value.
WRONG = ("null", "true", '"x"', '""', "-1", "0", "1.5", "1e400", "NaN", "-Infinity", "1" * 400, "9" * 5000, "1e308",
         "5e-324", "[]", "{}", "[[]]", '{"a": {"b": [null]}}', '["x", 3]', '"\\ud800"', '{"\\udfff": 1}', DEEP,
         '"\\u0000\\u001b[31m"')  # fmt: skip
SPOILT = (b"", b"\xff\xfe", b"{", b"[]", b"3", b"null", b"[" * 100_000, b'{"a":' * 50_000, "{}".encode("utf-16"), b"\0")
IDENTITY = {
    "tasks": [{"name": "passkey", "protocol": "chunkllama", "description": "A number.", "citation": "x"}],
    "jobs": [["passkey", "vanilla", "256/0.5"]],
    "model": "m", "model_fingerprint": "f", "pretraining_length": 256, "dtype": "float32", "device": "cpu",
    "attention": None, "seed": 0,
}  # fmt: skip
SESSION = {
    "started_at": "2026-01-01T00:00:00+00:00", "command": ["lcbench", "run"], "versions": {"lcbench": "0.1.0"},
    "hardware": {"cpu": "c", "cores": 2, "threads": 2, "gpus": ["g"]}, "platform": "Linux",
    "git": {"commit": "c", "changed": False}, "advice": ["none"],
}  # fmt: skip
COST = {"prefill_seconds": 0.5, "decode_seconds": 0.25, "peak_memory_bytes": 1, "reused_tokens": 0,
        "decoded_together": 2, "prefill_chunk": 8192, "attention": ["tiled"]}  # fmt: skip


def whole() -> tuple[Fields, list[Fields]]:
    """A run with everything that a record may hold: answers at depths, demonstrations, a corpus's score, a book."""
    needles = [
        record(sample=n, cell_depth=0.5, depth=0.5, excerpt=["a", "b"], cost=COST, layers_steered=4, session=0)
        for n in range(3)
    ]
    drawn = [
        record(task="trec", sample=n, details={"row": f"q{n // 2}", "draw": n % 2, "document": "d"}, scorer="f1",
               metric="score", scores={"score": 50.0}, choices={"x": -1.5}, answer="x")
        for n in range(4)
    ]  # fmt: skip
    books = [
        likelihood(book=n) | {"id": f"pg19/{n}", "document": "b", "protocol": "prefix", "prediction": ""}
        for n in (0, 1)
    ]
    for book in books:
        book["nll"]["buckets"] = [[1, 1, 2.0, 1], [2, 3, 4.0, 2]]
    rescored = {"scores_before_rescoring": [{"scores": {"exact_match": 1.0}, "metric": "exact_match"}]}
    records = [*needles, *drawn, *books, failure("dca", 256), needles[0] | {"id": "passkey/old/0", **rescored}]
    return {"format": 1, "identity": IDENTITY, "sessions": [SESSION]}, records


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are, from the top: of lists the first entry."""
    pairs = content.items() if isinstance(content, dict) else list(enumerate(content))[:1]
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


MARK = "the value that is wrong"


def damaged(content: Any, path: tuple[Any, ...], wrong: str | None) -> str:
    """JSON without the value at a place, or with another one there."""
    copied = json.loads(json.dumps(content))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    if wrong is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = MARK
    return json.dumps(copied).replace(json.dumps(MARK), wrong or "")


def write(folder: Path, manifest: str, lines: list[str]) -> None:
    (folder / MANIFEST).write_text(manifest)
    (folder / RECORDS).write_text("".join(line + "\n" for line in lines))


Case = tuple[str, Callable[[], tuple[str, list[str]]]]


def cases() -> Iterator[Case]:
    """(what was done, what makes run.json and the lines of records.jsonl)."""
    manifest, records = whole()
    good, lines = json.dumps(manifest), [json.dumps(each) for each in records]

    def of_manifest(path: tuple[Any, ...], wrong: str | None) -> tuple[str, list[str]]:
        return damaged(manifest, path, wrong), lines

    def of_record(number: int, path: tuple[Any, ...], wrong: str | None) -> tuple[str, list[str]]:
        return good, [*lines[:number], damaged(records[number], path, wrong), *lines[number + 1 :]]

    for path in places(manifest):
        for wrong in (None, *WRONG):
            yield f"{MANIFEST} {path} {wrong}", partial(of_manifest, path, wrong)
    seen = set()
    for number, each in enumerate(records):
        for path in places(each):
            kind = (each["task"], each["error"], path)
            if kind not in seen:
                seen.add(kind)
                for wrong in (None, *WRONG):
                    yield f"{RECORDS} {number} {path} {wrong}", partial(of_record, number, path, wrong)


VERBS = (("table",), ("table", "-f", "json"), ("report",), ("compare",), ("rescore",), ("export",), ("plot", "passkey"),
         ("plot", "pg19"), ("plot", "trec"))  # fmt: skip


def attack(folder: Path, good: Path, verb: tuple[str, ...], what: str) -> None:
    """A verb on a folder: it does its work, or ends with one sentence that names the file."""
    arguments: list[str | Path] = {
        "plot": [*verb, "--run", folder, "--out", folder / "x.svg"],
        "compare": [*verb, folder, good],
    }.get(verb[0], [*verb, folder])
    try:
        shown = cli(*arguments)
    except Exception as error:
        raise AssertionError(f"{verb} on {what[:200]}: {type(error).__name__}: {error}") from error
    assert shown.code in (0, 1, 2), (verb, what, shown)
    if shown.code == 2:
        assert shown.err.startswith("error: ") and "Traceback" not in shown.err, (verb, what, shown)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    manifest, records = whole()
    for name in ("good", "bad"):
        folder = tmp_path / "results" / name
        (folder / "nll").mkdir(parents=True)
        write(folder, json.dumps(manifest), [json.dumps(each) for each in records])
    return tmp_path / "results"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("count", [60, ALL])
def test_no_damage_ends_in_a_traceback(count: int | None, place: Path) -> None:
    """Each field of each file dropped, of the wrong type, null, not finite, huge, nested; a part of them by default."""
    found, chosen = dict[Any, str](), some(list(product(cases(), (*VERBS, ("list", "runs")))), count)
    for (what, make), verb in chosen:
        write(place / "bad", *make())
        try:
            if verb == ("list", "runs"):
                shown = cli(*verb)
                assert shown.code == 0 and "results/good" in shown.out, what
                with contextlib.suppress(UserError):
                    lcbench.load_run(place / "bad")
            else:
                attack(place / "bad", place / "good", verb, what)
        except AssertionError as error:
            found[verb, what] = str(error)[:300]
    report(len(chosen), found)


@pytest.mark.parametrize("name", [MANIFEST, RECORDS])
def test_files_that_are_no_files_of_a_run(name: str, place: Path) -> None:
    path = place / "bad" / name
    for spoilt in SPOILT:
        path.write_bytes(spoilt + b"\n")
        for verb in (("table",), ("rescore",)):  # which read both files
            attack(place / "bad", place / "good", verb, repr(spoilt[:20]))
        shown = cli("list", "runs")
        assert shown.code == 0 and "results/good" in shown.out
    path.unlink()
    path.mkdir()
    for verb in VERBS:
        attack(place / "bad", place / "good", verb, "a folder")
    path.rmdir()
    path.symlink_to("nowhere")
    assert cli("list", "runs").code == 0


def test_the_field_is_named(place: Path) -> None:
    manifest, records = whole()

    def said(path: tuple[Any, ...], wrong: str | None, number: int = 0) -> str:
        lines = [json.dumps(each) for each in records]
        lines[number] = damaged(records[number], path, wrong)
        write(place / "bad", json.dumps(manifest), lines)
        return cli("table", place / "bad").err

    bad = place / "bad" / RECORDS
    assert said(("cost", "prefill_seconds"), '"x"', 2) == (
        f"error: {bad}, line 3: field `cost.prefill_seconds` must be a number of seconds, not 'x'; move the file away, "
        "or restore it.\n"
    )
    assert "line 1: field `cost.prefill_seconds` must be a number of seconds, not nan;" in said(
        ("cost", "prefill_seconds"), "NaN"
    )
    assert "line 1: field `references[0]` must be a text, not 3;" in said(("references", 0), "3")
    assert "line 1: field `seq_len` must be a whole number of tokens from 1 up, not 0;" in said(("seq_len",), "0")
    assert "line 1: field `prompt_sha256` is missing;" in said(("prompt_sha256",), None)
    assert "line 8: field `nll.buckets[0]` must be a list of 4 numbers, not a list;" in said(
        ("nll", "buckets", 0), "[1]", 7
    )
    write(place / "bad", damaged(manifest, ("identity", "tasks", 0, "name"), "[]"), [json.dumps(records[0])])
    assert f"{place / 'bad' / MANIFEST}: field `identity.tasks[0].name` must be a text, not a list;" in (
        cli("table", place / "bad").err
    )


def test_likelihoods_that_are_damaged(place: Path) -> None:
    """The arrays beside the records: cut off, of another kind, not finite."""
    import numpy as np

    ones = np.ones(1, dtype=np.int64)
    file = TokenNll(np.ones(3, dtype=np.float32), ones, ones, ones * 4, 0).write(place / "bad", "x")
    content = (place / "bad" / file).read_bytes()
    manifest, records = whole()
    book = records[7] | {"task": "pg19", "nll": {**records[7]["nll"], "file": file}}
    write(place / "bad", json.dumps(manifest), [json.dumps(book)])
    assert cli("rescore", place / "bad").code == 0
    for number in range(0, len(content), 41):
        (place / "bad" / file).write_bytes(content[:number] + bytes([content[number] ^ 0xFF]) + content[number + 1 :])
        write(place / "bad", json.dumps(manifest), [json.dumps(book)])
        attack(place / "bad", place / "good", ("rescore",), f"byte {number}")
    for values in (np.zeros((2, 2), np.float32), np.array([], np.float32), np.array([np.nan]), np.array(["x"])):
        np.savez(place / "bad" / file, nll=values, start=ones, first=ones, stop=ones, head=np.int64(0))
        attack(place / "bad", place / "good", ("rescore",), str(values))
