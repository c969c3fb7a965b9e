"""From records to table rows: one per (task, method, length) of a run, with its score, 95 % interval and cost."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from lcbench.core.errors import UserError
from lcbench.core.stats import mean_interval, ratio_interval, wilson_interval
from lcbench.results.compare.cells import TOP, computed_tokens
from lcbench.results.records import read_manifest, read_records
from lcbench.results.report.best import best
from lcbench.results.report.draws import spread, spread_of_repeats
from lcbench.results.report.groups import by_group
from lcbench.results.schema import Cost, Prompt, Record, RunIdentity

SETTINGS = ("dtype", "device", "seed")  # of a run's identity
ROUNDING = 1e-3  # scores of samples have four decimals
BUSY = 0.8  # of a core: a model that computes alone on a machine has at least one
ENDINGS = ("stop", "stop_string", "length", "eos", "eos_token", "stop_sequence")  # of an answer that is whole
GROUPS = 100  # of samples, each left out once, for the interval of a score that is no mean
Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class TableRow:
    """One (task, method, length) of one model in one run, over all its depths and samples.

    `low` and `high` are the 95 % interval of the mean; None where the samples are too few to know it. For likelihoods
    the mean is the perplexity of all scored tokens together, its interval treats the books as the random sample
    (`ratio_interval`), and bits per byte and bits per word, which compare across tokenizers, are set; they are None
    for other tasks. `best`: see lcbench.results.report.best. The scores of several `draws` of demonstrations have a
    standard deviation of `draws_sd`, and the interval then covers other questions after the same draws.
    `prompt_tokens` is the sum over all prompts, `reused_tokens` the part of it that was in the KV cache already.
    `prefill_tokens_per_second` are all computed tokens by all seconds, and `prefill_tokens_per_second_sd` is the
    standard deviation (n - 1) of the samples' own rates from it, each weighted by its seconds. `cpu_cores` are the CPU
    seconds a second that the samples had, None where no record tells; `busy` where a model on the CPU had less than
    BUSY of them, as other programs ran.
    `peak_memory_bytes` is for up to `at_once` answers decoded together. `failed` is the reason if a cell failed; the
    numbers then cover the samples that succeeded, and are None without any. `skipped` are the rows that were left out,
    by their numbers. `cut` samples had their document cut, by `cut_tokens` on average; prompt and answer budget
    together have `tokens` tokens on average. `equals` is `vanilla` where the method changes nothing at this length,
    else empty; `taken` samples were taken over from it. `chat`: whether prompts are in the chat template, None where
    the records do not tell. Of `thoughts` before answers, `thoughts_cut` did not end within their budget. Of several
    `repeats` the standard deviation is `repeats_sd`, and the interval is over samples.

    Of a served model: the median time to the first token and the tokens a second after it, as the client saw them; the
    requests that were repeated; how many prompts the server counted otherwise than they were sent, with the least and
    the most by which it did; and how many answers it ended for reasons of its own, in words.
    """

    task: str
    method: str
    seq_len: int
    model: str
    run: str
    protocol: str
    metric: str = ""
    samples: int = 0
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
    counted_otherwise: int = 0
    counted_least: int = 0
    counted_most: int = 0
    ended_by_server: str = ""


@dataclass(frozen=True)
class Run:
    """What a table needs from a run's folder; `protocols` maps the name of a task to its protocol,
    `missing` is the number of samples that are still to come. The model has the name under which it is shown."""

    name: str
    identity: RunIdentity
    records: list[Record]
    missing: int = 0

    @property
    def protocols(self) -> dict[str, str]:
        return {task.name: task.protocol for task in self.identity.tasks if task.protocol}

    def only(self, ids: Collection[str]) -> Run:
        """This run with only the records that have these ids."""
        return replace(self, records=[record for record in self.records if record.identity.id in ids])


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in some folders, each once, by the folder's name, or by the whole path where two have the same name.

    Raises: UserError for a folder without records.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    names = [folder.resolve().name for folder in unique]
    runs = []
    for folder, name in zip(unique, names, strict=True):
        manifest, records = read_manifest(folder), read_records(folder)
        shown = name if names.count(name) == 1 else str(folder)
        identity, missing = replace(manifest.identity, model=manifest.model_name), manifest.missing(records)
        if identity.model and identity.model != manifest.identity.model:
            records = [replace(one, identity=replace(one.identity, model=identity.model)) for one in records]
        runs.append(Run(shown, identity, records, missing))
    return runs


def trained_length(runs: Iterable[Run]) -> int | None:
    """The length that the models were trained at, if it is the same for all."""
    lengths = {run.identity.pretraining_length for run in runs}
    return lengths.pop() if len(lengths) == 1 else None


def side_by_side(runs: Sequence[Run]) -> Run:
    """One run with the records of all, for a figure: methods are named after their model and run too, where these tell
    them apart."""
    if len(runs) == 1:
        return runs[0]
    models = {str(run.identity.model) for run in runs}
    seen = Counter(
        (str(run.identity.model), method) for run in runs for method in {one.identity.method for one in run.records}
    )
    repeated = any(count > 1 for count in seen.values())
    records = []
    for run in runs:
        model = Path(str(run.identity.model)).name
        suffix = (f" on {model}" if len(models) > 1 else "") + (f" in {run.name}" if repeated else "")
        for record in run.records:
            named = replace(record.identity, method=record.identity.method + suffix)
            records.append(replace(record, identity=named))
    protocols = {task.name: task for run in runs for task in run.identity.tasks}
    identity = replace(runs[0].identity, tasks=list(protocols.values()))
    return Run(", ".join(run.name for run in runs), identity, records)


def differences(runs: Sequence[Run]) -> list[str]:
    """Sentences on what a table does not show: unfinished runs, and settings and weights that differ between runs."""
    lines = [
        f"{run.name} is unfinished: {len(run.records):,} of {len(run.records) + run.missing:,} samples."
        for run in runs
        if run.missing
    ]
    for name in SETTINGS:
        values = dict.fromkeys(str(getattr(run.identity, name)) for run in runs)
        if len(values) > 1:
            lines.append(f"the runs differ in {name}: {', '.join(values)}.")
    weights: dict[str, set[str]] = {}
    for run in runs:
        weights.setdefault(str(run.identity.model), set()).add(str(run.identity.model_fingerprint))
    changed = [model for model, fingerprints in weights.items() if len(fingerprints) > 1]
    return lines + [f"the weights of {model} are not the same in all runs." for model in changed]


def summarise_runs(runs: Sequence[Run], *, grouped: bool = False) -> list[TableRow]:
    """Rows in the order in which tasks, methods and lengths first occur; if `grouped` also those of each group of a
    task's samples, at the end.

    Raises: UserError for an official score that the records do not have the parts of.
    """
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
    bold = _bold(rows, [members for _, members in groups.values()])
    return [replace(row, best=index in bold) for index, row in enumerate(rows)]


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
    rate, sd = _rate([(computed_tokens(record), record.measured.cost.prefill_seconds) for record in done])
    cores = _cores(costs)
    counts = ((record.prompt.details or {}).get("cut_tokens") for record in done)
    cuts = [cut for cut in counts if isinstance(cut, int) and cut > 0]
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    prompts, computed = sum(record.prompt.prompt_tokens for record in done), sum(map(computed_tokens, done))
    likelihood = metric == "nll" and all(record.measured.nll for record in done)
    seed = int.from_bytes(hashlib.sha256(repr((key.task, key.seq_len, metric)).encode()).digest()[:6])
    return replace(
        key,
        protocol=done[0].prompt.protocol or key.protocol,  # with what it worked out for this length
        samples=len(done),
        prompt_tokens=prompts,
        reused_tokens=prompts - computed,
        at_once=max(cost.decoded_together or 1 for cost in costs),
        prefill_tokens_per_second=rate,
        prefill_tokens_per_second_sd=sd,
        cpu_cores=cores,
        busy=on_cpu and cores is not None and cores < BUSY,
        peak_memory_bytes=max(peaks, default=None),
        failed=failed,
        taken=sum(record.taken_from is not None for record in done),
        skipped=skipped,
        cut=len(cuts),
        cut_tokens=sum(cuts) / len(cuts) if cuts else 0.0,
        chat=done[0].prompt.chat,
        thoughts=sum(record.measured.answer.reasoning_cut is not None for record in done),
        thoughts_cut=sum(bool(record.measured.answer.reasoning_cut) for record in done),
        tokens=sum(map(_length, (record.prompt for record in done))) / len(done),
        **_served(done),
        **(_likelihood(done, seed) if likelihood else _mean(done, metric, seed)),
    )


def _rate(samples: Sequence[tuple[int, float]]) -> tuple[float | None, float | None]:
    """Tokens a second over samples of so many tokens and seconds, and the standard deviation of the samples' rates from
    it; each None where it is not known."""
    timed = [(tokens, seconds) for tokens, seconds in samples if seconds]
    total = sum(seconds for _, seconds in timed)
    if not timed:
        return None, None
    rate = sum(tokens for tokens, _ in timed) / total
    variance = sum(seconds * (tokens / seconds - rate) ** 2 for tokens, seconds in timed) / total
    return rate, math.sqrt(variance * len(timed) / (len(timed) - 1)) if len(timed) > 1 else None


def _cores(costs: Sequence[Cost]) -> float | None:
    """CPU seconds a second over the samples that tell."""
    pairs = [(cost.cpu_seconds, cost.prefill_seconds + cost.decode_seconds) for cost in costs]
    known = [(cpu, seconds) for cpu, seconds in pairs if cpu is not None and seconds]
    return sum(cpu for cpu, _ in known) / sum(seconds for _, seconds in known) if known else None


def _length(prompt: Prompt) -> int:
    return prompt.prompt_tokens + prompt.max_new_tokens + (prompt.think_budget or 0)


def _served(records: list[Record]) -> dict[str, Any]:
    """What the client of a served model saw; nothing for one in this process."""
    costs = [record.measured.cost for record in records]
    if all(cost.retries is None and cost.first_token_seconds is None for cost in costs):
        return {}
    first = [cost.first_token_seconds for cost in costs if cost.first_token_seconds is not None]
    counted = [cost.prompt_difference for cost in costs if cost.prompt_difference]
    seconds = sum(cost.decode_seconds for cost in costs)
    behind = sum(max(record.measured.answer.output_tokens - 1, 0) for record in records)
    endings = Counter(filter(None, map(_ended_by_server, records)))
    return {
        "first_token_seconds": median(first) if first else None,
        "decode_tokens_per_second": behind / seconds if seconds and behind else None,
        "retries": sum(cost.retries or 0 for cost in costs),
        "counted_otherwise": len(counted),
        "counted_least": min(counted, default=0),
        "counted_most": max(counted, default=0),
        "ended_by_server": ", ".join(f"{count} {how}" for how, count in endings.most_common()),
    }


def _ended_by_server(record: Record) -> str:
    """Why a server ended an answer that was neither finished nor at its budget; empty for one that was."""
    answer = record.measured.answer
    if answer.finish_reason == "length" and answer.output_tokens < record.prompt.max_new_tokens:
        return "ended by the server before their budget"
    whole = answer.finish_reason in ENDINGS or not answer.output_tokens
    return "" if whole else f"ended by the server ({answer.finish_reason})"


def _mean(records: list[Record], metric: str, seed: int) -> dict[str, Any]:
    scores = [score for record in records if (score := record.score) is not None]
    mean = sum(scores) / len(scores)
    scorer = records[0].measured.answer.scorer
    low, high = _interval(scores, metric, seed)
    if scorer and abs((corpus := _corpus(scorer, records)) - mean) > ROUNDING:
        mean, (low, high) = corpus, _jackknife(scorer, records, corpus, seed)
    fields = {"metric": metric, "mean": mean, "low": low, "high": high}
    drawn, repeated = spread(records), spread_of_repeats(records)
    if drawn and drawn.sd is not None:
        fields |= {"draws": drawn.draws, "draws_sd": drawn.sd}
    if repeated and repeated.sd is not None:
        fields |= {"repeats": repeated.draws, "repeats_sd": repeated.sd}
    if "draws" in fields or "repeats" in fields:
        fields["low"], fields["high"] = _over_questions(records, metric, seed)
    return fields


def _over_questions(records: list[Record], metric: str, seed: int) -> Interval:
    """The interval of a mean where every question was answered several times, after different draws of demonstrations
    or sampled anew: the answers to one question are correlated, so questions are the clusters."""
    questions: dict[str, list[float]] = {}
    for record in records:
        row = (record.prompt.details or {}).get("row")
        question = f"sample {record.identity.sample}" if row is None else str(row)
        questions.setdefault(question, []).append(record.score or 0.0)
    low, high = ratio_interval([sum(one) for one in questions.values()], [len(one) for one in questions.values()], seed)
    return None if low is None else max(low, 0.0), None if high is None else min(high, TOP.get(metric, high))


def _corpus(scorer: str, records: Sequence[Record]) -> float:
    """The official score, which for some metrics is not the mean of the rows' scores."""
    from lcbench.metrics import corpus_score

    ordered = sorted(records, key=lambda record: record.identity.sample)
    try:
        return corpus_score(scorer, [record.measured.scores.scores for record in ordered])
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        task = ordered[0].identity.task
        raise UserError(
            f"the records of {task} lack parts of the scores that {scorer} needs ({error}); were they written by "
            "another program?"
        ) from error


