"""The notes under a table: cut or left-out samples, equal methods, the meaning of costs, and what a server did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lcbench.results.lengths import in_tokens
from lcbench.results.report.best import RULE
from lcbench.results.report.layout import UNKNOWN, Grid, equal, grids, interval, noun, number
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.text import printable

NAMED = 8  # left-out rows that are listed by number
Names = Mapping[tuple[object, ...], str]  # names of lines in tables, by the `place` of a row
SHORT = 0.9  # share of the cell's length below which the true length of prompts is noted


def notes(rows: Sequence[TableRow], mark: str = "bold") -> list[str]:
    """The notes below the tables, as far as they apply: the meaning of marks, unknown intervals, the spread over draws
    of demonstrations, prefill saved by prefix reuse, keys that methods kept or skipped, and the batch that the peak
    memory is for."""
    whole = grids(rows)
    called = {row.place: line.name for grid in whole for line in grid.lines for row in line.cells.values()}
    lines = [f"{mark}: {RULE}"] if any(row.best for row in rows) else []
    lines += _unknown(whole) + _equal(rows) + _spread(whole)
    for (task, members), grid in zip(by_task(rows), (grid for grid in whole if grid.first), strict=True):
        own = _own(members)
        lines += _spreads(printable(task), own, called) + _thoughts(printable(task), own, called)
        prompts, reused = (sum(each) for each in zip(*((row.prompt_tokens, row.reused_tokens) for row in own)))
        if 0 < reused < prompts:
            lines.append(
                f"prefix reuse: {prompts / (prompts - reused):.1f}x fewer prefill tokens in {printable(task)}."
            )
        lines += _chosen(printable(task), members, called) + _key_tokens(printable(task), members, called)
        lines += _lengths(printable(task), members) + _memory(printable(task), grid)
        lines += [line for row in members for line in _served(printable(task), row, called[row.place])]
    return lines + published_notes(row.published for row in rows)


def _own(rows: Sequence[TableRow]) -> list[TableRow]:
    """The rows but those that took over all samples of another one here: what is said of that holds for them, too."""
    known = {row.place for row in rows}
    return [
        row
        for row in rows
        if row.taken < max(row.samples, 1) or (row.task, row.equals, row.seq_len, row.model, row.run) not in known
    ]


def published_notes(sources: Iterable[str]) -> list[str]:
    """The sources of published figures."""
    return [
        f"published: not measured here, on other samples, not compared; {printable(source)}."
        for source in dict.fromkeys(sources)
        if source
    ]


def _chosen(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """How much methods that select keys left out, each at its longest length."""
    longest = {called[row.place]: row for row in sorted(rows, key=lambda row: row.seq_len)}
    lines = []
    for name, what in (("kept_keys", "keys kept for the answer"), ("density", "attention computed in the prompt")):
        shares = [(line, row, share) for line, row in longest.items() if (share := getattr(row, name)) is not None]
        if shares:
            said = ", ".join(f"{line} at {row.seq_len:,} {share:.1%}" for line, row, share in shares)
            lines.append(f"{task}, {what}: {said}.")
    return lines


def _key_tokens(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """The key tokens of LongPPL."""
    known = [
        f"{row.key_tokens:,} with {called[row.place]} at {row.seq_len:,}" for row in rows if row.longppl is not None
    ]
    contexts = sorted({row.short_context for row in rows if row.longppl is not None})
    if not known:
        return []
    return [
        f"{task}, longppl: over the tokens that are likely given the whole context and unlikely given "
        f"{' or '.join(f'{context:,}' for context in contexts)} tokens, judged by each method itself: "
        f"{', '.join(known)}."
    ]


def _served(task: str, row: TableRow, name: str) -> list[str]:
    """What a server did to the prompts and answers of a row: other token counts, truncation, retries, early ends."""
    place = f"{task} at {in_tokens(row.seq_len)}, {name}"
    lines = []
    if row.counted_otherwise:
        least, most = row.counted_least, row.counted_most
        by = f"{least:+,}" if least == most else f"{least:+,} to {most:+,}"
        lines.append(
            f"{place}: the server counted other prompt tokens than were sent for {row.counted_otherwise} of "
            f"{_answers(row)}, by {by} tokens{'; negative: it truncated them' if least < 0 else ''}."
        )
    if row.uncounted:
        lines.append(
            f"{place}: the server did not count the prompts of {row.uncounted} of {_answers(row)}; one that it cut "
            "would not show."
        )
    if row.ended_by_server:
        lines.append(f"{place}: answers {printable(row.ended_by_server)}.")
    if row.retries:
        lines.append(f"{place}: {row.retries} requests were retried.")
    return lines


def _answers(row: TableRow) -> str:
    return f"{row.samples} {'samples' if row.samples == row.questions else 'answers'}"


def _spreads(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """The standard deviation of scores over draws of demonstrations, and over repeats."""
    lines = []
    for count, sd, what in (("draws", "draws_sd", "draws of demonstrations"), ("repeats", "repeats_sd", "repeats")):
        known = [(row, value) for row in rows if (value := getattr(row, sd)) is not None]
        by_line: dict[str, list[str]] = {}
        for row, value in known:
            said = f"{number(value, row.metric)} at {in_tokens(row.seq_len)}"
            by_line.setdefault(called[row.place], []).append(said)
        if known:
            most = max(getattr(row, count) for row, _ in known)
            each = "; ".join(f"{line} {', '.join(values)}" for line, values in by_line.items())
            lines.append(f"{task}, standard deviation over {most} {what}: {each}.")
    return lines


def _thoughts(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """How many thoughts did not end within their budget, or within the answer's if they had none."""
    known = [row for row in rows if row.thoughts]
    if not known:
        return []
    cut = [
        f"{row.thoughts_cut} of {row.thoughts} with {called[row.place]} at {in_tokens(row.seq_len)}"
        for row in known
        if row.thoughts_cut
    ]
    total = sum(row.thoughts for row in known)
    return [f"{task}, thoughts that did not end: {', '.join(cut) if cut else f'none of {total}'}."]


