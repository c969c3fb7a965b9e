"""Runs outside the results folder (`--output`): a file in the results folder lists their folders, one path per line;
paths with a line break are JSON."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from lcbench.core.files import read_whole
from lcbench.results.records import MANIFEST, RECORDS, find_runs, newest_run

REGISTER, BREAK = ".runs", "\n"


def register(results: Path, folder: Path) -> None:
    """Record a run whose folder is not in `results`; does nothing if `results` cannot be written."""
    folder = folder.resolve()
    if folder.parent == results.resolve() or folder in _registered(results):
        return
    with contextlib.suppress(OSError):
        results.mkdir(parents=True, exist_ok=True)
        file = os.open(results / REGISTER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            line = json.dumps(str(folder)) if BREAK in str(folder) else str(folder)
            os.write(file, os.fsencode(line + BREAK))  # one write, so that lines of several processes do not mix
        finally:
            os.close(file)


def known_runs(results: Path) -> list[Path]:
    """The run folders with records, in the results folder or registered there, oldest first by their last record."""
    found = {path.resolve(): path for path in find_runs(results)}
    for folder in _registered(results):
        found.setdefault(folder, _shown(folder))
    return sorted(found.values(), key=_last_record)


def newest_known_run(results: Path) -> Path:
    """Raises: UserError if there is no run at all."""
    runs = known_runs(results)
    return runs[-1] if runs else newest_run(results)


def _registered(results: Path) -> list[Path]:
    """The registered folders that still exist and have records."""
    try:
        lines = os.fsdecode(read_whole(results / REGISTER)).split(BREAK)
    except OSError:
        return []
    return [folder for folder in map(_folder, dict.fromkeys(filter(None, lines))) if _has_records(folder)]


def _folder(line: str) -> Path:
    with contextlib.suppress(ValueError):
        return Path(json.loads(line) if line.startswith('"') else line)  # plain paths begin with a slash
    return Path(line)


def _has_records(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file() and (folder / RECORDS).stat().st_size > 0
    except (OSError, ValueError):
        return False


def _last_record(folder: Path) -> int:
    try:
        return (folder / RECORDS).stat().st_mtime_ns
    except OSError:
        return 0


def _shown(folder: Path) -> Path:
    """The folder relative to the working directory, if it lies within."""
    with contextlib.suppress(ValueError, OSError):
        return folder.relative_to(Path.cwd().resolve())
    return folder
