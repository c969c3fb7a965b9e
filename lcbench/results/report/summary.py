"""From records to table rows: one per (task, method, length) of a run, with its score, 95 % interval and cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lcbench.results.compare.cells import computed_tokens
from lcbench.results.report.best import best
from lcbench.results.report.costs import cores, rate, served
from lcbench.results.report.groups import by_group
from lcbench.results.report.intervals import likelihood, mean_score
from lcbench.results.report.runs import Run
from lcbench.results.schema import Prompt, Record

BUSY = 0.8  # cores; a model that has a machine to itself uses at least one


@dataclass(frozen=True)
class TableRow:
    """One (task, method, length) of one model in one run, over all its depths and samples.

    `low` and `high` are the 95 % interval of the mean; None if there are too few samples to estimate it. For
    likelihoods the mean is the perplexity of all scored tokens together, its interval treats the books as the random
    sample (`ratio_interval`), and bits per byte and bits per word, which are comparable across tokenizers, are set;
    they are None for other tasks. `best`: see lcbench.results.report.best. The scores of several `draws` of
    demonstrations have a standard deviation of `draws_sd`; the interval then covers other questions after the same
    draws. `samples` are answers, to as many `questions`, or to fewer if each was answered after several draws or in
    several repeats. `prompt_tokens` is the sum over all prompts, `reused_tokens` the part of it that was already in the
    KV cache. `prefill_tokens_per_second` is all computed tokens divided by all seconds, `prefill_tokens_per_second_sd`
    the standard deviation (n - 1) of the samples' own rates from it, weighted by their seconds. `cpu_cores` are the CPU
    seconds per second of the samples, None if no record has them; `busy` if a model on the CPU had fewer than BUSY,
    since other programs ran. `peak_memory_bytes` is for up to `at_once` answers decoded together.

    `failed` is the reason if a cell failed; the numbers then cover the samples that succeeded, and are None without
    any. `skipped` are the numbers of the rows that were left out. `cut` samples had their document cut, by `cut_tokens`
    on average; prompt and answer budget together have `tokens` tokens on average. `equals` is `vanilla` if the method
    changes nothing at this length, else empty; `taken` samples were taken over from it. `chat`: whether prompts are in
    the chat template, None if the records do not say. Of the `thoughts` before answers, `thoughts_cut` did not end
    within their budget. With several `repeats` the standard deviation is `repeats_sd`, and the interval is over
    samples. `kept_keys` is the share of a prompt's keys that a KV head keeps for the answer, `density` that of the
    query-key pairs in a prompt that attention computed; None: all.

    For a served model: the median time to first token and the decode tokens per second, as seen by the client; the
    number of retries; how many prompts the server did not count; how many it counted differently from those sent, with
    the smallest and largest difference; and how many answers it ended early, in words.

    `published`: the source of a figure that was not measured here, of which only the score is known.

    `longppl` is the perplexity over `key_tokens`, whose likelihood rises strongly from a context of `short_context`
    tokens to the whole one, if the runs have both; see lcbench.results.report.longppl.
    """

    task: str
    method: str
    seq_len: int
    model: str
    run: str
    protocol: str
    metric: str = ""
    samples: int = 0
    questions: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    bits_per_byte: float | None = None
    bits_per_byte_low: float | None = None
    bits_per_byte_high: float | None = None
    bits_per_word: float | None = None
    bits_per_word_low: float | None = None
    bits_per_word_high: float | None = None
    draws: int = 0
    draws_sd: float | None = None
    repeats: int = 0
    repeats_sd: float | None = None
    prompt_tokens: int = 0
    reused_tokens: int = 0
    at_once: int = 1
    prefill_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    failed: str | None = None
    skipped: tuple[str, ...] = ()
    cut: int = 0
    cut_tokens: float = 0.0
    tokens: float = 0.0
    equals: str = ""
    taken: int = 0
    prefill_tokens_per_second_sd: float | None = None
    cpu_cores: float | None = None
    busy: bool = False
    chat: bool | None = None
    thoughts: int = 0
    thoughts_cut: int = 0
    first_token_seconds: float | None = None
    decode_tokens_per_second: float | None = None
    retries: int = 0
    uncounted: int = 0
    counted_otherwise: int = 0
    counted_least: int = 0
    counted_most: int = 0
    ended_by_server: str = ""
    published: str = ""
    kept_keys: float | None = None
    density: float | None = None
    longppl: float | None = None
    longppl_low: float | None = None
    longppl_high: float | None = None
    key_tokens: int = 0
    short_context: int = 0

    @property
    def place(self) -> tuple[object, ...]:
        """A key that is unique to the row."""
        return self.task, self.method, self.seq_len, self.model, self.run


def summarise_runs(runs: Sequence[Run], *, grouped: bool = False) -> list[TableRow]:
    """Rows in the order in which tasks, methods and lengths first occur; if `grouped`, followed by those of each group
    of a task's samples.

    Raises: UserError for an official score whose parts are missing in the records.
    """
    return [row for row, _ in summarise_records(runs, grouped=grouped)]


def summarise_records(runs: Sequence[Run], *, grouped: bool = False) -> list[tuple[TableRow, list[Record]]]:
    """The same rows, each with its records."""
    groups: dict[tuple[object, ...], tuple[TableRow, list[Record]]] = {}
    for run in runs:
        protocols = run.protocols
        for record in [*run.records, *(by_group(run.records) if grouped else [])]:
            one = record.identity
            key = (one.task, one.method, one.seq_len, one.model, run.name)
            if key not in groups:
                protocol = protocols.get(one.task, "")
                groups[key] = TableRow(one.task, one.method, one.seq_len, one.model, run.name, protocol), []
            groups[key][1].append(record)
    on_cpu = {run.name for run in runs if run.identity.device == "cpu"}
    rows = [_row(row, members, on_cpu=row.run in on_cpu) for row, members in groups.values()]
    members = [members for _, members in groups.values()]
    bold = _bold(rows, members)
    return [(replace(row, best=index in bold), members[index]) for index, row in enumerate(rows)]


def by_task(rows: Iterable[TableRow]) -> list[tuple[str, list[TableRow]]]:
    """The rows of each task, in order."""
    tasks: dict[str, list[TableRow]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return list(tasks.items())


def _bold(rows: list[TableRow], records: list[list[Record]]) -> set[int]:
    """Which rows are bold in their columns."""
    columns: dict[tuple[str, int, str], dict[int, list[Record]]] = {}
    for index, row in enumerate(rows):
        if row.mean is not None:
            columns.setdefault((row.task, row.seq_len, row.metric), {})[index] = records[index]
    return {index for (*_, metric), column in columns.items() for index in best(column, metric)}


def _row(key: TableRow, records: list[Record], *, on_cpu: bool) -> TableRow:
    equal = {record.equals for record in records}
    key = replace(key, equals=records[0].equals or "" if len(equal) == 1 else "")
    failed = next((record.failure for record in records if record.failure), None)
    skipped = tuple(str(record.identity.sample) for record in records if record.skipped)
    done = [record for record in records if record.score is not None]
    if not done:
        return replace(key, failed=failed, skipped=skipped)
    metric = done[0].measured.scores.metric
    done = [record for record in done if record.measured.scores.metric == metric]
    costs = [record.measured.cost for record in done]
    speed, sd = rate([(computed_tokens(record), record.measured.cost.prefill_seconds) for record in done])
    busy_cores = cores(costs)
    counts = ((record.prompt.details or {}).get("cut_tokens") for record in done)
    cuts = [cut for cut in counts if isinstance(cut, int) and cut > 0]
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    prompts, computed = sum(record.prompt.prompt_tokens for record in done), sum(map(computed_tokens, done))
    of_likelihood = metric == "nll" and all(record.measured.nll for record in done)
    seed = int.from_bytes(hashlib.sha256(repr((key.task, key.seq_len, metric)).encode()).digest()[:6])
    return replace(
        key,
        protocol=done[0].prompt.protocol or key.protocol,  # with what it worked out for this length
        samples=len(done),
        questions=len({record.question for record in done}),
        prompt_tokens=prompts,
        reused_tokens=prompts - computed,
        kept_keys=_mean(
            cost.kept_keys / record.prompt.prompt_tokens
            for cost, record in zip(costs, done, strict=True)
            if cost.kept_keys
        ),
        density=_mean(cost.density for cost in costs if cost.density),
        at_once=max(cost.decoded_together or 1 for cost in costs),
        prefill_tokens_per_second=speed,
        prefill_tokens_per_second_sd=sd,
        cpu_cores=busy_cores,
        busy=on_cpu and busy_cores is not None and busy_cores < BUSY,
        peak_memory_bytes=max(peaks, default=None),
        failed=failed,
        taken=sum(record.taken_from is not None for record in done),
        skipped=skipped,
        cut=len(cuts),
        cut_tokens=sum(cuts) / len(cuts) if cuts else 0.0,
        chat=done[0].prompt.chat,
        thoughts=sum(record.measured.answer.reasoning_cut is not None for record in done),
        thoughts_cut=sum(bool(record.measured.answer.reasoning_cut) for record in done),
        tokens=_mean_length([record.prompt for record in done]),
        **served(done),
        **(likelihood(done, seed) if of_likelihood else mean_score(done, metric, seed)),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None


def _mean_length(prompts: list[Prompt]) -> float:
    """The mean number of tokens of prompt and answer, over prompts of known length; 0 without any."""
    return _mean(_length(prompt) for prompt in prompts if prompt.prompt_tokens) or 0.0


def _length(prompt: Prompt) -> int:
    return prompt.prompt_tokens + prompt.max_new_tokens + (prompt.think_budget or 0)
