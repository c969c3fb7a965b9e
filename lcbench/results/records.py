"""The folder of a run: `run.json` (how it was made) and `records.jsonl` (one line per sample).

A record is appended, flushed and synced as soon as its sample is done, so that a process killed at any moment loses at
most the sample or batch in flight. A folder has one writer, enforced by a lock, and any number of readers. Processes
that were launched together share a folder: each claims a part of the work, and they append in turns. All locks are the
operating system's, which releases those of a process that dies; a network file system must support them (NFS does).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lcbench.core.checks import FieldError
from lcbench.core.collections import without_collections
from lcbench.core.errors import LostRecordsError, UserError
from lcbench.core.files import require_regular, write_atomically
from lcbench.core.json_objects import parse
from lcbench.core.locks import Claims, locked
from lcbench.results.manifest import Manifest
from lcbench.results.schema import Record

FORMAT = 1
MANY = 3  # names in a sentence
LONGEST_LINE = 64 * 2**20  # bytes of a record: a thousand times the largest that runs write
MANIFEST, RECORDS, LOCK, CLAIMS = "run.json", "records.jsonl", ".lock", ".claims"
JOB_LOGS = "slurm"  # a folder that may exist before the run starts
# run.json while it is being written; left behind if the process is killed meanwhile
_TEMPORARY = re.compile(rf"{re.escape(MANIFEST)}(\.\d+)?\.tmp")


class RecordTail:
    """Reads the records of a folder as they are appended, by any process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORDS
        self._offset = self._lines = 0

    def news(self) -> list[Record]:
        """The records appended since the last call; at the first call all of them; none if there is no file.

        A last line that is still being written is left for the next call.

        Raises: UserError for a file that cannot be read or a line that is not a record, with the field that is wrong.
        """
        lines = []
        try:
            require_regular(self._path)
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
                    lines.append(line)
                self._offset = file.tell() - len(line)
        except FileNotFoundError:  # the process was killed before its first record, or the folder was removed
            return []
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}.") from error
        if len(line) == LONGEST_LINE:
            number = self._lines + len(lines) + 1
            raise UserError(
                f"{self._path}, line {number}, is not a record: it has no end within {LONGEST_LINE >> 20} MB; move the "
                "file away, or restore it."
            )
        records = []
        with without_collections():
            for line in lines:
                self._lines += 1
                try:
                    records.append(Record.from_json(parse(line)))
                except FieldError as error:
                    what = f": {error}" if error.name else f", is not a record: it {error}"
                    raise UserError(
                        f"{self._path}, line {self._lines}{what}; move the file away, or restore it."
                    ) from error
        return records