def _lengths(task: str, rows: Sequence[TableRow]) -> list[str]:
    """How many documents were cut or left out, and the length of prompts that are much shorter than their column; if it
    is the same for all methods, which mostly have the same prompts, it is said once."""
    lines = []
    ascending = sorted(rows, key=lambda row: row.seq_len)
    for row in (row for row in ascending if row.skipped):
        more = f" and {len(row.skipped) - NAMED:,} more" if len(row.skipped) > NAMED else ""
        lines.append(
            f"{task} at {in_tokens(row.seq_len)}: {len(row.skipped)} of {len(row.skipped) + row.samples} rows do not "
            f"fit completely and were left out: samples {', '.join(row.skipped[:NAMED])}{more}."
        )
    for row in (row for row in ascending if row.samples):
        if row.cut:
            lines.append(
                f"{task} at {in_tokens(row.seq_len)}: documents were cut in {row.cut} of {_answers(row)}, by "
                f"{row.cut_tokens:,.0f} tokens on average."
            )
        if 0 < row.tokens < SHORT * row.seq_len and row.bits_per_byte is None:
            lines.append(
                f"{task} at {in_tokens(row.seq_len)}: prompt and answer have {row.tokens:,.0f} tokens on average."
            )
    return list(dict.fromkeys(lines))


def _unknown(whole: Sequence[Grid]) -> list[str]:
    rows = [row for grid in whole for row in grid.rows if row.mean is not None and interval(row) == UNKNOWN]
    nouns = dict.fromkeys(map(noun, rows))
    return [f"unknown: too few {' or '.join(nouns)} to estimate an interval; use more --samples."] if nouns else []


def _equal(rows: Sequence[TableRow]) -> list[str]:
    marks = dict.fromkeys(equal(row) for row in rows if row.equals)
    taken = "; where both ran, one result and its cost stand for both" if any(row.taken for row in rows) else ""
    return [f"{mark}: at that length the method changes nothing{taken}." for mark in marks]


def _spread(whole: Sequence[Grid]) -> list[str]:
    """The meaning of the cost columns, and how much of a processor a model on a busy machine had."""
    rows = [row for grid in whole if grid.first for row in grid.rows]
    lines = ["cost: prefill tokens per second ± their standard deviation over samples, and peak memory."] * any(
        row.prefill_tokens_per_second_sd is not None for row in rows
    )
    busy = [row.cpu_cores for row in rows if row.busy and row.cpu_cores is not None]
    if busy:
        lines.append(f"busy: other programs ran, and lcbench had {min(busy):.2f} cores; its times are unreliable.")
    return lines


def _memory(task: str, grid: Grid) -> list[str]:
    """How many answers were decoded together at the longest length, and which methods differ in that."""
    rows = {line.name: row for line in grid.lines if (row := line.cells.get(grid.lengths[-1])) and row.samples}
    counts = {name: row.at_once for name, row in rows.items()}
    if max(counts.values(), default=1) == 1:
        return []
    ((usual, _),) = Counter(counts.values()).most_common(1)
    others = ", ".join(f"{count} with {name}" for name, count in counts.items() if count != usual)
    answers = "1 answer" if usual == 1 else f"{usual} answers"
    return [f"peak memory: of {answers} at once in {task}{f' ({others})' if others else ''}."]
