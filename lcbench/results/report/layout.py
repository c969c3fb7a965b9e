"""What all tables share: one grid of methods by lengths per task, and the formatting of scores, methods and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lcbench.results.compare.cells import LOWER_IS_BETTER
from lcbench.results.lengths import in_tokens
from lcbench.results.report.best import RULE
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.text import printable

NAMED = 8  # rows that were left out, by their numbers
UNKNOWN = "[unknown]"  # interval
PUBLISHED = " (published)"  # after the name of a line
SHORT = 0.9  # share of the length under which the true length of prompts is told


@dataclass(frozen=True)
class Line:
    """A row of a table: a method, model and run where these tell rows apart (else empty), and one cell per length."""

    method: str
    model: str
    run: str
    cells: dict[int, TableRow]

    @property
    def published(self) -> bool:
        """Whether its figures were not measured here."""
        return any(row.published for row in self.cells.values())

    @property
    def name(self) -> str:
        """In words: `dca on lcbench-tiny in results-1`."""
        return self.method + (f" on {self.model}" if self.model else "") + (f" in {self.run}" if self.run else "")


@dataclass(frozen=True)
class Grid:
    """One table: its title, its lengths in tokens, ascending, and its lines. The `first` table of a task also shows
    cost and failures."""

    title: str
    lengths: list[int]
    lines: list[Line]
    first: bool

    @property
    def rows(self) -> list[TableRow]:
        return [row for line in self.lines for row in line.cells.values()]

    @property
    def labels(self) -> list[str]:
        """What names a line beside its method: its model, its run, both or neither."""
        return [name for name in ("model", "run") if any(getattr(line, name) for line in self.lines)]

    @property
    def served(self) -> bool:
        """Whether a server ran one of its models."""
        return any(row.first_token_seconds is not None or row.retries for row in self.rows)

    @property
    def cost_columns(self) -> list[str]:
        """What `costs` gives of a line."""
        served = ["first token", "decode tok/s", "repeated"] if self.served else []
        return ["prefill tok/s", "peak memory", *served] if self.first else []

    @property
    def failures(self) -> list[tuple[Line, TableRow]]:
        return [(line, row) for line in self.lines for row in line.cells.values() if row.failed] if self.first else []


def grids(rows: Sequence[TableRow]) -> list[Grid]:
    """One table per task; of likelihoods one each for perplexity, bits per byte and bits per word."""
    measured = [row for row in rows if not row.published]
    models = len({row.model for row in measured}) > 1
    seen = [(row.task, row.method, row.seq_len, row.model) for row in measured]
    runs = len(set(seen)) < len(seen)
    found = []
    for task, members in by_task(rows):
        for place, view in enumerate(_views(members)):
            lines: dict[tuple[str, str, str], Line] = {}
            for row in view:
                key = (printable(row.method), printable(row.model) * models, printable(row.run) * runs)
                if row.published:
                    key = (printable(row.method) + PUBLISHED, "", "")
                lines.setdefault(key, Line(*key, {})).cells[row.seq_len] = row
            lengths = sorted({row.seq_len for row in view})
            ordered = [replace(line, cells=dict(sorted(line.cells.items()))) for line in lines.values()]
            found.append(Grid(_title(task, view), lengths, ordered, first=place == 0))
    return found


def notes(rows: Sequence[TableRow], mark: str = "bold") -> list[str]:
    """The notes below the tables, where they apply: what the mark of some scores means, why an interval is unknown, how
    much scores vary with the draw of demonstrations, how much prefill was saved by reusing prefixes, which keys
    methods chose, and how many answers the peak memory is for."""
    whole = grids(rows)
    lines = [f"{mark}: {RULE}"] if any(row.best for row in rows) else []
    lines += _unknown(whole) + _equal(rows) + _spread(whole)
    for (task, members), grid in zip(by_task(rows), (grid for grid in whole if grid.first), strict=True):
        lines += _spreads(printable(task), members) + _thoughts(printable(task), members)
        prompts, reused = (sum(each) for each in zip(*((row.prompt_tokens, row.reused_tokens) for row in members)))
        if 0 < reused < prompts:
            lines.append(
                f"prefix reuse: {prompts / (prompts - reused):.1f}x fewer prefill tokens in {printable(task)}."
            )
        lines += _chosen(printable(task), members) + _key_tokens(task, members)
        lines += _lengths(printable(task), members) + _memory(printable(task), grid)
        lines += [line for row in members for line in _served(printable(task), row)]
    return lines + published_notes(row.published for row in rows)


def published_notes(sources: Iterable[str]) -> list[str]:
    """Where the figures come from that were not measured here."""
    return [
        f"published: not measured here, on other samples, never compared; {printable(source)}."
        for source in dict.fromkeys(sources)
        if source
    ]


def _chosen(task: str, rows: Sequence[TableRow]) -> list[str]:
    """What methods that choose keys left out, each at its longest length."""
    longest = {(row.method, row.model): row for row in sorted(rows, key=lambda row: row.seq_len)}.values()
    lines = []
    for name, what in (("kept_keys", "keys kept for the answer"), ("density", "attention computed in the prompt")):
        shares = [(row, share) for row in longest if (share := getattr(row, name)) is not None]
        if shares:
            said = ", ".join(f"{row.method} at {row.seq_len:,} {share:.1%}" for row, share in shares)
            lines.append(f"{task}, {what}: {printable(said)}.")
    return lines


def _key_tokens(task: str, rows: Sequence[TableRow]) -> list[str]:
    """What LongPPL is over."""
    known = [f"{row.key_tokens:,} with {row.method} at {row.seq_len:,}" for row in rows if row.longppl is not None]
    contexts = sorted({row.short_context for row in rows if row.longppl is not None})
    if not known:
        return []
    return [
        printable(
            f"{task}, longppl: over the tokens that the whole context makes likely and one of "
            f"{' or '.join(f'{context:,}' for context in contexts)} tokens does not, by each method's own judgement: "
            f"{', '.join(known)}."
        )
    ]


def _served(task: str, row: TableRow) -> list[str]:
    """What a server did to prompts and answers of a row, beside answering."""
    place = f"{task} at {in_tokens(row.seq_len)}, {printable(row.method)}"
    lines = []
    if row.counted_otherwise:
        least, most = row.counted_least, row.counted_most
        by = f"{least:+,}" if least == most else f"{least:+,} to {most:+,}"
        lines.append(
            f"{place}: the server counted the prompts of {row.counted_otherwise} of {row.samples} samples otherwise "
            f"than they were sent, by {by} tokens{'; below 0 it cut them' if least < 0 else ''}."
        )
    if row.ended_by_server:
        lines.append(f"{place}: answers {printable(row.ended_by_server)}.")
    if row.retries:
        lines.append(f"{place}: {row.retries} requests were repeated.")
    return lines


def _spreads(task: str, rows: Sequence[TableRow]) -> list[str]:
    """How much scores vary over draws of demonstrations, and over repeats."""
    lines = []
    for count, sd, what in (("draws", "draws_sd", "draws of demonstrations"), ("repeats", "repeats_sd", "repeats")):
        known = [(row, value) for row in rows if (value := getattr(row, sd)) is not None]
        if known:
            most = max(getattr(row, count) for row, _ in known)
            said = ", ".join(
                f"{row.method} at {in_tokens(row.seq_len)} {number(value, row.metric)}" for row, value in known
            )
            lines.append(f"{task}, standard deviation over {most} {what}: {printable(said)}.")
    return lines


def _thoughts(task: str, rows: Sequence[TableRow]) -> list[str]:
    """How many thoughts did not end within their budget."""
    known = [row for row in rows if row.thoughts]
    if not known:
        return []
    cut = [
        f"{row.thoughts_cut} of {row.thoughts} with {row.method} at {in_tokens(row.seq_len)}"
        for row in known
        if row.thoughts_cut
    ]
    total = sum(row.thoughts for row in known)
    return [f"{task}, thoughts cut off at their budget: {printable(', '.join(cut)) if cut else f'none of {total}'}."]


def _lengths(task: str, rows: Sequence[TableRow]) -> list[str]:
    """How many documents were cut, and how long prompts are that are much shorter than the length of their column; once
    a length, as all methods read the same prompts."""
    lines = []
    for row in _by_length(row for row in rows if row.skipped):
        more = f" and {len(row.skipped) - NAMED:,} more" if len(row.skipped) > NAMED else ""
        lines.append(
            f"{task} at {in_tokens(row.seq_len)}: {len(row.skipped)} of {len(row.skipped) + row.samples} rows do not "
            f"fit whole and were left out: samples {', '.join(row.skipped[:NAMED])}{more}."
        )
    for row in _by_length(row for row in rows if row.samples):
        if row.cut:
            lines.append(
                f"{task} at {in_tokens(row.seq_len)}: documents cut in {row.cut} of {row.samples} samples, by "
                f"{row.cut_tokens:,.0f} tokens on average."
            )
        if 0 < row.tokens < SHORT * row.seq_len and row.bits_per_byte is None:
            lines.append(
                f"{task} at {in_tokens(row.seq_len)}: prompt and answer have {row.tokens:,.0f} tokens on average."
            )
    return lines


def _by_length(rows: Iterable[TableRow]) -> list[TableRow]:
    """One row of each length, in order."""
    return [row for _, row in sorted({row.seq_len: row for row in rows}.items())]


def _unknown(whole: Sequence[Grid]) -> list[str]:
    rows = [row for grid in whole for row in grid.rows if row.mean is not None and interval(row) == UNKNOWN]
    nouns = dict.fromkeys(map(_noun, rows))
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


def _noun(row: TableRow) -> str:
    return "samples" if row.bits_per_byte is None else "books"


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


def heading(length: int, trained: int | None, separator: str) -> str:
    """The length in tokens, and how many times the trained length it is, as `(1.5x)`."""
    return f"{length:,}{separator}({multiple(length, trained)})" if trained and length else in_tokens(length)


def titled(grid: Grid, trained: int | None) -> str:
    """The title of a table, with the trained length where it is known."""
    return f"{grid.title}, trained at {trained:,} tokens" if trained else grid.title


def multiple(length: int, trained: int) -> str:
    """`4x`, `1.5x`, `0.12x`: exact, or rounded to two digits."""
    times = length / trained
    return f"{times:.0f}x" if times >= 100 or times == round(times) else f"{times:.2g}x"


def number(value: float, metric: str) -> str:
    """A score with as many digits as are meaningful: two for shares and perplexities, three for bits."""
    if metric.startswith("bits_per_"):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


def interval(row: TableRow) -> str:
    """`[0.84, 1.00]`, or `[unknown]` where the samples are too few; empty for a published score."""
    if row.published:
        return ""
    if row.low is None or row.high is None:
        return UNKNOWN
    return f"[{number(row.low, row.metric)}, {number(row.high, row.metric)}]"


def costs(grid: Grid, line: Line, lengths: Sequence[int]) -> list[str]:
    """Prefill tokens a second, as `4,025 ± 310` with their standard deviation over the samples, and peak memory with a
    mark where other programs had the processor, at the longest of some lengths; if a server ran a model of this table,
    the seconds to the first token, the tokens a second after it, and the requests that were repeated, too. Empty where
    that is not known."""
    row = line.cells.get(lengths[-1])
    if row is None or not grid.first:
        return [""] * len(grid.cost_columns)
    return [rate(row), memory(row), *(_seen_by_client(row) if grid.served else ())]


def _seen_by_client(row: TableRow) -> list[str]:
    first, decode = row.first_token_seconds, row.decode_tokens_per_second
    return [
        "" if first is None else f"{first:.2f} s",
        "" if decode is None else f"{decode:,.0f}",
        f"{row.retries}" if first is not None or row.retries else "",
    ]


def rate(row: TableRow) -> str:
    if row.prefill_tokens_per_second is None:
        return ""
    sd = row.prefill_tokens_per_second_sd
    return f"{row.prefill_tokens_per_second:,.0f}{'' if sd is None else f' ± {sd:,.0f}'}"


def memory(row: TableRow) -> str:
    known = "" if row.peak_memory_bytes is None else human_bytes(row.peak_memory_bytes)
    return f"{known} (busy)".lstrip() if row.busy else known


def equal(row: TableRow) -> str:
    """`= vanilla` where the method changes nothing at this length, else empty."""
    return f"= {row.equals}" if row.equals else ""


def columns(grid: Grid, trained: int | None) -> list[str]:
    """The column headings of a table that is not split by width, as on a page."""
    cost = [f"{what} at {grid.lengths[-1]:,}" for what in grid.cost_columns]
    return ["method", *grid.labels, *(heading(length, trained, " ") for length in grid.lengths), *cost]


def human_bytes(count: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _views(rows: Sequence[TableRow]) -> Iterable[list[TableRow]]:
    """The rows themselves, and again with LongPPL, bits per byte and bits per word as their score where they have
    them."""
    yield list(rows)
    for metric in ("longppl", "bits_per_byte", "bits_per_word"):
        shown = view(rows, metric)
        if any(row.mean is not None for row in shown):
            yield shown


def view(rows: Iterable[TableRow], metric: str) -> list[TableRow]:
    """The rows with another of their numbers as their score; without those that cannot have it."""
    return [
        replace(
            row,
            metric=metric,
            mean=getattr(row, metric),
            low=getattr(row, f"{metric}_low"),
            high=getattr(row, f"{metric}_high"),
            best=row.best and metric != "longppl",  # other tokens than those that were compared
        )
        for row in rows
        if not row.published and (metric != "longppl" or row.longppl is not None)
    ]


def _asked(rows: Sequence[TableRow]) -> list[str]:
    """In words, whether prompts are in the chat template; of rows that differ in it, which ones are."""
    if not any(row.chat for row in rows):
        return []
    if all(row.chat for row in rows if row.samples):
        return ["in the chat template"]
    models, runs = ({getattr(row, name) for row in rows if row.chat} for name in ("model", "run"))
    plain = {row.model for row in rows if not row.chat}
    return [f"in the chat template: {', '.join(sorted(runs if models & plain else models))}"]


def _title(task: str, rows: Sequence[TableRow]) -> str:
    metrics = dict.fromkeys(row.metric for row in rows if row.samples)
    what = ", ".join(metric.replace("_", " ") for metric in metrics)
    likelihood = any(_noun(row) == "books" for row in rows)
    counts = sorted({row.samples for row in rows if row.samples})
    samples = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    protocols = dict.fromkeys(row.protocol for row in rows if row.protocol and f"protocol={row.protocol}" not in task)
    direction = " (lower is better)" if metrics.keys() & LOWER_IS_BETTER else ""
    words = [
        f"{task}: {what}{direction}",
        f"{samples} {'books' if likelihood else 'samples'} a score",
        f"95 % intervals{' over books' if likelihood else ''}",
    ]
    words += _asked(rows)
    if protocols:
        words.append(f"protocol {'; '.join(protocols)}")
    return printable(", ".join(words))
