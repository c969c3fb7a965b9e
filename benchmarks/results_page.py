"""docs/results.md out of the committed runs under results/: tables, and what the embedded model predicts of a real LLM.

python -m benchmarks.results_page

It writes docs/results.md and the heatmaps of the LLM's passkeys, docs/smollm2.png. Every number on the page is computed
from records; the statistics of claims are in `benchmarks.claims`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.claims import LEGEND, Better, Claim, Falls, table, verdicts
from lcbench.results.report.figure import save
from lcbench.results.report.heatmap import draw, heatmaps
from lcbench.results.report.layout import interval, number
from lcbench.results.report.runs import Run, read_runs, trained_length
from lcbench.results.report.summary import summarise_runs
from lcbench.results.report.table_page import markdown

DOCS, RESULTS = (Path(__file__).parents[1] / name for name in ("docs", "results"))
TINY, REAL = RESULTS / "lcbench-tiny", RESULTS / "smollm2"


CLAIMS: tuple[Claim, ...] = (
    Falls("Vanilla breaks past its window", "vanilla", 2),
    Falls("PI fails without tuning", "pi", 2),
    Better("NTK reaches twice the window", "vanilla", "ntk", 2),
    Better("YaRN reaches twice the window", "vanilla", "yarn", 2),
    Better("DCA holds at twice the window", "vanilla", "dca", 2),
    Better("Self-Extend holds at twice the window", "vanilla", "self_extend", 2),
    Better("A larger group is better than the smallest that fits", "self_extend:group_size=3", "self_extend", 2),
    Better("Log-length scaling repairs DCA", "dca", "dca+logn", 2),
    Better("Log-length scaling repairs DCA", "dca", "dca+logn", 4),
    Better("Log-length scaling repairs Self-Extend", "self_extend", "self_extend+logn", 4),
)

HEAD = """# Results on a real LLM

SmolLM2-135M-Instruct (Llama architecture, trained at 8,192 tokens; its GGUF file of 4-bit weights, computed in {dtype}
on a CPU) beside lcbench-tiny, the embedded model, trained at 256 tokens. This page is made out of the records under
[results](../results) by `python -m benchmarks.results_page`; `make results` makes the records, goes
on where it was stopped, and takes hours on two cores. No method was tuned on either model.

The LLM is asked for passkeys in plain text (`chat=off`). Behind its chat template it does not retrieve at 2,048 tokens
already, neither here nor in plain transformers: it tells of "a magical item" instead.
"""


BOOKS = """## Perplexity of books at the trained length and at twice that

SmolLM2-135M-Instruct reads the beginnings of real books (PG19), lcbench-tiny of generated ones, on which it was
trained. More of the same book tells more about how it goes on: without harm the perplexity falls.
"""


TASKS = """## Every task on the LLM, at the trained length and at twice that

The mean at 8,192 tokens, then at 16,384 with its 95 % interval. The tables below have all lengths, samples and costs.
"""


def page() -> str:
    """The page, in Markdown."""
    tiny, real = merged(TINY), merged(REAL)
    parts = [HEAD.format(dtype=real.identity.dtype), *_claims(tiny, real), *_tasks(real), *_books(tiny, real)]
    for name, run in (("SmolLM2-135M-Instruct", real), ("lcbench-tiny", tiny)):
        parts += [f"## {name}\n", *_unfinished(run), markdown(summarise_runs([run]), trained_length([run]))]
    return "\n".join(parts)


def merged(folder: Path) -> Run:
    """All runs of a model as one: their samples differ in task, method, length or depth."""
    runs = read_runs(sorted(path.parent for path in folder.glob("*/run.json")))
    tasks = {task.name: task for run in runs for task in run.identity.tasks}
    identity = replace(runs[0].identity, tasks=list(tasks.values()))
    records = [record for run in runs for record in run.records]
    return Run(folder.name, identity, records, sum(run.missing for run in runs))


def _unfinished(run: Run) -> list[str]:
    total = len(run.records) + run.missing
    return [f"{len(run.records)} of {total} samples are there; `make results` goes on.\n"] if run.missing else []


def _claims(tiny: Run, real: Run) -> list[str]:
    columns = {"lcbench-tiny": verdicts(tiny, CLAIMS), "SmolLM2-135M-Instruct": verdicts(real, CLAIMS)}
    heading = "## Does what the embedded model predicts hold?\n"
    return [heading, f"Passkeys; scores are shares of right answers.\n{LEGEND}", *table(CLAIMS, columns), ""]


def _books(tiny: Run, real: Run) -> list[str]:
    columns = [perplexities(tiny), perplexities(real)]
    known = list(dict.fromkeys(method for column in columns for method in column))
    lines = [
        BOOKS,
        "| method | lcbench-tiny | SmolLM2-135M-Instruct |",
        "| --- | ---: | ---: |",
        *(f"| `{name}` | {' | '.join(column.get(name, 'not measured') for column in columns)} |" for name in known),
    ]
    return [*lines, ""] if known else []


def _tasks(run: Run) -> list[str]:
    columns = reach(run)
    methods = dict.fromkeys(method for cells in columns.values() for method in cells)
    lines = [TASKS, f"| method | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for method in methods:
        lines.append(f"| `{method}` | {' | '.join(cells.get(method, '') for cells in columns.values())} |")
    return [*lines, ""] if columns else []


def reach(run: Run, times: int = 2) -> dict[str, dict[str, str]]:
    """By task that is scored by answers, by method: its mean at the trained length, and at `times` that, with its
    interval."""
    trained = run.identity.pretraining_length or 0
    rows = {
        (row.task, row.method, row.seq_len): row
        for row in summarise_runs([run])
        if row.bits_per_byte is None and row.mean is not None
    }
    found: dict[str, dict[str, str]] = {}
    for (task, method, seq_len), far in rows.items():
        near = rows.get((task, method, trained)) or rows.get((task, "vanilla", trained))  # which it equals within
        if seq_len == times * trained and near:
            one, other = (number(row.mean or 0.0, row.metric) for row in (near, far))
            found.setdefault(task.partition(":")[0], {})[method] = f"{one} to {other} {interval(far)}"
    return found


def perplexities(run: Run, times: int = 2) -> dict[str, str]:
    """By method: the perplexity at the trained length, at `times` as many tokens of the same books, and how many of the
    books have a higher one then."""
    trained = run.identity.pretraining_length or 0
    found: dict[tuple[str, int], dict[str | None, float]] = {}
    for record in run.records:
        if record.failure is None and record.measured.nll:
            one, nats = record.identity, record.measured.scores.number("nll")
            found.setdefault((one.method, one.seq_len), {})[record.prompt.document] = nats or 0.0
    said = {}
    for method, seq_len in found:
        near, far = (found.get((method, trained * k), {}) for k in (1, times))
        books = near.keys() & far.keys()
        if seq_len == trained and books:
            one, other = (math.exp(fmean(side[book] for book in books)) for side in (near, far))
            rises = sum(far[book] > near[book] for book in books)
            said[method] = f"{one:.2f} to {other:.2f}, higher in {rises} of {len(books)}"
    return said


def main() -> None:
    """Write the page and its figure."""
    (DOCS / "results.md").write_text(page(), encoding="utf-8")
    run = merged(REAL)
    maps = heatmaps(run.records, "passkey")
    most = max(len(one.points) for one in maps)
    whole = [one for one in maps if len(one.points) == most]  # methods that were asked at every depth and length
    save(draw(whole, trained_length([run]), "SmolLM2-135M-Instruct"), DOCS / "smollm2.png")


if __name__ == "__main__":
    main()
