"""What a run leaves behind: a folder with `run.json` (how it was made) and `records.jsonl` (one line a sample).

A record is appended, flushed and synced as soon as its sample is done, so that a process killed at any moment loses at
most the sample in flight. One writer a folder, by a lock; any number of readers.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from lcbench.errors import UserError

FORMAT = 1
MANIFEST, RECORDS, LOCK = "run.json", "records.jsonl", ".lock"
UNFINISHED = "run.tmp"  # run.json while it is being written; left behind by a process killed in that moment
Record = dict[str, Any]


class RunWriter:
    """The one writer of a results folder; resumes what is there if it is the same run.

    `identity` is everything that decides what the records will be; `session` how this process makes them (command,
    versions, hardware), added to the list in run.json.

    Raises on entry: UserError for a folder of another run, one that is being written, or one that cannot be written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], session: dict[str, Any]) -> None:
        self.folder = folder
        self._identity, self._session = json.loads(json.dumps(identity)), session
        self._lock = FileLock(folder / LOCK)
        self.done: set[str] = set()
        self.session_number = 0

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not {LOCK, MANIFEST} & {path.name for path in self.folder.iterdir()}:
                self._refuse_foreign_files()  # before a lock is left among them
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another lcbench is writing to {self.folder}; wait for it, or pass --output.") from error
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}; pass another --output.") from error
        try:
            self._start()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._lock.release()

    def append(self, record: Record) -> None:
        """Add one record for good. Raises: UserError if it cannot be written; what was there stays as it was."""
        line = (json.dumps({**record, "session": self.session_number}, ensure_ascii=False) + "\n").encode()
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # else a torn last line stays, and is cut off on resuming
                os.ftruncate(self._file, size)
            raise UserError(
                f"cannot write to {self.folder / RECORDS}: {error.strerror}; what was written is intact, run the same "
                "command again once there is room."
            ) from error
        if record.get("error") is None:
            self.done.add(record["id"])

    def _start(self) -> None:
        manifest = _read_manifest(self.folder)
        if manifest is None:
            self._refuse_foreign_files()
            manifest = {"format": FORMAT, "identity": self._identity, "sessions": []}
        if manifest.get("format") != FORMAT:
            raise UserError(f"{self.folder} was written by another version of lcbench; pass another --output.")
        differing = [key for key in self._identity if manifest["identity"].get(key) != self._identity[key]]
        if differing:
            raise UserError(
                f"{self.folder} holds another run (it differs in {', '.join(differing)}); pass another --output."
            )
        self.session_number = len(manifest["sessions"])
        manifest["sessions"].append(self._session)
        path = self.folder / RECORDS
        try:
            _write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _cut_torn_line(self._file)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}; pass another --output.") from error
        self.done = {record["id"] for record in read_records(self.folder) if record.get("error") is None}

    def _refuse_foreign_files(self) -> None:
        if any(path.name not in (LOCK, UNFINISHED) for path in self.folder.iterdir()):
            raise UserError(f"{self.folder} holds something else than results; pass another --output.")


def read_manifest(folder: Path) -> dict[str, Any]:
    """run.json of a results folder. Raises: UserError if the folder holds no run."""
    manifest = _read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no run: it has no {MANIFEST}.")
    return manifest


def read_records(folder: Path) -> list[Record]:
    """The records of a results folder, one a sample: of a sample that failed and was repeated, the last, in
    the place of the first.

    Raises: UserError for a folder without records or a line that is no record; a last line that is still being
    written is left out.
    """
    path = folder / RECORDS
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    records: dict[str, Record] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            records[record["id"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no record; move the file away, or restore it.") from error
    return list(records.values())


def find_runs(results: Path) -> list[Path]:
    """Folders of runs with records in a results folder, oldest first by their last record."""
    files = [path for path in results.glob(f"*/{RECORDS}") if path.with_name(MANIFEST).exists() and path.stat().st_size]
    return [path.parent for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def newest_run(results: Path) -> Path:
    """Raises: UserError if there is no run at all."""
    runs = find_runs(results)
    if not runs:
        raise UserError(f"there is no run in {results}; make one with `lcbench run`, or name a folder.")
    return runs[-1]


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / MANIFEST}: {error}.") from error
    if (
        not isinstance(manifest, dict)
        or not isinstance(manifest.get("identity"), dict)
        or not isinstance(manifest.get("sessions"), list)
    ):
        raise UserError(f"{folder / MANIFEST} is not the run.json of lcbench.")
    return manifest


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(UNFINISHED)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _cut_torn_line(file: int) -> None:
    """Cut off a last line without end: the record that was in flight when its process was killed."""
    size = os.fstat(file).st_size
    keep = size
    while keep and os.pread(file, 1, keep - 1) != b"\n":
        keep -= 1
    if keep < size:
        os.ftruncate(file, keep)
