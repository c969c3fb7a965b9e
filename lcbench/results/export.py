"""A run as a table for pandas, `datasets` and everything that reads Parquet: one row a sample.

Columns, in this order; a sample without a value (one that failed has no prediction) has none in the table either:

| column | type | meaning |
| --- | --- | --- |
| `run` | string | name of the run's folder |
| `id` | string | task, method, cell and number of the sample: the same in every run that asks it |
| `task`, `method` | string | as typed, with options |
| `method_options` | string | JSON: all options of the method, defaults worked out |
| `model` | string | as typed |
| `seq_len` | int64 | the cell's length in tokens, answer included |
| `cell_depth`, `depth` | float64 | depth of the needle from 0 to 1: asked for (none: drawn at random), and as it is |
| `sample`, `seed` | int64 | number of the sample, and what it was drawn from |
| `prompt_sha256` | string | hash of the prompt's tokens |
| `prompt_tokens`, `max_new_tokens`, `output_tokens` | int64 | counts |
| `references` | list of strings | right answers |
| `prediction` | string | what the model said |
| `metric` | string | the score that counts: `scores.<metric>` |
| `scores.*` | float64 | one column a score |
| `cost.prefill_seconds`, `cost.decode_seconds` | float64 | seconds |
| `cost.peak_memory_bytes` | int64 | bytes |
| `cost.reused_tokens` | int64 | tokens of the prompt that were not computed, as another sample begins with them |
| `error` | string | why the sample failed; none if it did not |

Records of a perplexity have, behind these, `document` (the book), `protocol`, `nll.file` (the likelihood of every
token, see `lcbench.results.nll`), `nll.averaging`, the scored `nll.tokens`, `nll.bytes` (UTF-8) and `nll.words`
(between white space), `nll.buckets` (JSON: first and last position in the window, summed NLL, tokens) and
`cost.reuse_difference` (by how much a prefix that was reused differs from the same tokens alone, in nats a token; tried
once).

Records of an answer have `cost.decoded_together`: how many answers were decoded as one batch, which shared the seconds
of `cost.decode_seconds` and whose peak memory is that of all.

Whatever else the records of a run hold follows behind, in the order of the records: scalars as they are, lists of
scalars as lists, mappings one level deep as `name.key`, and anything deeper as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.files import replaced
from lcbench.results.records import Record, read_manifest, read_records

if TYPE_CHECKING:
    import pandas as pd

STRINGS = ("run", "id", "task", "method", "model", "method_options", "prompt_sha256", "prediction", "metric", "error")
COUNTS = ("cost.peak_memory_bytes", "cost.reused_tokens", "nll.tokens", "nll.bytes", "nll.words")
INTEGERS = ("seq_len", "sample", "seed", "prompt_tokens", "max_new_tokens", "output_tokens", *COUNTS)
FLOATS = ("cell_depth", "depth", "cost.prefill_seconds", "cost.decode_seconds", "cost.reuse_difference")
AS_JSON = ("method_options",)
ORDER = (
    *("run", "id", "task", "method", "method_options", "model", "seq_len", "cell_depth", "depth", "sample", "seed"),
    *("prompt_sha256", "prompt_tokens", "max_new_tokens", "output_tokens", "references", "prediction", "metric"),
    *("scores.", "cost.prefill_seconds", "cost.decode_seconds", "cost.peak_memory_bytes", "cost.reused_tokens"),
    "error",
)


def load_run(path: str | Path) -> pd.DataFrame:
    """The records of a run folder as a DataFrame, one row a sample, with the columns that this module lists.

    Integers are pandas' nullable Int64, strings its `string`. Raises: UserError for a folder without records.
    """
    import pandas as pd

    folder = Path(path)
    read_manifest(folder)
    rows = [{"run": folder.resolve().name, **_flat(record)} for record in read_records(folder)]
    known = [name for name in ORDER if not name.endswith(".")]
    names = _ordered(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    types: dict[str, Any] = {name: "float64" for name in names if name.startswith("scores.")}
    for kind, columns in (("string", STRINGS), ("Int64", INTEGERS), ("float64", FLOATS)):
        types.update({column: kind for column in columns if column in names})
    return pd.DataFrame(rows, columns=names).astype(types)


def export(folder: Path, out: Path) -> int:
    """Write a run as Parquet; the number of rows. Raises: UserError for a folder without records, or a full disk."""
    frame = load_run(folder)
    try:
        with replaced(out) as temporary:
            frame.to_parquet(temporary, index=False, engine="pyarrow")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # pyarrow words its errors in its own way
        raise UserError(f"cannot write {out}: {reason}; pass another --out.") from error
    return len(frame)


def _flat(record: Record) -> Record:
    flat: Record = {}
    for name, value in record.items():
        if isinstance(value, dict) and name not in AS_JSON:
            flat |= {f"{name}.{key}": _plain(entry) for key, entry in value.items()}
        else:
            flat[name] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """Scalars and lists of scalars as they are, the rest as JSON."""
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
    return json.dumps(value, ensure_ascii=False) if nested else value


def _ordered(names: Iterable[str]) -> list[str]:
    """The documented columns in their order, then the others in theirs."""
    places = {name: place for place, name in enumerate(ORDER)}

    def place(name: str) -> int:
        return places.get("scores." if name.startswith("scores.") else name, len(ORDER))

    return sorted(names, key=place)
