"""Logs of inspect_ai (format 2): `.json`, or `.eval`, a zip of `header.json` and `samples/ID_epoch_N.json`, which
versions of 2026 compress with Zstandard.

Long texts are stored in a sample's `attachments`, with `attachment://HASH` in their place. The value of a scorer
becomes a number as in inspect_ai (`scorer/_metric.py`, `value_to_float`): C, I, P, N are 1, 0, 0.5, 0.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lcbench.core.checks import FieldError
from lcbench.core.errors import UserError
from lcbench.core.json_objects import parse
from lcbench.results.imported.logged import Entry, LoggedSample, LoggedTask, chosen_metric, number, read_object

HARNESS = "inspect_ai"
HEADER, MEMBER = "header.json", re.compile(r"samples/.+_epoch_\d+\.json")
ZSTANDARD = 93  # the number of this compression in zip files; Python's zipfile reads it from 3.14 on
LOCAL_HEADER, NAME_SIZES = 30, 26  # bytes before the name of a member, and where the sizes of names stand in them
LARGEST_SAMPLE = 2**28  # bytes of a member of a zip, and
LARGEST_LOG = 2**32  # of all of them
MOST_SAMPLES = 1_000_000
VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
ATTACHMENT = "attachment://"
PLAIN_KEY = re.compile(r"[\w.-]{1,80}")


def is_log(path: Path) -> bool:
    """Whether a .json file may be a log: it begins with the fields of one."""
    try:
        with path.open("rb") as file:
            start = file.read(400)
    except OSError:
        return False
    return b'"version"' in start and b'"status"' in start


def read_tasks(path: Path, metric: str | None) -> Iterator[LoggedTask]:
    """The task of a log. Raises: UserError."""
    if path.suffix == ".eval":
        header, samples = _unpacked(path)
    else:
        header = read_object(path)
        given = header.get("samples", list, [])
        samples = [Entry(one, f"{path}: samples[{place}]") for place, one in enumerate(given)]
    spec = header.inside("eval")
    data, name = spec.inside("dataset"), spec.need("task", str)
    found = [_sample(one) for one in samples]
    names = {score: 0 for one in found for score in one.scores}
    if not found or not names:
        status = header.get("status", str, "unknown")
        raise UserError(f"{path} has no sample with a score (status: {status}); is the evaluation finished?")
    epochs = spec.inside("config").get("epochs", int, 1)
    planned = (data.get("samples", int) or len(data.get("sample_ids", list, []))) * max(epochs, 1)
    yield LoggedTask(
        path=path,
        harness=HARNESS,
        name=f"{HARNESS}/{name}",
        model=spec.need("model", str),
        metric=chosen_metric(metric, names, name),
        expected=header.inside("results").get("total_samples", int, planned) or planned,
        description=spec.get("task_description", str),
        protocol=f"version {spec.content.get('task_version', 0)}",
        started_at=spec.get("created", str),
        versions={key: str(value) for key, value in spec.inside("packages").content.items()},
        facts={"task_args": spec.get("task_args", dict, {}), "dataset": data.get("name", str) or ""},
        samples=found if epochs > 1 else [_only(one) for one in found],
    )


def _only(one: LoggedSample) -> LoggedSample:
    return LoggedSample(**{**vars(one), "epoch": None})


def _unpacked(path: Path) -> tuple[Entry, list[Entry]]:
    """The header and the samples of a zip, of bounded size. Raises: UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename: info for info in archive.infolist()
            }  # of members with one name, the last one counts
            wanted = [name for name in members if name == HEADER or MEMBER.fullmatch(name)]
            if HEADER not in members:
                raise UserError(f"{path} has no {HEADER}; is the evaluation finished?")
            size = sum(members[name].file_size for name in wanted)
            if size > LARGEST_LOG or len(wanted) > MOST_SAMPLES:
                raise UserError(f"{path} unpacks to {size >> 20:,} MB in {len(wanted):,} files, too much for a log.")
            entries = {name: Entry(_member(path, archive, members[name]), f"{path}: {name}") for name in wanted}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"cannot read {path} as a zip: {error}.") from error
    header = entries.pop(HEADER)
    return header, [entries[name] for name in sorted(entries)]


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.flag_bits & 1:
        raise UserError(f"{path}: {info.filename} is encrypted; decrypt the log first.")
    try:
        if info.compress_type == ZSTANDARD:
            content = _zstandard(path, info)
        else:
            with archive.open(info) as file:
                content = file.read(LARGEST_SAMPLE + 1)
    except NotImplementedError as error:
        raise UserError(
            f"{path}: {info.filename} uses a compression that this Python cannot read; convert the log with "
            "`inspect log convert --to json`."
        ) from error
    except Exception as error:  # zlib and lzma have errors of their own
        raise UserError(f"{path}: {info.filename} is damaged ({error}).") from error
    if len(content) > LARGEST_SAMPLE:
        raise UserError(f"{path}: {info.filename} has more than {LARGEST_SAMPLE >> 20} MB, too much for a sample.")
    try:
        return parse(content)
    except FieldError as error:
        raise UserError(f"{path}: {info.filename}: {error}; is the log complete?") from error


