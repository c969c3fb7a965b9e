"""A run as a table for pandas, `datasets` and everything that reads Parquet: one row per sample.

docs/records.md lists the columns with their types and meanings; a column has the name of its field, prefixed with
`scores.`, `cost.`, `nll.` or `details.` if it is nested. The columns of every run come first, in the order of ORDER;
all others follow in the order of the records: scalars as they are, lists of scalars as lists, and deeper or mixed
values as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.files import replaced
from lcbench.results.outputs import require_writable
from lcbench.results.records import read_manifest, read_records

if TYPE_CHECKING:
    import pandas as pd

STRINGS = ("run", "id", "task", "method", "model", "method_options", "prompt_sha256", "prediction", "metric", "error")
COUNTS = ("cost.peak_memory_bytes", "cost.reused_tokens", "nll.tokens", "nll.bytes", "nll.words")
INTEGERS = ("seq_len", "sample", "seed", "prompt_tokens", "max_new_tokens", "output_tokens", *COUNTS)
FLOATS = ("cell_depth", "depth", "cost.prefill_seconds", "cost.decode_seconds", "cost.reuse_difference")
AS_JSON = ("method_options",)
OTHER = "of no one kind"
ORDER = (
    *("run", "id", "task", "method", "method_options", "model", "seq_len", "cell_depth", "depth", "sample", "seed"),
    *("prompt_sha256", "prompt_tokens", "max_new_tokens", "output_tokens", "references", "prediction", "metric"),
    *("scores.", "cost.prefill_seconds", "cost.decode_seconds", "cost.peak_memory_bytes", "cost.reused_tokens"),
    "error",
)


def load_run(path: str | Path) -> pd.DataFrame:
    """The records of a run folder as a DataFrame, one row per sample, with the columns listed in docs/records.md.

    Integers are pandas' nullable Int64, strings its `string`. Raises: UserError for a folder without records.
    """
    import pandas as pd

    folder = Path(path)
    read_manifest(folder)
    rows = [{"run": folder.resolve().name, **_flat(record.as_json())} for record in read_records(folder)]
    known = [name for name in ORDER if not name.endswith(".")]
    names = _ordered(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    _make_uniform(rows)
    texts = {name for row in rows for name, value in row.items() if name.startswith("scores.") and type(value) is str}
    types: dict[str, Any] = {
        name: "string" if name in texts else "float64" for name in names if name.startswith("scores.")
    }
    for kind, columns in (("string", STRINGS), ("Int64", INTEGERS), ("float64", FLOATS)):
        types.update({column: kind for column in columns if column in names})
    return pd.DataFrame(rows, columns=names).astype(types)


def export(folder: Path, out: Path) -> int:
    """Write a run as Parquet; returns the number of rows. Raises: UserError for a folder without records, or a file
    that cannot be written."""
    frame = load_run(folder)
    require_writable(out, "--out")
    try:
        with replaced(out) as temporary:
            frame.to_parquet(temporary, index=False, engine="pyarrow")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # pyarrow words its errors in its own way
        raise UserError(f"cannot write {out}: {reason}; pass another --out.") from error
    return len(frame)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and name not in AS_JSON:
            flat |= {f"{name}.{key}": _plain(entry) for key, entry in value.items()}
        else:
            flat[name] = _plain(value)
    return flat


def _make_uniform(rows: list[dict[str, Any]]) -> None:
    """Make columns without a declared type, such as a task's details, uniform: mixed values become JSON."""
    typed = {*STRINGS, *INTEGERS, *FLOATS}
    for name in dict.fromkeys(name for row in rows for name in row if name not in typed):
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(set(map(_kind, values))) > 1 or OTHER in map(_kind, values):
            for row in rows:
                if row.get(name) is not None:
                    row[name] = json.dumps(row[name], ensure_ascii=False)


def _kind(value: Any) -> object:
    """The kind of a column's value: the type of a scalar, or that of all entries of a list."""
    if isinstance(value, list):
        kinds = {_kind(entry) for entry in value}
        return OTHER if len(kinds) > 1 or OTHER in kinds else (list, *kinds)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return OTHER
    return type(value)


def _plain(value: Any) -> Any:
    """Scalars and lists of scalars as they are, the rest as JSON."""
    nested = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(v, dict | list | tuple) for v in value)
    )
    return json.dumps(value, ensure_ascii=False) if nested else value


def _ordered(names: Iterable[str]) -> list[str]:
    """The documented columns in ORDER, then the others in their own order."""
    places = {name: place for place, name in enumerate(ORDER)}

    def place(name: str) -> int:
        return places.get("scores." if name.startswith("scores.") else name, len(ORDER))

    return sorted(names, key=place)
