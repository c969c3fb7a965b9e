"""`lcbench list`: what can be named on the command line."""

from __future__ import annotations

import json
import textwrap
from dataclasses import fields
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.core.errors import UserError, printable


def methods(console: Console, results: Path) -> None:
    from lcbench.methods import all_methods

    table = _table("method", "options (default)", "what it does")
    for name, cls in sorted(all_methods().items(), key=lambda item: (item[0] != "vanilla", item[0])):
        options = ", ".join(f.name if f.default in (None, "", ()) else f"{f.name} ({f.default})" for f in fields(cls))
        table.add_row(name, options, _module_summary(cls))
    console.print(table)


def tasks(console: Console, results: Path) -> None:
    from lcbench.tasks import read_yaml, task_files

    table = _table("task", "kind", "what it asks")
    table.columns[0].no_wrap = True  # a name is there to be copied
    for name in task_files():
        content = read_yaml(name)[1]
        kind = "suite" if "runs" in content else str(content.get("family", ""))
        table.add_row(name, kind, Text(str(content.get("description", ""))))
    console.print(table)


def task(console: Console, name: str) -> None:
    """Protocols and options of one task. Raises: UserError for an unknown name, or a suite."""
    from lcbench.tasks import load_task, read_yaml
    from lcbench.tasks.document import ALL

    content = read_yaml(name)[1]
    if "runs" in content:
        raise UserError(f"{name} is a suite: it has no options, but tasks, which its file lists.")
    loaded = load_task(name)
    console.print(Text(f"{name}: {loaded.description}"))
    if loaded.citation:
        console.print(Text(f"source: {loaded.citation}"))
    protocols = getattr(loaded, "protocols", None) or {}
    if protocols:
        chosen = getattr(loaded, "protocol", "")
        said = ", ".join(f"{each} (default)" if each == chosen else each for each in protocols)
        console.print(Text(f"protocols: {said}"))
    table = _table("option", "value")
    for field in fields(loaded):
        if field.name in {"name", "description", "citation", "protocols"}:
            continue
        value = getattr(loaded, field.name)
        said = "every row of the data" if (field.name, value) == ("samples", ALL) else repr(value)
        table.add_row(Text(field.name), Text(textwrap.shorten(said, 200)))
    console.print(table)
    option = f"{name}:protocol={next(iter(protocols))}" if protocols else f"{name}:OPTION=VALUE"
    console.print(Text(f"as in: lcbench run {option}"))


def models(console: Console, results: Path) -> None:
    from lcbench.engine.embedded import embedded_models

    table = _table("model", "architecture", "trained at", "folder")
    for name, folder in embedded_models().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))  # transformers takes seconds
        length = f"{config['max_position_embeddings']:,} tokens"
        table.add_row(name, config["architectures"][0], length, str(folder))
    console.print(table)
    console.print("and any rotary causal language model: a Hugging Face id, a folder, or a GGUF file.")


def runs(console: Console, results: Path) -> None:
    from lcbench.results.records import read_manifest, read_records
    from lcbench.results.register import known_runs

    found = known_runs(results)[::-1]
    table = _table("run", "model", "records", "started")
    table.collapse_padding = True
    # A name is there to be copied, and a time to be read: on a narrow terminal the other columns give way.
    table.columns[0].min_width = max((len(printable(str(folder))) for folder in found), default=0)
    table.columns[-1].no_wrap = True
    refusals = []
    for folder in found:
        try:
            manifest, records = read_manifest(folder), read_records(folder)
        except UserError as error:  # one of another version hides no other
            refusals.append(error)
            continue
        failed = sum(record.failed for record in records)
        begun = manifest.sessions[0].started_at if manifest.sessions else None
        started = datetime.fromisoformat(begun).strftime("%Y-%m-%d %H:%M") if begun else ""
        missing = manifest.missing(records)
        counts = f"{len(records)} of {len(records) + missing}" if missing else str(len(records))
        counts += f", {failed} failed" if failed else ""
        table.add_row(*(Text(printable(each)) for each in (str(folder), manifest.model_name or "")), counts, started)
    console.print(table)
    for refusal in refusals:
        console.print(f"note: {printable(str(refusal))}", markup=False, highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _module_summary(cls: type) -> str:
    """The first line of the module's docstring, which says in words what the class says in a formula."""
    import sys

    return (sys.modules[cls.__module__].__doc__ or "").strip().split("\n")[0]
