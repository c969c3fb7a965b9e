"""`lcbench report`: one page for one or more runs, from the summary down to each sample."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcbench.core.errors import unknown
from lcbench.core.fields import as_json
from lcbench.results.manifest import TaskFacts
from lcbench.results.records import read_manifest
from lcbench.results.report.headline import RULER
from lcbench.results.report.html.curves import curves
from lcbench.results.report.html.differences import Base, differences
from lcbench.results.report.html.frame import asset, document, text
from lcbench.results.report.html.headlines import headline_section
from lcbench.results.report.html.heat import heat_section, heat_style
from lcbench.results.report.html.tables import Colors, cost_table, failures, score_table
from lcbench.results.report.layout import grids
from lcbench.results.report.notes import notes
from lcbench.results.report.overview import overview
from lcbench.results.report.runs import Run, read_runs, trained_length
from lcbench.results.report.scale import full_score
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.schema import Record

KEPT = frozenset(
    {
        "task",
        "method",
        "seq_len",
        "cell_depth",
        "depth",
        "sample",
        "repeat",
        "document",
        "prompt_tokens",
        "output_tokens",
        "references",
        "prediction",
        "reasoning",
        "reasoning_cut",
        "metric",
        "scores",
        "cost",
        "error",
        "equals",
        "taken_from",
    }
)  # of a record


def page(folders: Sequence[Path], effective: float = RULER, difference: str | None = None) -> str:
    """The report of some run folders; a folder given twice counts once. `effective`: threshold of the effective length;
    `difference`: the base of the paired differences.

    Raises: UserError for a folder without records, or a method that no run has.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    runs = read_runs(folders)
    shown = overview(runs, effective)
    rows = shown.rows
    colors, tasks = Colors(rows), by_task(rows)
    methods = {row.method for row in rows}
    if difference is not None and difference not in methods:
        raise unknown("method to differ from", difference, methods)
    base = Base(difference, shown.records) if difference else None
    models = dict.fromkeys(str(run.identity.model) for run in runs)
    title = f"{', '.join(task for task, _ in tasks)} on {', '.join(models)}"
    links = "".join(f'<li><a href="#task{number}">{text(task)}</a></li>' for number, (task, _) in enumerate(tasks))
    beside = dict(by_task(shown.published))
    remarks = "".join(f"<li>{text(line)}</li>" for line in [*shown.remarks, *notes(shown.published)])
    headlines = '<li><a href="#headlines">headlines</a></li>' if shown.headlines else ""
    body = "\n".join(
        [
            f"<header><p>lcbench report</p><h1>{text(title)}</h1></header>",
            f'<nav aria-label="Contents"><ul>{links}{headlines}<li><a href="#samples">samples</a></li>'
            '<li><a href="#made">how it was made</a></li></ul></nav>',
            "<main>",
            *(
                _task(f"task{number}", task, members, beside[task], runs, colors, base)
                for number, (task, members) in enumerate(tasks)
            ),
            headline_section(shown.headlines),
            f'<ul class="about">{remarks}</ul>' if remarks else "",
            _SAMPLES,
            '<section id="made"><h2>How it was made</h2>',
            *(_made(run, folder) for run, folder in zip(runs, folders, strict=True)),
            "</section>",
            "</main>",
        ]
    )
    return document(title, body, asset("report.css") + heat_style(), asset("report.js"), _data(runs))


def _task(
    anchor: str,
    task: str,
    rows: Sequence[TableRow],
    beside: Sequence[TableRow],
    runs: Sequence[Run],
    colors: Colors,
    base: Base | None,
) -> str:
    """The section of a task; `beside` are its rows with published ones, used only in the tables of scores."""
    first = grids(rows)[0]
    trained = trained_length(runs)
    lengths = {run.identity.pretraining_length for run in runs if run.identity.pretraining_length}
    return "\n".join(
        [
            f'<section id="{anchor}"><h2>{text(task)}</h2>{_about(task, runs)}',
            *(score_table(grid, trained, colors) for grid in grids(beside)),
            failures(first),
            *(curves(grid, lengths, colors) for grid in grids(rows) if grid.first or grid.rows[0].metric == "longppl"),
            differences(first, base, lengths, colors) if base else "",
            heat_section(first, {run.name: run for run in runs}, colors),
            f"<h3>Cost</h3>{cost_table(first, trained, colors)}" if first.cost_columns else "",
            "</section>",
        ]
    )