class RunWriter:
    """The only writer of a run's folder, or one of several if `shared`; resumes a folder of the same run.

    `identity` is everything that determines the records; `session` describes this process (command, versions,
    hardware) and is added to the list in run.json. `done` are the ids of recorded samples, those of other processes as
    of the last `news`. `options` are those of the methods, by the part of the id that the samples of a cell share.

    Raises on entry: UserError for a folder of another run, one that is being written, or one that cannot be written;
    and for records whose method had other options, for instance because a default has changed since.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        session: dict[str, Any],
        *,
        shared: bool = False,
        options: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self._identity, self._session, self._shared = json.loads(json.dumps(identity)), session, shared
        self._options = json.loads(json.dumps(options or {}))
        self._tail = RecordTail(folder)
        self.done: set[str] = set()
        self.session_number = self._appended = self._size = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                require_ours(self.folder)  # before a lock is left among foreign files
                self._lock = locked(self.folder / LOCK, shared=self._shared)
                stack.callback(os.close, self._lock)
                self._claims = Claims(self.folder / CLAIMS) if self._shared else None
                if self._claims:
                    stack.callback(self._claims.close)
            except BlockingIOError as error:
                raise UserError(
                    f"another lcbench is writing to {self.folder}; wait for it, or pass --output."
                ) from error
            except OSError as error:
                raise UserError(f"cannot write to {self.folder}: {error.strerror}; pass another --output.") from error
            with self._turn():
                self._start()
            stack.callback(os.close, self._file)
            self._size = os.fstat(self._file).st_size
            self._require_options(self._read())
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def append(self, record: Record) -> None:
        """Append one record and sync it to the disk.

        Raises: UserError if it cannot be written, which leaves the file as it was; LostRecordsError if the folder or
        its files were removed, replaced or truncated meanwhile.
        """
        record = replace(record, session=self.session_number)
        line = (json.dumps(record.as_json(), ensure_ascii=False) + "\n").encode()
        with self._turn():
            self._require_files()
            try:
                if self._shared:
                    _cut_torn_line(self._file)  # left by another process, killed meanwhile
                self._write(line)
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.folder / RECORDS}: {error.strerror}; earlier records are intact, run the "
                    "same command again once there is space."
                ) from error
            self._size = os.fstat(self._file).st_size
        self._appended += 1
        if not record.failed:
            self.done.add(record.identity.id)

    def _require_files(self) -> None:
        """Raises: LostRecordsError if a path no longer leads to the open file: records would go to an unlinked file,
        and without the lock file a second writer may have started."""
        for name, file in ((RECORDS, self._file), (LOCK, self._lock)):
            path = self.folder / name
            try:
                there, opened = path.stat(), os.fstat(file)
            except OSError:
                raise self._lost(path if self.folder.is_dir() else self.folder, "was removed") from None
            if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
                raise self._lost(path, "was replaced")
            if name == RECORDS and opened.st_size < self._size:
                raise self._lost(path, "was truncated")

    def _lost(self, path: Path, what: str) -> LostRecordsError:
        try:
            left = sum(record.session == self.session_number for record in RecordTail(self.folder).news())
        except UserError:
            left = 0
        return LostRecordsError(
            f"{path} {what} while lcbench was writing to it: of the {self._appended} records of this session {left} "
            "are there; restore it, or run the same command again."
        )

    def news(self) -> list[Record]:
        """The records that other processes appended since the last call; their ids are added to `done`."""
        return self._read() if self._shared else []

    def _read(self) -> list[Record]:
        found = [record for record in self._tail.news() if record.session != self.session_number]
        self.done |= {record.identity.id for record in found if not record.failed}
        return found

    def _require_options(self, records: list[Record]) -> None:
        for one in (record.identity for record in records):
            now = _flat(self._options.get(one.id.rpartition("/")[0], {}))
            for name, value in _flat(one.method_options).items():
                if name in now and now[name] != value:
                    raise UserError(
                        f"{self.folder} has records of {one.method} at {one.seq_len:,} tokens with {name}={value}, and "
                        f"this lcbench would continue with {now[name]}; pass another --output, or set the option."
                    )

    def claim(self, part: str) -> bool:
        """Whether this process may do a part of the work; no other may, until `release` or its death."""
        return self._claims is None or self._claims.take(part)

    def release(self, part: str) -> None:
        if self._claims:
            self._claims.release(part)

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return self._claims.turn() if self._claims else contextlib.nullcontext()

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):  # otherwise an incomplete last line stays, and is cut off on resuming
                os.ftruncate(self._file, size)
            raise

    def _start(self) -> None:
        found = _read_manifest(self.folder)
        if found is None:
            require_ours(self.folder, begun=False)
            found = Manifest.from_json({"format": FORMAT, "identity": self._identity, "sessions": []})
        manifest = found.content
        differing = _differences(manifest["identity"], self._identity)
        if differing:
            beside = ", and `lcbench table A B` shows several runs together" if "jobs" in differing else ""
            raise UserError(
                f"{self.folder} holds another run (it differs in {', '.join(differing.values())}); "
                f"pass another --output{beside}."
            )
        self.session_number = len(manifest["sessions"])
        manifest["sessions"].append(self._session)
        try:
            write_atomically(
                self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", owned=True
            )
            self._file = os.open(self.folder / RECORDS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _cut_torn_line(self._file)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}; pass another --output.") from error


def _flat(options: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Options by name; for a composed method as `PART.OPTION`."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {before + name: value}
    return flat


def require_ours(folder: Path, *, begun: bool = True) -> None:
    """Raises: UserError for a folder with files that do not belong to a run. One that has not `begun` has at most lock
    files."""
    ours = {LOCK, CLAIMS, JOB_LOGS}
    names = {path.name for path in folder.iterdir() if not _TEMPORARY.fullmatch(path.name)}
    if not (begun and {LOCK, MANIFEST} & names) and names - ours:
        raise UserError(f"{folder} contains something other than results; pass another --output.")


def read_manifest(folder: Path) -> Manifest:
    """The run.json of a run's folder. Raises: UserError if it is missing, of another version, or has a wrong field."""
    manifest = _read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not a run: it has no {MANIFEST}.")
    return manifest


