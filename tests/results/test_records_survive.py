"""Records outlive what happens to their writer: full disks, death at any step, and other processes in the folder."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lcbench.core.errors import LostRecordsError, UserError
from lcbench.results.records import CLAIMS, LOCK, RECORDS, RunWriter, read_manifest
from lcbench.results.schema import Record
from tests.helpers import REPOSITORY, cli, lines_of
from tests.killed_writer import forked, in_child
from tests.recorded import IDENTITY, SESSION, ids, record, write, writer


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with writer(tmp_path) as first:
        with pytest.raises(UserError, match="another lcbench is writing"), writer(tmp_path):
            pass
        first.append(record(0))
        assert ids(tmp_path) == ["r0"]
    write(tmp_path, record(1))
    assert ids(tmp_path) == ["r0", "r1"]


HOLDER = """
import sys, time
from pathlib import Path
from lcbench.results.records import RunWriter
from tests.recorded import record
with RunWriter(Path(sys.argv[1]), {"model": "m"}, {}) as run:
    run.append(record(0))
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    """Another process holds the lock until it is killed; no stale lock is left."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another lcbench is writing"):
            RunWriter(tmp_path / "run", {"model": "m"}, {}).__enter__()
        assert ids(tmp_path / "run") == ["r0"]
    finally:
        holder.kill()
        holder.communicate()
    with RunWriter(tmp_path / "run", {"model": "m"}, {}) as run:
        assert run.done == {"r0"}


def test_no_room_harms_nothing_and_resuming_completes(tmp_path: Path) -> None:
    """A limit on file sizes in a child: the write fails in the middle of a record, as on a full disk."""

    def child() -> None:
        with writer(tmp_path) as run:
            for number in range(3):
                run.append(record(number))
            size = (tmp_path / RECORDS).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
            for _ in range(2):
                with pytest.raises(UserError, match=r"cannot write to .*; earlier records are intact"):
                    run.append(record(3))
                assert (tmp_path / RECORDS).stat().st_size == size

    assert in_child(child) == 0
    assert ids(tmp_path) == ["r0", "r1", "r2"]
    with writer(tmp_path) as run:
        assert run.done == {"r0", "r1", "r2"}
        run.append(record(3))
    assert ids(tmp_path) == ["r0", "r1", "r2", "r3"]


def test_death_at_every_step_loses_nothing(tmp_path: Path) -> None:
    """Killed at every call that changes the disk, and once more at every such call of the run that resumes: whatever
    append returned from is there, once, and the next run completes."""
    killer = subprocess.run(
        [sys.executable, "-m", "tests.killed_writer", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert killer.returncode == 0, killer.stderr
    assert int(killer.stdout) >= 100


def shared(folder: Path) -> RunWriter:
    return RunWriter(folder, IDENTITY, SESSION, shared=True)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """Four processes claim the parts of one run: each is done once, no line is torn, and every session is listed."""

    def work() -> None:
        with shared(tmp_path) as run:
            for number in random.sample(range(60), 60):
                if run.claim(f"part {number}"):
                    run.news()
                    if f"r{number}" not in run.done:
                        run.append(record(number, filling="x" * 5000))
                    run.release(f"part {number}")

    workers = [forked(work) for _ in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
    assert sorted(line["id"] for line in lines_of(tmp_path)) == sorted(f"r{number}" for number in range(60))
    assert len(read_manifest(tmp_path).content["sessions"]) == 4
    write(tmp_path, record(60))  # and one process alone goes on with it
    assert len(ids(tmp_path)) == 61


def test_a_claim_is_free_again_when_its_process_dies(tmp_path: Path) -> None:
    told, tell = os.pipe()

    def hold() -> None:
        with shared(tmp_path) as run:
            assert run.claim("one")
            os.write(tell, b"!")
            time.sleep(600)

    with shared(tmp_path) as run:
        holder = forked(hold)
        assert os.read(told, 1) == b"!"
        assert not run.claim("one") and run.claim("two")
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert run.claim("one")
    assert (tmp_path / CLAIMS).stat().st_size == 0


def test_what_another_process_wrote_is_news_once(tmp_path: Path) -> None:
    with shared(tmp_path) as one:
        one.append(record(0))
        with shared(tmp_path) as other:  # in one process: their claims are not apart, their records are
            assert other.done == {"r0"} and other.news() == []
            other.append(record(1))
            other.append(record(2, error="out of memory"))
            assert [each.identity.id for each in one.news()] == ["r1", "r2"] and one.news() == []
            assert one.done == {"r0", "r1"}
            one.append(record(3))
            assert [each.identity.id for each in other.news()] == ["r3"]


def test_the_torn_line_of_a_neighbour_is_cut_off(tmp_path: Path) -> None:
    with shared(tmp_path) as run:
        run.append(record(0))
        with (tmp_path / RECORDS).open("ab") as file:
            file.write(b'{"id": "r1", "err')  # killed within its write
        assert run.news() == [] and ids(tmp_path) == ["r0"]
        run.append(record(2))
        assert ids(tmp_path) == ["r0", "r2"]


def test_one_alone_and_several_exclude_each_other(tmp_path: Path) -> None:
    with shared(tmp_path):
        with pytest.raises(UserError, match="another lcbench is writing"), writer(tmp_path):
            pass
        with shared(tmp_path):
            pass
    with writer(tmp_path), pytest.raises(UserError, match="another lcbench is writing"), shared(tmp_path):
        pass


def replace_records(folder: Path) -> None:
    content = (folder / RECORDS).read_bytes()
    (folder / "new").write_bytes(content)
    (folder / "new").replace(folder / RECORDS)


def cut_records(folder: Path) -> None:
    with (folder / RECORDS).open("r+b") as file:
        file.truncate(len(file.readline()))


@pytest.mark.parametrize(
    ("damage", "said", "left"),
    [
        (shutil.rmtree, "run was removed", 0),
        (lambda folder: folder.rename(folder.with_name("moved")), "run was removed", 0),
        (lambda folder: (folder / RECORDS).unlink(), "records.jsonl was removed", 0),
        (replace_records, "records.jsonl was replaced", 2),
        (cut_records, "records.jsonl was truncated", 1),
        (lambda folder: (folder / LOCK).unlink(), ".lock was removed", 2),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_the_writer_notices_what_happens_to_its_folder(
    tmp_path: Path, damage: Callable[[Path], None], said: str, left: int, shared: bool
) -> None:
    folder = tmp_path / "run"
    with RunWriter(folder, IDENTITY, SESSION, shared=shared) as run:
        run.append(record(0))
        run.append(record(1))
        damage(folder)
        with pytest.raises(
            LostRecordsError, match=f"{said} while .* of the 2 records of this session {left} are"
        ) as lost:
            run.append(record(2))
        assert lost.value.exit_code == 1
    if folder.exists():
        write(folder, record(2))
        assert "r2" in ids(folder)


def test_records_that_others_append_are_no_damage(tmp_path: Path) -> None:
    one, other = (RunWriter(tmp_path, IDENTITY, SESSION, shared=True) for _ in range(2))
    with one, other:
        for number in range(4):
            (one, other)[number % 2].append(record(number))
    assert len(ids(tmp_path)) == 4


def test_a_run_whose_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence and exit code 1: it ran, and something failed."""
    monkeypatch.chdir(tmp_path)
    append = RunWriter.append

    def late(self: RunWriter, one: Record) -> None:
        if len(self.done) == 1:
            shutil.rmtree("run")
        append(self, one)

    monkeypatch.setattr(RunWriter, "append", late)
    stopped = cli("run", "passkey", "--samples", "3", "--seq-len", "256", "-o", "run")
    assert stopped.code == 1
    assert "run was removed while lcbench was writing to it: of the 1 records of this session 0 are" in stopped.error