def _jackknife(scorer: str, records: list[Record], corpus: float, seed: int) -> Interval:
    """The interval of a score that is no mean, from what it is without one group of samples after another; questions
    on one document are in the same group. Tukey 1958, https://doi.org/10.1214/aoms/1177706647."""
    documents = [_document(record) for record in records]
    numbers = {document: number for number, document in enumerate(dict.fromkeys(documents))}
    count = min(len(numbers), GROUPS)
    groups = [numbers[document] % count for document in documents]
    if count == 1:
        return None, None
    without = [_corpus(scorer, [r for r, group in zip(records, groups) if group != left]) for left in range(count)]
    shift = (count - 1) * (sum(without) / count - corpus)  # the jackknife's own idea of the score is not the one shown
    low, high = mean_interval([count * corpus - (count - 1) * one + shift for one in without], seed)
    return None if low is None else max(low, 0.0), None if high is None else min(high, TOP["score"])


def _document(record: Record) -> str:
    """The document of a sample; a sample without one is a document of its own."""
    document = (record.prompt.details or {}).get("document")
    return document if document and isinstance(document, str) else f"sample {record.identity.sample}"


def _interval(scores: list[float], metric: str, seed: int) -> Interval:
    """Wilson's where all answers are right or wrong. Graded scores spread less, which a bootstrap sees, if they are not
    too few; where the range is known it is Wilson's or the bootstrap's, whichever is shorter: in simulations with 6 to
    110 scores the truth is within it 93 to 100 times in 100."""
    top = TOP.get(metric, 1.0)
    right_or_wrong = set(scores) <= {0.0, top}
    low, high = (None, None) if right_or_wrong else mean_interval(scores, seed)
    if metric not in TOP and not right_or_wrong:
        return low, high
    lowest, highest = (top * end for end in wilson_interval(sum(scores) / top, len(scores)))
    if low is None or high is None or min(high, top) - max(low, 0.0) >= highest - lowest:
        return lowest, highest
    return max(low, 0.0), min(high, top)


