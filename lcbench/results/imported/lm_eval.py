"""Sample logs of the lm-evaluation-harness (0.4): `samples_TASK_DATE.jsonl` with `results_DATE.json` beside them, as
`--log_samples --output_path FOLDER` writes them (`loggers/evaluation_tracker.py`); of `--output_path NAME.json` the
results are `NAME_DATE.json`.

A line is one document under one filter of the task; the filters of a document become one record, whose scores are
named `metric,filter` if there are several. A log of `lcbench lm-eval` also has the method.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.errors import UserError
from lcbench.core.files import bounded_lines, require_regular
from lcbench.core.json_objects import parse
from lcbench.results.imported.logged import Entry, LoggedSample, LoggedTask, chosen_metric, number, read_object

DATE = r"(\d{4}-\d\d-\d\dT[\d.-]+)"
SAMPLES = re.compile(rf"samples_(.+)_{DATE}\.jsonl")
RESULTS = re.compile(rf".+_{DATE}\.json")
HARNESS = "lm_eval"
OWN = ("method_options", "model_fingerprint", "pretraining_length", "dtype")  # what lcbench's model tells


def samples_of(results: Path) -> list[Path]:
    """The files of samples beside a file of results; none if it is something else."""
    named = RESULTS.fullmatch(results.name)
    return [] if named is None else sorted(results.parent.glob(f"samples_*_{named[1]}.jsonl"))


def _results_of(samples: Path, date: str) -> Path:
    """Raises: UserError."""
    found = sorted(samples.parent.glob(f"*_{date}.json"))
    if not found:
        raise UserError(f"{samples} has no results_{date}.json beside it, which names the model; copy it there.")
    return found[0]


def read_tasks(path: Path, metric: str | None) -> Iterator[LoggedTask]:
    """The task in a file of samples. Raises: UserError for a file that is malformed, or has no results beside it."""
    named = SAMPLES.fullmatch(path.name)
    if named is None:
        raise UserError(f"{path} is not a sample log of the lm-evaluation-harness: those are samples_TASK_DATE.jsonl.")
    results = read_object(_results_of(path, named[2]))
    config, task = results.inside("config"), named[1]
    own = config.get("method", str) if config.get("layers_steered", int) is not None else None
    rows = list(_documents(path))
    if not rows:
        raise UserError(f"{path} has no samples.")
    scores = [_scores(lines) for lines in rows]
    names = {name: 0 for one in scores for name in one}
    if not names:
        raise UserError(f"{path}: no metric of {task} is one number per sample, which comparing samples requires.")
    counts = _higher_is_better(results, task)
    usable = {name: 0 for name in names if counts.get(name.partition(",")[0], True)}
    if not usable or (metric in names and metric not in usable):
        low = metric or next(iter(names))
        raise UserError(f"{path}: {low} is better when lower, which is not supported; pass another --metric.")
    version, shots = results.inside("versions").content.get(task), results.inside("n-shot").content.get(task)
    yield LoggedTask(
        path=path,
        harness=HARNESS,
        name=f"{HARNESS}/{task}",
        model=config.need("model", str) if own else results.need("model_name", str),
        method=own,
        metric=chosen_metric(metric, usable, task),
        seq_len=results.get("max_length", int) or None,
        expected=results.inside("n-samples").inside(task).get("effective", int, 0),
        protocol=f"version {version}, {shots}-shot",
        started_at=_time(results.get("date", float)),
        versions={name: str(results.content[key]) for name, key in VERSIONS.items() if results.content.get(key)},
        facts={name: config.content[name] for name in OWN if own and config.content.get(name) is not None},
        samples=[_sample(lines, found) for lines, found in zip(rows, scores, strict=True)],
    )


VERSIONS = {"lm_eval": "lm_eval_version", "transformers": "transformers_version"}


def _documents(path: Path) -> Iterator[list[Entry]]:
    """The lines of each document, in the order of their documents. Raises: UserError."""
    found: dict[tuple[int, str], list[Entry]] = {}
    seen = set()
    try:
        require_regular(path)
        with path.open("rb") as file:
            for place, line in enumerate(bounded_lines(file), start=1):
                if not line.strip():
                    continue
                entry = Entry(parse(line), f"{path}, line {place}")
                key = entry.need("doc_id", int), entry.get("filter", str, "none")
                if key in seen:
                    raise UserError(f"{entry.where}: document {key[0]} occurs twice; does the file hold two runs?")
                seen.add(key)
                found.setdefault((key[0], ""), []).append(entry)
    except FieldError as error:
        raise UserError(f"{path}, line {place}: {error}; is the log complete?") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    for _, lines in sorted(found.items()):
        yield lines


def _scores(lines: Sequence[Entry]) -> dict[str, float]:
    """The numbers of a document's lines."""
    found = {}
    for line in lines:
        ending = f",{line.get('filter', str, 'none')}" if len(lines) > 1 else ""
        for name in line.need("metrics", list):
            value = number(line.content.get(name)) if isinstance(name, str) else None
            if value is not None:
                found[f"{name}{ending}"] = value
    return found


def _sample(lines: Sequence[Entry], scores: dict[str, float]) -> LoggedSample:
    line = lines[0]
    asked = list(_asked(line))
    said = line.need("filtered_resps", list)
    choices = _choices(asked, said)
    options = asked[0][1] if asked and isinstance(asked[0][1], dict) else {}
    budget = options.get("max_gen_toks")
    best = max(choices, key=lambda one: choices[one]).strip() if choices else None
    document = line.get("doc_hash", str) or hashlib.sha256(_text(line.content.get("doc")).encode()).hexdigest()
    return LoggedSample(
        key=str(line.need("doc_id", int)),
        document=document,
        prompt="\n".join(_text(part) for pair in asked for part in pair if not isinstance(part, dict)),
        references=[line.need("target", str)],
        prediction=_leaf(said) if best is None else best,
        scores=scores,
        max_new_tokens=budget if type(budget) is int and budget >= 0 else None,
        choices=choices or None,
        details={"doc_id": line.content["doc_id"], "doc_hash": document},
    )


def _asked(line: Entry) -> Iterator[tuple[Any, Any]]:
    """The two arguments of each request: a context, and its continuation or the options of its generation."""
    for name, given in line.need("arguments", dict).items():
        pair = Entry(given, f"{line.where}: arguments: {name}").content
        yield pair.get("arg_0", ""), pair.get("arg_1", "")


def _choices(asked: Sequence[tuple[Any, Any]], said: Sequence[Any]) -> dict[str, float]:
    """ln p of each continuation; empty where something was generated, or two are the same."""
    logs = {}
    for (_, continuation), answer in zip(asked, said):
        first = answer[0] if isinstance(answer, list) and len(answer) == 2 else None
        try:
            log = number(float(first)) if isinstance(first, str | int | float) else None
        except ValueError:
            log = None
        if not isinstance(continuation, str) or log is None:
            return {}
        logs[continuation] = log
    return logs if len(logs) == len(asked) else {}


def _leaf(value: Any) -> str:
    """The first text in lists of lists."""
    while isinstance(value, list):
        if not value:
            return ""
        value = value[0]
    return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _higher_is_better(results: Entry, task: str) -> dict[str, bool]:
    told = results.inside("higher_is_better").inside(task).content
    return {name: value for name, value in told.items() if isinstance(value, bool)}


def _time(seconds: float | None) -> str | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