def read_records(folder: Path) -> list[Record]:
    """The records of a run's folder, one per sample (the last, if a failed sample was repeated), in the order of the
    plan and not the order in which processes wrote them. A last line that is still being written is left out.

    Raises: UserError for a folder without records or a line that is not a record.
    """
    manifest = _read_manifest(folder)
    records = {record.identity.id: record for record in RecordTail(folder).news()}
    if not records:
        raise UserError(f"{folder} has no records yet.")
    jobs = manifest.identity.jobs if manifest else []
    order = {"/".join(map(str, job)): number for number, job in enumerate(jobs)}

    def place(record: Record) -> tuple[int, int, int]:
        job, _, _ = record.identity.id.rpartition("/")
        one = record.identity
        return (order[job], one.sample, one.repeat or 0) if job in order else (len(order), 0, 0)

    return sorted(records.values(), key=place)


def find_runs(results: Path) -> list[Path]:
    """The run folders with records in a results folder, oldest first by their last record."""
    found = []
    for path in results.glob(f"*/{RECORDS}"):
        with contextlib.suppress(OSError):  # a dangling link, or a folder that was removed meanwhile
            if path.with_name(MANIFEST).exists() and path.stat().st_size:
                found.append((path.stat().st_mtime_ns, path.parent))
    return [folder for _, folder in sorted(found)]


def newest_run(results: Path) -> Path:
    """Raises: UserError if there is no run at all."""
    runs = find_runs(results)
    if not runs:
        raise UserError(f"there is no run in {results}; create one with `lcbench run`, or name a folder.")
    return runs[-1]


def _read_manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST
    try:
        require_regular(path)
        if path.stat().st_size > LONGEST_LINE:
            raise FieldError(f"has more than {LONGEST_LINE >> 20} MB")
        content = parse(path.read_bytes())
        version = content.get("format")
        if type(version) is int and version != FORMAT:
            raise UserError(
                f"{folder} was written by another version of lcbench; read it with that version, or run it again."
            )
        return Manifest.from_json(content)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file; name the folder of a run.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except FieldError as error:
        what = f": {error}" if error.name else f" is not the run.json of lcbench: it {error}"
        raise UserError(f"{path}{what}; restore it, or move the folder away.") from error


def _differences(there: dict[str, Any], here: dict[str, Any]) -> dict[str, str]:
    """The parts in which two identities differ, by key, each with its words for an error message; jobs are described in
    the user's terms."""
    found = {key: key for key in {**there, **here} if _chosen(there, key) != _chosen(here, key)}
    if "jobs" not in found:
        return found
    words = []
    for kind, one, other in zip(("task", "method", "length", "depth"), _typed(there), _typed(here), strict=True):
        only = [name for name in [*one, *other] if (name in one) != (name in other)]
        if only:
            more = f" and {len(only) - MANY} more" if only[MANY:] else ""
            words.append(f"the {kind}{'s' * (len(only) > 1)} {', '.join(only[:MANY])}{more}")
    texts = [{task["name"]: task for task in identity.get("tasks", [])} for identity in (there, here)]
    if all(texts[0][name] == texts[1][name] for name in texts[0].keys() & texts[1].keys()):
        found.pop("tasks", None)  # common tasks are equal; the jobs' words say which tasks differ
    found["jobs"] = ", ".join(words) or "the order or combination of its cells"
    return found


def _chosen(identity: dict[str, Any], key: str) -> Any:
    """A part of an identity. Options at their default may be absent: in older runs all of them are."""
    value = identity.get(key)
    return None if value is False or (key == "kv_dtype" and value == "auto") else value


def _typed(identity: dict[str, Any]) -> list[list[str]]:
    """The distinct tasks, methods, lengths and depths of a run's jobs, whose cells are named `length/depth`."""
    jobs = [(task, method, *cell.split("/", 1)) for task, method, cell, *_ in identity.get("jobs", [])]
    return [list(dict.fromkeys(job[place] for job in jobs)) for place in range(4)]


def _cut_torn_line(file: int) -> None:
    """Cut off an incomplete last line: the record that was being written when its process was killed."""
    size = os.fstat(file).st_size
    keep = size
    while keep and os.pread(file, 1, keep - 1) != b"\n":
        keep -= 1
    if keep < size:
        os.ftruncate(file, keep)
