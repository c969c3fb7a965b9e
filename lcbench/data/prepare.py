"""`lcbench data prepare`: convert the files of a source to a folder in the local schema, atomically.

The manifest contains the sha256 of every source file. Files that differ from those of an earlier preparation, or from
the hashes in a data script, are refused: scores on different versions of the data do not compare.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lcbench.core.errors import UserError
from lcbench.core.fields import as_json
from lcbench.core.files import files_below, require_regular, write_atomically
from lcbench.core.locks import locked
from lcbench.data import hub
from lcbench.data.raw import expand, read_rows
from lcbench.data.raw_file import RawFile, sha256
from lcbench.data.schema import FORMAT, MANIFEST, FileFacts, Manifest
from lcbench.data.source import DataSet
from lcbench.data.store import data_root, prepared_files, read_manifest
from lcbench.data.write import Writer

DOWNLOADS = ".downloads"  # subfolder of the data root: files of the hub, named by their hashes


@dataclass(frozen=True)
class Outcome:
    """A prepared folder; `fresh` if it was written by this call, False if it was up to date."""

    folder: Path
    manifest: Manifest
    fresh: bool


@dataclass(frozen=True)
class Source:
    """The source files of a data set, their origin, and their hashes."""

    origin: dict[str, str]
    files: tuple[RawFile, ...]
    digests: dict[str, FileFacts]

    @property
    def name(self) -> str:
        return self.origin.get("repo") or self.origin["path"]


def prepare(data_set: DataSet, local: Path | None, *, update: bool) -> Outcome:
    """Prepare a data set from the hub, or from a local copy of its source's files.

    Raises: UserError for files that are missing, are not in the source's format, or differ from those of an earlier
    preparation (unless `update`) or from the hashes in the data script.
    """
    folder = data_root() / data_set.name
    with _only_one(folder):
        if (
            _old(folder).exists() and not folder.exists()
        ):  # an earlier process was killed between the two renames in `_write`
            _old(folder).replace(folder)
        source = _from_folder(data_set, local) if local else _from_hub(data_set)
        before = read_manifest(folder)
        if before and before.format == FORMAT and before.files == source.digests and _intact(folder, before):
            return Outcome(folder, before, fresh=False)
        if before and not update:
            _refuse_other_files(data_set, before, source)
        return Outcome(folder, _write(data_set, source, folder), fresh=True)


def local_files(data_sets: list[DataSet], path: Path) -> dict[str, list[RawFile]]:
    """The files below a path for each of the data sets of a source, by name.

    Raises: UserError if the path does not exist, or has no file of this source.
    """
    if not path.exists():
        raise UserError(f"there is no {path}.")
    try:
        require_regular(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    found = sorted(file for file in files_below(path) if file.is_file()) if path.is_dir() else [path]
    files = {_name(file, path): expand(file, _name(file, path)) for file in found}
    chosen = {data_set.name: _own_files(data_set, files) for data_set in data_sets}
    if len(data_sets) == 1 and not path.is_dir() and not chosen[data_sets[0].name]:
        readable = [raw for raw in files[path.name] if raw.suffix in data_sets[0].suffixes]
        chosen = {data_sets[0].name: readable}  # a single file for a single data set may have any name
    if not any(chosen.values()):
        source = data_sets[0].name if len(data_sets) == 1 else data_sets[0].name.partition("/")[0]
        raise UserError(f"{path} holds no file of {source}; give the files as the source has them.")
    return chosen


def _from_folder(data_set: DataSet, path: Path) -> Source:
    files = local_files([data_set], path)[data_set.name]
    return Source({"path": str(path.resolve())}, tuple(files), _digests({_archive(file): file.path for file in files}))


def _from_hub(data_set: DataSet) -> Source:
    where = data_set.hub
    snapshot = hub.snapshot(where)
    names = where.choose(snapshot.files)
    if not names:
        raise UserError(f"{where.repo} at {snapshot.commit} has no file {' or '.join(where.files)} any more.")
    paths = {name: hub.download(where.repo, name, snapshot.commit, data_root() / DOWNLOADS) for name in names}
    digests = _digests(paths)
    for name, known in where.sha256.items():
        if name not in digests or digests[name].sha256 != known:
            raise UserError(
                f"{name} of {where.repo} is not the file that lcbench knows (its sha256 should be {known}); "
                "if you have that file, pass it with --from."
            )
    origin = {"repo": where.repo, "revision": where.revision, "commit": snapshot.commit}
    files = {name: expand(path, name) for name, path in paths.items()}
    return Source(origin, tuple(_own_files(data_set, files)), digests)


def _refuse_other_files(data_set: DataSet, before: Manifest, source: Source) -> None:
    names = before.files.keys() | source.digests.keys()
    changed = sorted(name for name in names if before.files.get(name) != source.digests.get(name))
    if not changed:
        return
    old, commit = before.origin, before.origin.get("commit")
    if old.get("repo") == source.origin.get("repo") and "repo" in old:
        raise UserError(
            f"{old['repo']} has changed since {data_set.name} was prepared: {', '.join(changed)} differs between "
            f"commit {commit} and {source.origin['commit']}; pass --update to take the new data, and compare no "
            "scores across it."
        )
    raise UserError(
        f"{data_set.name} was prepared from other files, of {old.get('repo') or old.get('path')}, than {source.name} "
        f"has ({', '.join(changed)}); pass --update to replace it, and compare no scores across it."
    )


def _write(data_set: DataSet, source: Source, folder: Path) -> Manifest:
    """Write to a temporary folder, and replace the old folder once all files are complete and synced to disk."""
    temporary, old = folder.with_name(f".{folder.name}.tmp"), _old(folder)
    _remove(temporary)
    try:
        temporary.mkdir()
        rows, documents = _convert(data_set, source, temporary)
        manifest = Manifest(
            format=FORMAT,
            name=data_set.name,
            origin=source.origin,
            licence=asdict(data_set.licence),
            files=source.digests,
            rows=rows,
            documents=documents,
            prepared=_digests({path.name: path for path in prepared_files(temporary)}),
            prepared_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_atomically(temporary / MANIFEST, json.dumps(as_json(manifest), indent=2, ensure_ascii=False) + "\n")
        if folder.exists():
            _remove(old)
            folder.replace(old)
        temporary.replace(folder)
        _remove(old)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; set LCBENCH_DATA to another folder.") from error
    finally:
        _remove(temporary)
    return manifest


def _convert(data_set: DataSet, source: Source, folder: Path) -> tuple[dict[str, int], int]:
    read: Counter[str] = Counter()
    with Writer(folder) as writer:
        for file in source.files:
            split = data_set.split(file.name)
            if split is None:
                continue
            told = data_set.from_name(file.name) if data_set.from_name else {}
            for number, given in enumerate(read_rows(file), start=1):
                row = {**given, **told}
                where = f"{file.name}, row {number},"
                data_set.check(row, where)
                try:
                    for example in data_set.examples(row, read[split]):
                        writer.add(split, example)
                except ValueError as error:
                    raise UserError(f"{where} {error}") from error
                read[split] += 1
        rows = writer.write_rows()
    if not rows:
        raise UserError(f"{source.name} has no row of {data_set.name} in a split that is read.")
    return rows, writer.documents


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _intact(folder: Path, manifest: Manifest) -> bool:
    return manifest.prepared == _digests({path.name: path for path in prepared_files(folder)})


def _own_files(data_set: DataSet, files: dict[str, list[RawFile]]) -> list[RawFile]:
    """The files of a data set among local files by name; in a copy of the hub's repository, those that match its
    patterns."""
    chosen = data_set.hub.choose(files)
    raws = [raw for name in chosen or sorted(files) for raw in files[name] if raw.suffix in data_set.suffixes]
    # One of several data sets takes the files that its patterns name, and of others and of archives those of its name.
    return [
        raw for raw in raws if "/" not in data_set.name or (chosen and raw.member is None) or data_set.owns(raw.name)
    ]


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if path.is_dir() else file.name


def _archive(file: RawFile) -> str:
    """The name of the file on disk; for a member of a zip, that of the zip."""
    return file.name if file.member is None else file.name.removesuffix(f"/{file.member.removeprefix('./')}")


def _digests(paths: dict[str, Path]) -> dict[str, FileFacts]:
    return {name: FileFacts(sha256=sha256(path), bytes=path.stat().st_size) for name, path in sorted(paths.items())}


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """A lock on the preparation of a data set. Raises: UserError if another process has it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(folder.with_name(f".{folder.name}.lock"))
    except BlockingIOError as error:
        raise UserError(f"another lcbench is preparing {folder}; wait for it.") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; set LCBENCH_DATA to another folder.") from error
    try:
        yield
    finally:
        os.close(lock)
