"""Files that commands write where the user says: pages, tables and figures."""

from __future__ import annotations

from pathlib import Path

from lcbench.core.errors import UserError
from lcbench.core.files import write_atomically
from lcbench.results.records import CLAIMS, LOCK, MANIFEST, RECORDS

OF_A_RUN = {MANIFEST, RECORDS, LOCK, CLAIMS}
FORMATS = frozenset(  # that a name promises to people and programs
    (".csv", ".docx", ".htm", ".html", ".json", ".jsonl", ".md", ".parquet", ".pdf", ".png", ".svg", ".tex", ".tsv",
     ".xlsx", ".xml")
)  # fmt: skip


def require_writable(path: Path, option: str) -> None:
    """Raises: UserError for an output without a folder, or in the place of a folder, a disk, or a file of a run."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first.")
    target = path.resolve()
    if target.name in OF_A_RUN and (target.with_name(MANIFEST).exists() or target.with_name(RECORDS).exists()):
        raise UserError(f"{path} is a file of a run; pass another {option}.")
    if target.is_block_device() or target.is_dir():
        raise UserError(f"{path} is a {'folder' if target.is_dir() else 'disk'} and no file; pass another {option}.")


def require_format(path: Path, *suffixes: str) -> None:
    """Raises: UserError for an output whose name promises another format than the one that is written, whose names end
    in one of these."""
    promised = path.suffix.lower()
    if promised in FORMATS and promised not in suffixes:
        raise UserError(f"{path} would not be what its name says; end it with {suffixes[0]}.")


def write_output(path: Path, content: str | bytes, option: str) -> None:
    """Write what a command was told to write by `option`, whole or not at all. Raises: UserError if it cannot be."""
    require_writable(path, option)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; pass another {option}.") from error
