"""Files that commands write where the user says: pages, tables and figures."""

from __future__ import annotations

from pathlib import Path

from lcbench.core.errors import UserError
from lcbench.core.files import write_atomically
from lcbench.results.records import CLAIMS, LOCK, MANIFEST, RECORDS

OF_A_RUN = {MANIFEST, RECORDS, LOCK, CLAIMS}
FORMATS = frozenset(  # suffixes that promise a format
    (".csv", ".docx", ".htm", ".html", ".json", ".jsonl", ".md", ".parquet", ".pdf", ".png", ".svg", ".tex", ".tsv",
     ".xlsx", ".xml")
)  # fmt: skip


def require_writable(path: Path, option: str) -> None:
    """Raises: UserError for an output path without a folder, or of a folder, a disk, or a file of a run."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; create it first.")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # such as links in a circle, which `resolve` takes for a file as of Python 3.13
        raise UserError(f"cannot write {path}: {error.strerror}; pass another {option}.") from error
    target = path.resolve()
    if target.name in OF_A_RUN and (target.with_name(MANIFEST).exists() or target.with_name(RECORDS).exists()):
        raise UserError(f"{path} is a file of a run; pass another {option}.")
    if target.is_block_device() or target.is_dir():
        raise UserError(f"{path} is a {'folder' if target.is_dir() else 'disk'}, not a file; pass another {option}.")


def require_format(path: Path, *suffixes: str) -> None:
    """Raises: UserError for an output whose name promises another format than the one written, which has these
    suffixes."""
    promised = path.suffix.lower()
    if promised in FORMATS and promised not in suffixes:
        raise UserError(f"{path} has the suffix of another format; use {suffixes[0]}.")


def write_output(path: Path, content: str | bytes, option: str) -> None:
    """Write the output file that `option` names, completely or not at all. Raises: UserError if it cannot be
    written."""
    require_writable(path, option)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; pass another {option}.") from error
