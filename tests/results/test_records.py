"""Records: appended for good, resumed, read in order, and a clear sentence where a folder is not a run's."""

from __future__ import annotations

import json
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.core.files import write_atomically
from lcbench.results.records import (
    LOCK,
    MANIFEST,
    RECORDS,
    RecordTail,
    RunWriter,
    find_runs,
    newest_run,
    read_manifest,
    read_records,
)
from tests.helpers import cli, fields_of
from tests.recorded import IDENTITY, SESSION, ids, record, write, writer


def test_records_read_back_as_written(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    write(run, record(0), record(1, score=0.5))
    assert read_records(run) == [replace(record(0), session=0), replace(record(1, score=0.5), session=0)]
    manifest = read_manifest(run)
    assert manifest.content["identity"] == IDENTITY and manifest.content["sessions"] == [SESSION]
    assert manifest.identity.model == "m" and manifest.sessions[0].started_at == SESSION["started_at"]
    assert sorted(path.name for path in run.iterdir() if path.name != LOCK) == [RECORDS, MANIFEST]


def test_a_record_is_there_as_soon_as_append_returns(tmp_path: Path) -> None:
    with writer(tmp_path / "run") as run:
        for number in range(3):
            run.append(record(number))
            assert ids(tmp_path / "run") == [f"r{n}" for n in range(number + 1)]


def test_resuming_knows_what_is_done(tmp_path: Path) -> None:
    write(tmp_path, record(0), record(1, error="out of memory"))
    with writer(tmp_path) as run:
        assert run.done == {"r0"}  # what failed is to be done again
        assert run.session_number == 1
        run.append(record(1))
        assert run.done == {"r0", "r1"}
    assert [(each["id"], each["error"], each["session"]) for each in fields_of(tmp_path)] == [
        ("r0", None, 0),
        ("r1", None, 1),
    ]
    assert len(read_manifest(tmp_path).content["sessions"]) == 2


def test_of_several_records_of_a_sample_the_last_counts(tmp_path: Path) -> None:
    """In the place of the first, so that a table keeps its order when a cell is repeated."""
    write(tmp_path, record(0, error="x"), record(1), record(2), record(1, score=2), record(0, score=1))
    assert [(each["id"], each.get("score")) for each in fields_of(tmp_path)] == [("r0", 1), ("r1", 2), ("r2", None)]


@pytest.mark.parametrize("torn", [b"{", b'{"id": "r1", "error": null}', "é".encode()[:1], b"\0" * 100])
def test_a_torn_last_line_is_as_if_it_were_not(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, record(0))
    whole = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(whole + torn)
    assert ids(tmp_path) == ["r0"]  # a reader beside the writer sees it so
    with writer(tmp_path) as run:
        assert run.done == {"r0"}
        assert (tmp_path / RECORDS).read_bytes() == whole
        run.append(record(1))
    assert ids(tmp_path) == ["r0", "r1"]


@pytest.mark.parametrize("line", [b"{", b"", b"[]", b"3", b"\xff\xfe", b"[" * 10**5])
def test_a_broken_line_in_the_middle_is_told_with_its_number(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, record(0), record(1))
    lines = (tmp_path / RECORDS).read_bytes().split(b"\n")
    broken = b"\n".join([lines[0], line, *lines[1:]])
    (tmp_path / RECORDS).write_bytes(broken)
    for attempt in (lambda: read_records(tmp_path), lambda: write(tmp_path)):
        with pytest.raises(UserError, match=rf"{RECORDS}, line 2, is not a record"):
            attempt()
    assert (tmp_path / RECORDS).read_bytes() == broken


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, record(0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"holds another run \(it differs in model, seed\)"):
        writer(tmp_path, seed=1, model="n").__enter__()
    with pytest.raises(UserError, match=r"\(it differs in kv_dtype\)"):
        writer(tmp_path, kv_dtype="bfloat16").__enter__()  # an option that the run there was made without
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write(tmp_path, record(1))


@pytest.mark.parametrize("name", ["thesis.tex", RECORDS, ".hidden"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match="contains something other than results"):
        write(tmp_path)
    assert (tmp_path / name).read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"identity": 3, "sessions": []}', '{"format": 1}'])
def test_a_run_json_of_something_else_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    for attempt in (lambda: read_manifest(tmp_path), lambda: write(tmp_path)):
        with pytest.raises(UserError, match=MANIFEST):
            attempt()
    assert (tmp_path / MANIFEST).read_text() == text


def test_another_format_is_told(tmp_path: Path) -> None:
    write(tmp_path, record(0))
    manifest = read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest.content, "format": 2}))
    for verb in ("table", "rescore", "export", "report"):
        refused = cli(verb, tmp_path)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            f"error: {tmp_path} was written by another version of lcbench; "
            "read it with that version, or run it again.\n"
        )
    with pytest.raises(UserError, match="another version of lcbench"):
        write(tmp_path)