def _likelihood(records: list[Record], seed: int) -> dict[str, Any]:
    """Perplexity, bits a byte and bits a word, each a ratio of sums over the books; where windows count the same, as
    ChunkLlama has it, the mean over the books of what each record says."""
    nll, interval = _pooled(records, "nll", "tokens", seed)
    low, high = (None if end is None else _exp(end) for end in interval)
    fields: dict[str, Any] = {
        "metric": "perplexity",
        "mean": None if nll is None else _exp(nll),
        "low": low,
        "high": high,
    }
    for score, unit in (("bits_per_byte", "bytes"), ("bits_per_word", "words")):
        fields[score], (fields[f"{score}_low"], fields[f"{score}_high"]) = _pooled(records, score, unit, seed)
    return fields


def _pooled(records: list[Record], score: str, unit: str, seed: int) -> tuple[float | None, Interval]:
    """A score over all books and its interval; None without a byte or a word."""
    from lcbench.tasks.base import WINDOWS  # with numpy

    texts = [(each.scores, each.nll) for record in records if (each := record.measured).nll]
    if texts[0][1].averaging == WINDOWS:
        totals = [number for scores, _ in texts if (number := scores.number(score)) is not None]
        sizes = [1] * len(totals)
    else:
        nats = 1.0 if score == "nll" else math.log(2)
        totals = [(scores.number("nll") or 0.0) * text.tokens / nats for scores, text in texts]
        sizes = [getattr(text, unit) for _, text in texts]
    if not sum(sizes):
        return None, (None, None)
    low, high = ratio_interval(totals, sizes, seed)
    return sum(totals) / sum(sizes), (None if low is None else max(low, 0.0), high)


def _exp(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:  # a token of probability 0
        return math.inf
