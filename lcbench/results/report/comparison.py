"""A comparison of two runs, for a terminal and as Markdown (for a CI job summary or a pull request)."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lcbench.results.compare.power import power
from lcbench.results.compare.result import CellResult, Comparison, Verdict
from lcbench.results.lengths import in_tokens
from lcbench.results.report.terminal import fits, method_label
from lcbench.results.report.text import escaped, printable, row

UNKNOWN = "[unknown]"  # interval
STYLES: dict[Verdict, str] = {
    "regressed": "bold red",
    "improved": "bold green",
    "non-inferior": "green",
    "no evidence": "",
    "not comparable": "yellow",
}


def print_comparison(console: Console, comparison: Comparison) -> None:
    """One table per task, or a list if the terminal is too narrow; then the reasons, the missing samples, and the
    number of cells per verdict."""
    for task, cells in by_task(comparison.cells):
        console.print(Text(title(task, cells), style="italic"))
        if fits(console, _table(comparison, cells)):
            console.print(_table(comparison, cells))
        else:
            _print_list(console, comparison, cells)
    reasons = [printable(f"{cell.name}: {cell.verdict}: {cell.why}") for cell in comparison.cells if cell.why]
    for line in [*reasons, *remarks(comparison)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(comparison: Comparison, cells: Iterable[CellResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold")
    within = "" if comparison.tolerance is None else "\nwithin"
    for heading in ("tokens\npairs", "BASE\nNEW", "difference\n95 %", f"adj. p{within}"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for cell in cells:
        table.add_row(*_table_row(comparison, cell))
    return table


def _table_row(comparison: Comparison, cell: CellResult) -> list[Text]:
    """Two lines: length, scores and difference, and below them the number of pairs and the interval."""
    numbers = ["", "", ""]
    if cell.effect:
        difference = f"{cell.effect.difference:+.3f}\n{interval(cell)}"
        within = f"\n{p_words(cell.tolerated.worse_adjusted)}" if cell.tolerated else ""
        numbers = [f"{cell.effect.base:.3f}\n{cell.effect.new:.3f}", difference, p_value(cell) + within]
    words = (cell.verdict, identical(cell), equivalent(comparison, cell))
    verdict = Text("\n".join(filter(None, words)), style=STYLES[cell.verdict])
    label = method_label(printable(cell.method))
    return [label, Text(f"{in_tokens(cell.seq_len)}\n{cell.pairs}"), *map(Text, numbers), verdict]


def _print_list(console: Console, comparison: Comparison, cells: Iterable[CellResult]) -> None:
    """The content of the table as a list of cells."""
    for cell in cells:
        console.print(method_label(printable(cell.method)))
        pairs = f"{cell.pairs} pair{'' if cell.pairs == 1 else 's'}"
        verdict = ", ".join(filter(None, (cell.verdict, identical(cell), equivalent(comparison, cell))))
        lines = [Text.assemble(f"{in_tokens(cell.seq_len)} tokens, {pairs}: ", (verdict, STYLES[cell.verdict]))]
        if cell.effect:
            lines.append(Text(f"BASE {cell.effect.base:.3f}, NEW {cell.effect.new:.3f}, adj. p {p_value(cell)}"))
            lines.append(Text(f"difference {cell.effect.difference:+.3f} {interval(cell)}"))
        if cell.tolerated:
            bound, within, _ = _tolerated(cell)
            lines.append(Text(f"worst difference {bound}, within the tolerance: adj. p {within}"))
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 2), expand=False))
    console.print()


def markdown(comparison: Comparison) -> str:
    """The comparison in Markdown, with the settings of the two runs, and cost."""
    parts = [f"## lcbench compare: {comparison.summary}\n"]
    for task, cells in by_task(comparison.cells):
        names = columns(comparison)
        lines = [row(names), row("---" if name in ("method", "verdict") else "---:" for name in names)]
        lines += [row(escaped(value) for value in values(comparison, cell)) for cell in cells]
        parts.append(f"**{escaped(title(task, cells))}**\n\n" + "\n".join(lines) + "\n")
    parts.append("\n".join(f"- {escaped(line)}" for line in remarks(comparison)) + "\n")
    facts = [row(map(escaped, fact)) for fact in comparison.facts]
    parts.append("\n".join([row(("", "BASE", "NEW")), "| --- | --- | --- |", *facts]) + "\n")
    return "\n".join(parts)


COLUMNS = (
    "method",
    "tokens",
    "pairs",
    "BASE",
    "NEW",
    "difference (95 %)",
    "adjusted p",
    "verdict",
    "prefill time",
    "decode time",
    "memory",
)


def columns(comparison: Comparison) -> list[str]:
    """The headings of `values`."""
    if comparison.tolerance is None:
        return list(COLUMNS)
    sure = f"{100 * (1 - comparison.alpha):g} %, one-sided"
    return [*COLUMNS, f"worst difference ({sure})", "p within, adjusted", "p equivalent, adjusted"]


def values(comparison: Comparison, cell: CellResult) -> list[str]:
    """The texts of a cell, in the order of `columns`."""
    return [*_values(comparison, cell), *([] if comparison.tolerance is None else _tolerated(cell))]


def _tolerated(cell: CellResult) -> list[str]:
    found = cell.tolerated
    if found is None:
        return [""] * 3
    bound = UNKNOWN if found.bound is None else f"{found.bound:+.3f}"
    return [bound, p_words(found.worse_adjusted), p_words(found.apart_adjusted)]


def _values(comparison: Comparison, cell: CellResult) -> list[str]:
    effect, ratios = cell.effect, cell.ratios
    scores = [f"{effect.base:.3f}", f"{effect.new:.3f}"] if effect else ["", ""]
    return [
        printable(cell.method),
        f"{in_tokens(cell.seq_len)}",
        str(cell.pairs),
        *scores,
        f"{effect.difference:+.3f} {interval(cell)}" if effect else "",
        p_value(cell),
        _verdict(comparison, cell),
        *("" if ratio is None else f"x {ratio:.2f}" for ratio in (ratios.prefill, ratios.decode, ratios.memory)),
    ]


def _verdict(comparison: Comparison, cell: CellResult) -> str:
    why = ", ".join(filter(None, (printable(cell.why or identical(cell)), equivalent(comparison, cell))))
    return f"{cell.verdict} ({why})" if why else cell.verdict


def equivalent(comparison: Comparison, cell: CellResult) -> str:
    """`equivalent` if a cell certainly differs by less than the tolerance, either way; else empty."""
    return "equivalent" if comparison.equivalent(cell) else ""


def identical(cell: CellResult) -> str:
    """`identical` if all pairs have equal scores, `identical, = vanilla` if both sides equal that method; else
    empty."""
    if not (cell.effect and cell.effect.identical):
        return ""
    return f"identical, = {printable(cell.equals)}" if cell.equals else "identical"


def remarks(comparison: Comparison) -> list[str]:
    """Remarks below the tables: missing samples by name, differing machines, and how verdicts were reached."""
    lines = [printable(f"{cell.name}: {gap}") for cell in comparison.cells for gap in cell.gaps]
    lines += [
        f"{name} is unfinished: {side.missing:,} of its samples are missing; its command, run again, resumes it."
        for name, side in (("BASE", comparison.base), ("NEW", comparison.new))
        if side.missing
    ]
    changes = [(name, base or "unknown", new or "unknown") for name, base, new in comparison.changes]
    lines += [printable(f"{name} changed: {base} in BASE, {new} in NEW") for name, base, new in changes]
    if any(name == "hardware" for name, *_ in changes):
        lines.append("the runs were made on different hardware: their times are not comparable.")
    if any(interval(cell) == UNKNOWN for cell in comparison.cells):
        lines.append(f"{UNKNOWN}: too few samples differ to estimate an interval.")
    tested = sum(cell.effect is not None for cell in comparison.cells)
    lines.append(
        f"scores judged at alpha {comparison.alpha:g} over {tested} cell{'' if tested == 1 else 's'} together "
        "(Holm); a cell or depth that BASE has and NEW lacks, and a sample that newly fails, counts as regressed."
    )
    lines += _on_tolerance(comparison)
    equal = len(comparison.cells) - len(comparison.testable)
    if equal:
        lines.append(f"in {equal} cell{'' if equal == 1 else 's'} both sides are the same result and cannot differ.")
    strength = power(comparison.testable, comparison.alpha)
    if strength:
        lines.append(f"power: {strength}")
    if strength and strength.weak:
        lines.append("warning: a gate with so little power hardly ever fails; use more --samples.")
    if comparison.identical:
        lines.append("identical: every pair of every cell has the same score in both runs.")
    return [*lines, comparison.summary]


def _on_tolerance(comparison: Comparison) -> list[str]:
    """The tolerance, and the verdicts against it."""
    if comparison.tolerance is None:
        return []
    same, open_ = sum(map(comparison.equivalent, comparison.cells)), len(comparison.having("no evidence"))
    lines = [
        f"tolerance {comparison.tolerance:g} of the full score (for likelihoods, nats per token): cells whose scores "
        f"certainly drop by less are non-inferior (one-sided test); {same} of {len(comparison.cells)} are equivalent, "
        "within it both ways (two one-sided tests). All other drops are judged as without a tolerance."
    ]
    if open_:
        lines.append(
            f"{open_} cell{'' if open_ == 1 else 's'} neither regressed nor shown to be within the tolerance; use more "
            "--samples to tell."
        )
    return lines


def by_task(cells: Iterable[CellResult]) -> list[tuple[str, list[CellResult]]]:
    """The cells of each task, in order."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(cell.task, []).append(cell)
    return list(groups.items())


def title(task: str, cells: list[CellResult]) -> str:
    metric = next((cell.metric for cell in cells if cell.metric), "no score").replace("_", " ")
    tests = dict.fromkeys(cell.effect.test for cell in cells if cell.effect)
    names = {"McNemar": "McNemar's exact test", "bootstrap": "paired bootstrap"}
    return printable(f"{task}: {metric}") + (f", {' and '.join(names[test] for test in tests)}" if tests else "")


def interval(cell: CellResult) -> str:
    """`[-0.142, -0.031]`, or `[unknown]` if too few samples differ."""
    effect = cell.effect
    if effect is None or effect.low is None or effect.high is None:
        return UNKNOWN if effect else ""
    return f"[{effect.low:+.3f}, {effect.high:+.3f}]"


def p_value(cell: CellResult) -> str:
    return "" if cell.effect is None or cell.effect.p_adjusted is None else p_words(cell.effect.p_adjusted)


def p_words(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