def _zstandard(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The content of a member, or one byte more than a sample may have. Raises: OSError, ValueError, struct.error for
    one that is damaged."""
    import pyarrow as pa  # type: ignore[import-untyped]  # takes half a second

    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack_from("<HH", file.read(LOCAL_HEADER), NAME_SIZES)
        file.seek(name + extra, 1)
        packed = file.read(min(info.compress_size, LARGEST_SAMPLE))
    size = min(info.file_size, LARGEST_SAMPLE) + 1
    content: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read(size)
    if size <= LARGEST_SAMPLE and (len(content) != info.file_size or zlib.crc32(content) != info.CRC):
        raise ValueError("its checksum is another")
    return content


def _sample(entry: Entry) -> LoggedSample:
    texts = entry.get("attachments", dict, {})
    id, epoch = entry.content.get("id"), entry.get("epoch", int, 1)
    if type(id) not in (int, str) or epoch < 1:
        raise UserError(f"{entry.where}: id must be a text or a whole number, and epoch from 1.")
    asked, target = _text(entry.content.get("input"), texts), entry.content.get("target", "")
    output, failure = entry.inside("output"), entry.inside("error")
    choices = output.get("choices", list, [])
    first = Entry(choices[0], f"{entry.where}: output: choices[0]") if choices else Entry({}, entry.where)
    completion = output.get("completion", str) or _text(first.inside("message").content.get("content", ""), texts)
    scores = dict(_scores(entry.inside("scores")))
    error = failure.get("message", str) or (None if scores else "the log has no score of it")
    usage = output.inside("usage")
    options = entry.get("choices", list)
    stop = first.get("stop_reason", str)
    return LoggedSample(
        key=str(id) if PLAIN_KEY.fullmatch(str(id)) else sha256(str(id).encode()).hexdigest()[:16],
        epoch=epoch - 1,
        document=sha256(json.dumps([asked, target, options], sort_keys=True).encode()).hexdigest(),
        prompt=asked if options is None else "\n".join([asked, *map(str, options)]),
        references=[_text(one, texts) for one in (target if isinstance(target, list) else [target])],
        prediction=_text(completion, texts),
        scores=scores,
        error=error,
        prompt_tokens=usage.get("input_tokens", int),
        output_tokens=usage.get("output_tokens", int),
        finish_reason="length" if stop in ("max_tokens", "model_length") else stop,
        details={"id": id},
    )


def _scores(scorers: Entry) -> Iterator[tuple[str, float]]:
    """The scorers' numbers; a scorer with several values gives a score for each."""
    for name in scorers.content:
        value = Entry(scorers.content[name], f"{scorers.where}: {name}").content.get("value")
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, one in parts:
            if (score := _score(one)) is not None:
                yield f"{name}.{part}" if part else name, score


def _score(value: Any) -> float | None:
    if not isinstance(value, str):
        return number(value)
    try:
        return VALUES[value] if value in VALUES else VALUES.get(value.lower()) or number(float(value))
    except ValueError:
        return VALUES.get(value.lower())


def _text(value: Any, texts: Mapping[str, Any]) -> str:
    """A text, the texts of messages and their parts, or an attachment."""
    if isinstance(value, str):
        if value.startswith(ATTACHMENT):
            found = texts.get(value.removeprefix(ATTACHMENT))
            return found if isinstance(found, str) else value
        return value
    if isinstance(value, list):
        return "\n".join(_text(one, texts) for one in value)
    if isinstance(value, Mapping):
        said = _text(value.get("content", value.get("text", "")), texts)
        return f"{value['role']}: {said}" if isinstance(value.get("role"), str) else said
    return "" if value is None else json.dumps(value)
