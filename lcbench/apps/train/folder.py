"""The folder of a training run: it has one writer and the files of one run."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcbench.apps.train.checkpoint import RECIPE, write_json
from lcbench.core.errors import UserError
from lcbench.core.files import read_whole
from lcbench.core.locks import locked

LOCK = ".lock"


@contextlib.contextmanager
def one_writer(out: Path) -> Iterator[None]:
    """Raises: UserError if another process writes to the folder, or nobody can."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_files(out)  # before a lock is left among them
        lock = locked(out / LOCK)
    except BlockingIOError as error:
        raise UserError(f"another lcbench is writing to {out}; wait for it, or pass another --out.") from error
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; pass another --out.") from error
    try:
        yield
    finally:
        os.close(lock)


def _refuse_foreign_files(out: Path) -> None:
    temporary = re.compile(rf"{re.escape(RECIPE)}(\.\d+)?\.tmp")
    names = {path.name for path in out.iterdir() if not temporary.fullmatch(path.name)}
    if RECIPE not in names and names - {LOCK}:
        raise UserError(f"{out} holds something else than a training run; pass another --out.")


def open_folder(out: Path, options: dict[str, Any]) -> None:
    """Begin or resume the run with these options. Raises: UserError for a folder of another run."""
    path = out / RECIPE
    if not path.exists():
        write_json(path, {"options": options, "finished": None})
        return
    try:
        found = json.loads(read_whole(path))["options"]
        differing = sorted(key for key in found.keys() | options.keys() if found.get(key) != options.get(key))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not the {RECIPE} of a training run; pass another --out.") from error
    if differing:
        raise UserError(f"{out} holds another run (it differs in {', '.join(differing)}); pass another --out.")
