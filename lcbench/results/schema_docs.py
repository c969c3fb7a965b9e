"""docs/records.md, generated from the types:

python -m lcbench.results.schema_docs > docs/records.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from lcbench.core.checks import describe
from lcbench.core.fields import Spec, specs
from lcbench.data.schema import FileFacts
from lcbench.data.schema import Manifest as DataManifest
from lcbench.results import manifest, schema

TOP = """# Records

A run is a folder with `run.json`, which says how it was made, and `records.jsonl`, which has one line per sample: an
object with the fields below. Written by `python -m lcbench.results.schema_docs > docs/records.md` from the types in
`lcbench/results/schema.py` and `manifest.py`; a test holds this file to them.

A field marked *optional* may be missing: it does not apply to the sample, or the version of lcbench that wrote it did
not have it yet. Fields that are not listed here are kept as they are, and exported. When a file is read, every field is
checked, and the first error is reported with its file and line; numbers are finite, and integers fit into 64 bits.

`lcbench export RUN` and `lcbench.load_run(RUN)` give a table with one row per record: `run` (the folder's name), then
the fields under the names below; those of `scores`, `cost`, `nll` and `details` are prefixed, as in
`cost.prefill_seconds`. Columns of numbers are Int64 or float64, texts are `string`, lists of scalars stay lists;
`method_options`, deeper values and columns of mixed types are JSON. A field that a record lacks, such as the prediction
of a failed sample, is empty.
"""
RECORD = (
    ("Identity", schema.Identity, "of every record"),
    (
        "Prompt",
        schema.Prompt,
        "in every record; `document`, `protocol` and `excerpt` only in samples that did not fail",
    ),
    ("Answer", schema.Answer, "in samples that did not fail"),
    ("Scores", schema.Scores, "in samples that did not fail"),
    ("Likelihood: `nll`", schema.Likelihood, "an object, in samples of perplexity tasks"),
    ("Error and session", schema.Record, "of every record"),
    ("Cost: `cost`", schema.Cost, "an object, in samples that did not fail"),
    ("Import: `imported`", schema.Imported, "an object, in records made by `lcbench import`"),
)
RUN = (
    ("`run.json`", manifest.Manifest, "an object"),
    ("`identity`", manifest.RunIdentity, "an object; a folder is resumed only if all of it is equal"),
    ("An entry of `identity.tasks`", manifest.TaskFacts, "with all options of the task besides these fields"),
    ("An entry of `sessions`", manifest.Session, "an object"),
    ("`hardware` of a session", manifest.Hardware, "an object"),
    ("`git` of a session", manifest.Git, "an object"),
)
DATA = (
    ("`manifest.json` of prepared data", DataManifest, "an object, in each folder written by `lcbench data prepare`"),
    ("An entry of `files` and `prepared`", FileFacts, "an object"),
)


def page() -> str:
    """The whole file."""
    parts = [TOP, *_sections(RECORD), "# Runs\n", *_sections(RUN), "# Prepared data\n", *_sections(DATA)]
    return "\n".join(parts)


def _sections(classes: tuple[tuple[str, type, str], ...]) -> Iterator[str]:
    for title, cls, about in classes:
        summary = inspect.cleandoc(cls.__doc__ or "")
        rows = "".join(_row(spec) for spec in specs(cls))
        yield f"## {title}\n\n{summary} ({about})\n\n| field | type | meaning |\n| --- | --- | --- |\n{rows}"


def _row(spec: Spec) -> str:
    kind = spec.wanted or describe(spec.kind, spec.unit, spec.bounds)
    optional = "" if spec.required else " *optional*"
    return f"| `{spec.key}` | {kind}{optional} | {spec.sentence} |\n"


if __name__ == "__main__":
    print(page(), end="")