@pytest.mark.parametrize("place", ["a-file", "a-file/run"])
def test_a_folder_that_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write to .*; pass another --output\.$"):
        write(tmp_path / place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write to .*Permission denied"):
        write(tmp_path / "run")


def test_a_tail_tells_each_record_once(tmp_path: Path) -> None:
    tail = RecordTail(tmp_path)
    assert tail.news() == []
    path = tmp_path / RECORDS
    line = json.dumps(record(0).as_json())
    path.write_text(f"{line}\n{line[:9]}")
    assert tail.news() == [record(0)] and tail.news() == []
    path.write_text(f"{line}\n{line}\n{{\n")
    with pytest.raises(UserError, match="line 3, is not a record"):
        tail.news()


def test_records_are_read_in_the_order_of_the_plan(tmp_path: Path) -> None:
    """Whatever the order of writing: tables and bootstrap intervals go by it."""
    identity = {"jobs": [["passkey", "dca:mscale=0.1", "256/0.5"], ["passkey", "vanilla", "256/0.5"]]}
    names = [f"passkey/{method}/256/0.5/{n}" for method in ("dca:mscale=0.1", "vanilla") for n in range(11)]
    with RunWriter(tmp_path, identity, SESSION) as run:
        for name in random.Random(0).sample([*names, "elsewhere"], 23):
            run.append(record(0, id=name, sample=int(name.rpartition("/")[2]) if "/" in name else 0))
    assert ids(tmp_path) == [*names, "elsewhere"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_goes_on_with_the_options_that_it_has(tmp_path: Path, *, nested: bool) -> None:
    """The identity of a run holds a method as it was typed; what its defaults come to may change with the version."""

    def options(**values: float) -> dict[str, Any]:
        return {"self_extend": values, "logn": {"base": 8192}} if nested else values

    id = "passkey/self_extend/256/0.5/0"
    with RunWriter(tmp_path, {"model": "m"}, SESSION) as run:
        run.append(record(0, id=id, method="self_extend", method_options=options(group_size=3, neighbor_window=64)))

    def again(**values: float) -> RunWriter:
        return RunWriter(tmp_path, {"model": "m"}, SESSION, options={id[:-2]: options(**values)})

    for same in (again(group_size=3, neighbor_window=64), again(group_size=3, neighbor_window=64, later=1)):
        with same as run:
            assert run.done == {id}
    with pytest.raises(
        UserError,
        match=r"self_extend at 256 tokens with (self_extend\.)?group_size=3, and this lcbench would continue with 5",
    ):
        again(group_size=5, neighbor_window=64).__enter__()


def test_runs_are_found_oldest_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        newest_run(tmp_path)
    write(tmp_path / "b", record(0))
    time.sleep(0.02)
    write(tmp_path / "a", record(0))
    time.sleep(0.02)
    write(tmp_path / "empty")  # one that came to nothing hides no other
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / RECORDS).write_text("x\n")
    assert [folder.name for folder in find_runs(tmp_path)] == ["b", "a"]
    assert newest_run(tmp_path).name == "a"
    write(tmp_path / "b", record(1))
    assert newest_run(tmp_path).name == "b"


@pytest.mark.parametrize("place", ["nowhere", ""])
def test_a_folder_without_a_run_is_told(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no run\.json"):
        read_manifest(tmp_path / place)
    with pytest.raises(UserError, match="has no records yet"):
        read_records(tmp_path / place)


def test_a_run_without_records_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    for _ in ("an empty file", "none"):
        with pytest.raises(UserError, match=rf"^{tmp_path} has no records yet\.$"):
            read_records(tmp_path)
        (tmp_path / RECORDS).unlink(missing_ok=True)
    write(tmp_path, record(0))
    assert ids(tmp_path) == ["r0"]


def test_what_differs_is_named_as_it_is_typed(tmp_path: Path) -> None:
    def job(task: str = "passkey", method: str = "vanilla", cell: str = "256/uniform") -> list[str]:
        return [task, method, cell]

    def differing(jobs: list[list[str]], **tasks: int) -> tuple[str, ...]:
        texts = [{"name": name, "samples": samples} for name, samples in tasks.items()]
        with pytest.raises(UserError) as refused:
            writer(tmp_path, jobs=jobs, tasks=texts).__enter__()
        return re.fullmatch(r".* \(it differs in (.*)\); pass another --output(.*)\.", str(refused.value)).groups()  # type: ignore[union-attr]

    with writer(tmp_path, jobs=[job(), job(method="pi")], tasks=[{"name": "passkey", "samples": 1}]):
        pass
    together = ", and `lcbench table A B` shows several runs together"
    assert differing([job(), job(method="pi"), job(method="dca")], passkey=1) == ("the method dca", together)
    assert differing([job(), job(method="pi"), job(cell="512/uniform")], passkey=1) == ("the length 512", together)
    assert differing([job(cell="256/0.5"), job(method="pi")], passkey=1) == ("the depth 0.5", together)
    assert differing([job(task="a"), job(method="pi")], passkey=1, a=1) == ("the task a", together)
    assert differing([job()], passkey=2) == ("the method pi, tasks", together)
    assert differing([job(), job(method="pi")], passkey=2) == ("tasks", "")
    assert differing([job(method="pi"), job()], passkey=1)[0] == "the order or combination of its cells"
    many = [job(), job(method="pi"), *(job(cell=f"{n}/uniform") for n in range(1000, 1005))]
    assert differing(many, passkey=1)[0] == "the lengths 1000, 1001, 1002 and 2 more"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    (tmp_path / "link").symlink_to(page)
    write_atomically(tmp_path / "link", "néw")
    assert page.read_text(encoding="utf-8") == "néw" and (tmp_path / "link").is_symlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(page, "half")
    assert page.read_text(encoding="utf-8") == "néw"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "page.html"]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "text")
    assert os.read(reader, 10) == b"text" and pipe.is_fifo()
    os.close(reader)


@pytest.mark.parametrize(
    ("there", "here", "same"),
    [
        ({}, {"kv_dtype": "float16"}, False),
        ({"kv_dtype": "float16"}, {}, False),
        ({"kv_offload": True}, {}, False),
        ({"of a later version": 3}, {}, False),
        ({"seed": 0}, {}, False),
        ({"kv_dtype": "auto"}, {}, True),
        ({"kv_offload": False}, {}, True),
        ({}, {"attention": None}, True),
    ],
)
def test_options_that_only_one_of_two_runs_has(
    tmp_path: Path, there: dict[str, object], here: dict[str, object], same: bool
) -> None:
    """An option that is absent is at its default, on both sides."""
    with RunWriter(tmp_path, {"model": "m"} | there, {}) as run:
        run.append(record(0))
    again = RunWriter(tmp_path, {"model": "m"} | here, {})
    if same:
        with again as run:
            assert run.done == {"r0"}
    else:
        with pytest.raises(UserError, match=f"it differs in {next(iter(there | here))}"), again:
            pass
