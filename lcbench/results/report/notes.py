"""What the lines under a table say: what was cut or left out, what methods equal, what costs are of, who served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lcbench.results.lengths import in_tokens
from lcbench.results.report.best import RULE
from lcbench.results.report.layout import UNKNOWN, Grid, equal, grids, interval, noun, number
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.text import printable

NAMED = 8  # rows that were left out, by their numbers
Names = Mapping[tuple[object, ...], str]  # of lines in tables, by the place of a row
SHORT = 0.9  # share of the length under which the true length of prompts is told


def notes(rows: Sequence[TableRow], mark: str = "bold") -> list[str]:
    """The notes below the tables, where they apply: what the mark of some scores means, why an interval is unknown, how
    much scores vary with the draw of demonstrations, how much prefill was saved by reusing prefixes, which keys
    methods chose, and how many answers the peak memory is for."""
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
    """Where the figures come from that were not measured here."""
    return [
        f"published: not measured here, on other samples, never compared; {printable(source)}."
        for source in dict.fromkeys(sources)
        if source
    ]


def _chosen(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """What methods that choose keys left out, each at its longest length."""
    longest = {called[row.place]: row for row in sorted(rows, key=lambda row: row.seq_len)}
    lines = []
    for name, what in (("kept_keys", "keys kept for the answer"), ("density", "attention computed in the prompt")):
        shares = [(line, row, share) for line, row in longest.items() if (share := getattr(row, name)) is not None]
        if shares:
            said = ", ".join(f"{line} at {row.seq_len:,} {share:.1%}" for line, row, share in shares)
            lines.append(f"{task}, {what}: {said}.")
    return lines


def _key_tokens(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """What LongPPL is over."""
    known = [
        f"{row.key_tokens:,} with {called[row.place]} at {row.seq_len:,}" for row in rows if row.longppl is not None
    ]
    contexts = sorted({row.short_context for row in rows if row.longppl is not None})
    if not known:
        return []
    return [
        f"{task}, longppl: over the tokens that the whole context makes likely and one of "
        f"{' or '.join(f'{context:,}' for context in contexts)} tokens does not, by each method's own judgement: "
        f"{', '.join(known)}."
    ]


def _served(task: str, row: TableRow, name: str) -> list[str]:
    """What a server did to prompts and answers of a row, beside answering."""
    place = f"{task} at {in_tokens(row.seq_len)}, {name}"
    lines = []
    if row.counted_otherwise:
        least, most = row.counted_least, row.counted_most
        by = f"{least:+,}" if least == most else f"{least:+,} to {most:+,}"
        lines.append(
            f"{place}: the server counted the prompts of {row.counted_otherwise} of {_answers(row)} otherwise "
            f"than they were sent, by {by} tokens{'; below 0 it cut them' if least < 0 else ''}."
        )
    if row.uncounted:
        lines.append(
            f"{place}: the server did not count the prompts of {row.uncounted} of {_answers(row)}; one that it cut "
            "would not show."
        )
    if row.ended_by_server:
        lines.append(f"{place}: answers {printable(row.ended_by_server)}.")
    if row.retries:
        lines.append(f"{place}: {row.retries} requests were repeated.")
    return lines


def _answers(row: TableRow) -> str:
    return f"{row.samples} {'samples' if row.samples == row.questions else 'answers'}"


def _spreads(task: str, rows: Sequence[TableRow], called: Names) -> list[str]:
    """How much scores vary over draws of demonstrations, and over repeats."""
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
    """How many thoughts did not end within their budget, or, where they had none, within the answer's."""
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
    """How many documents were cut, and how long prompts are that are much shorter than the length of their column; what
    holds for all methods, which mostly read the same prompts, is said once."""
    lines = []
    ascending = sorted(rows, key=lambda row: row.seq_len)
    for row in (row for row in ascending if row.skipped):
        more = f" and {len(row.skipped) - NAMED:,} more" if len(row.skipped) > NAMED else ""
        lines.append(
            f"{task} at {in_tokens(row.seq_len)}: {len(row.skipped)} of {len(row.skipped) + row.samples} rows do not "
            f"fit whole and were left out: samples {', '.join(row.skipped[:NAMED])}{more}."
        )
    for row in (row for row in ascending if row.samples):
        if row.cut:
            lines.append(
                f"{task} at {in_tokens(row.seq_len)}: documents cut in {row.cut} of {_answers(row)}, by "
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
    return [f"unknown: too few {' or '.join(nouns)} to know an interval; use more --samples."] if nouns else []


def _equal(rows: Sequence[TableRow]) -> list[str]:
    marks = dict.fromkeys(equal(row) for row in rows if row.equals)
    taken = "; where both ran, one result and its cost stand for both" if any(row.taken for row in rows) else ""
    return [f"{mark}: at that length the method changes nothing{taken}." for mark in marks]


def _spread(whole: Sequence[Grid]) -> list[str]:
    """What stands beside tokens a second, and how much of a processor a model on a busy machine had."""
    rows = [row for grid in whole if grid.first for row in grid.rows]
    lines = ["cost: prefill tokens a second ± their standard deviation over samples, and peak memory."] * any(
        row.prefill_tokens_per_second_sd is not None for row in rows
    )
    busy = [row.cpu_cores for row in rows if row.busy and row.cpu_cores is not None]
    if busy:
        lines.append(f"busy: other programs ran, and lcbench had {min(busy):.2f} cores; its times say little.")
    return lines


def _memory(task: str, grid: Grid) -> list[str]:
    """How many answers were decoded together at the longest length, and which methods differ from most in that."""
    rows = {line.name: row for line in grid.lines if (row := line.cells.get(grid.lengths[-1])) and row.samples}
    counts = {name: row.at_once for name, row in rows.items()}
    if max(counts.values(), default=1) == 1:
        return []
    ((usual, _),) = Counter(counts.values()).most_common(1)
    others = ", ".join(f"{count} with {name}" for name, count in counts.items() if count != usual)
    answers = "1 answer" if usual == 1 else f"{usual} answers"
    return [f"peak memory: of {answers} at once in {task}{f' ({others})' if others else ''}."]