def _about(task: str, runs: Sequence[Run]) -> str:
    """The task's description and source."""
    known = next((known for run in runs for known in run.identity.tasks if known.name == task), TaskFacts(name=task))
    parts = [known.description or ""]
    parts += [f"Source: {known.citation}."] if known.citation else []
    return f'<p class="about">{text(" ".join(parts))}</p>'


def _made(run: Run, folder: Path) -> str:
    """Model, settings, and each session's command, versions and machine; all of run.json can be unfolded."""
    identity, manifest = run.identity, read_manifest(folder)
    failed = sum(record.failed for record in run.records)
    trained, source = identity.pretraining_length, manifest.identity.model
    typed = [str(source)] if source != identity.model else []
    facts: list[tuple[str, object]] = [
        ("folder", folder),
        ("samples", f"{len(run.records):,}" + (f", {failed:,} of them failed" if failed else "")),
        ("model", f"{identity.model} ({', '.join([*typed, identity.model_fingerprint or 'no fingerprint'])})"),
        ("trained at", f"{trained:,} tokens" if trained else "unknown"),
        ("dtype, device, seed", ", ".join(map(str, (identity.dtype, identity.device, identity.seed)))),
    ]
    for number, session in enumerate(manifest.sessions, start=1):
        facts.append((f"session {number}", session.started_at))
        facts.append(("command", shlex.join(session.command)))
        made = as_json(session)
        facts += [(key, _words(made[key])) for key in ("versions", "hardware", "platform", "git") if made.get(key)]
        facts += [("advice", advice) for advice in session.advice]
    rows = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(fact)}</td></tr>\n' for name, fact in facts)
    whole = json.dumps(manifest.content, indent=2, ensure_ascii=False)
    return (
        f'<h3>{text(run.name)}</h3>\n<table class="facts"><tbody>\n{rows}</tbody></table>\n'
        f"<details><summary>run.json</summary><pre>{text(whole)}</pre>"
        "</details>\n"
    )


def _words(value: Any) -> str:
    """A mapping of run.json on one line: `torch 2.13.0, cores 2`; empty values are left out."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items() if entry not in ([], (), None))
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _data(runs: Sequence[Run]) -> dict[str, Any]:
    """The script's data: the samples in order, the distinct excerpts of their prompts, and the full score of each
    metric."""
    excerpts: dict[tuple[str, ...], int] = {}
    samples: list[dict[str, Any]] = []
    for run in runs:
        for record in run.records:
            sample = _sample(record) | {"run": run.name}
            if excerpt := tuple(record.prompt.excerpt or ()):
                sample["excerpt"] = excerpts.setdefault(excerpt, len(excerpts))
            samples.append(sample)
    scores: dict[str, list[float]] = {}
    for sample in samples:
        if sample["score"] is not None:
            scores.setdefault(sample["metric"], []).append(sample["score"])
    full = {metric: full_score(metric, values) for metric, values in scores.items()}
    return {"samples": samples, "excerpts": list(excerpts), "full": full}


def _sample(record: Record) -> dict[str, Any]:
    kept = {key: _finite(value) for key, value in record.as_json().items() if key in KEPT and value is not None}
    return {"score": record.score, **kept}


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by their names."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_SAMPLES = """<section id="samples"><h2>Samples</h2>
<noscript><p>The samples are shown by a script, which this browser does not run.</p></noscript>
<form class="filters" role="search" aria-label="Filter samples" hidden>
<label data-for="run">Run <select name="run"></select></label>
<label data-for="task">Task <select name="task"></select></label>
<label data-for="method">Method <select name="method"></select></label>
<label data-for="tokens">Length <select name="tokens"></select></label>
<label data-for="depth">Depth <select name="depth"></select></label>
<label data-for="outcome">Outcome <select name="outcome"></select></label>
<label>Sort by <select name="sort"></select></label>
<label class="wide">Text <input name="text" type="search" placeholder="in prediction, answer, excerpt"></label>
<button type="reset">Clear</button>
</form>
<p id="count" role="status"></p>
<div class="scroll" tabindex="0" role="region" aria-label="Table of samples">
<table class="samples" role="table"><caption class="hidden">Samples</caption><thead></thead><tbody></tbody></table>
</div>
<p class="pages" hidden><button type="button" id="previous">Previous</button>
<button type="button" id="next">Next</button></p>
</section>"""
