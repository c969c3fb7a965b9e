"""Logs in the formats of lm-evaluation-harness 0.4.13 and inspect_ai 0.3, of made-up samples."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa

DATE = "2026-01-02T03-04-05.678901"
Fields = dict[str, Any]


def generated(number: int, right: bool, **changes: Any) -> Fields:
    """A line of a task that generates, with one filter."""
    return {
        "doc_id": number,
        "doc": {"question": f"Q{number}?"},
        "target": str(number),
        "arguments": {"gen_args_0": {"arg_0": f"Q{number}?", "arg_1": {"until": ["."], "max_gen_toks": 8}}},
        "resps": [[f" {number}"]],
        "filtered_resps": [f" {number if right else 'no'}"],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": f"hash of {number}",
        "exact_match": float(right),
        **changes,
    }


def chosen(number: int, logs: tuple[str, str] = ("-1.5", "-0.5")) -> Fields:
    asked = {f"gen_args_{n}": {"arg_0": f"Q{number}?", "arg_1": text} for n, text in enumerate((" a", " b"))}
    said = [[log, "False"] for log in logs]
    changes = {"metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 0.0, "target": "1"}
    return generated(number, True, arguments=asked, filtered_resps=said, resps=[[one] for one in said], **changes)


def results(model: str = "m", **changes: Any) -> Fields:
    return {
        "config": {"model": "hf"},
        "model_name": model,
        "versions": {"gsm8k": 3.0},
        "n-shot": {"gsm8k": 5},
        "higher_is_better": {"gsm8k": {"exact_match": True, "ter": False}},
        "n-samples": {"gsm8k": {"original": 9, "effective": 4}},
        "max_length": 2048,
        "lm_eval_version": "0.4.13",
        "date": 1767323045.5,
        **changes,
    }


def lm_eval(folder: Path, lines: list[Fields], told: Fields | None = None, task: str = "gsm8k") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{DATE}.json").write_text(json.dumps(results() if told is None else told))
    path = folder / f"samples_{task}_{DATE}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def sample(id: int | str, value: Any, **changes: Any) -> Fields:
    return {
        "id": id,
        "epoch": 1,
        "input": f"Q{id}?",
        "target": str(id),
        "output": {
            "model": "p/m",
            "choices": [{"message": {"role": "assistant", "content": f"It is {id}."}, "stop_reason": "stop"}],
            "completion": f"It is {id}.",
            "usage": {"input_tokens": 30, "output_tokens": 5},
        },
        "scores": {"match": {"value": value, "answer": str(id)}},
        **changes,
    }


def header(**changes: Any) -> Fields:
    spec = {
        "task": "sums",
        "task_version": 2,
        "created": "2026-01-02T03:04:05+00:00",
        "model": "p/m",
        "dataset": {"name": "d", "samples": 4, "sample_ids": [1, 2, 3, 4]},
        "config": {"epochs": 1},
        "packages": {"inspect_ai": "0.3.285"},
    }
    return {"version": 2, "status": "success", "eval": spec | changes, "results": {"total_samples": 4}}


def inspect_json(path: Path, samples: list[Fields], **changes: Any) -> Path:
    path.write_text(json.dumps(header(**changes) | {"samples": samples}))
    return path


def inspect_zip(path: Path, samples: list[Fields], **changes: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in samples:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        archive.writestr("header.json", json.dumps(header(**changes)))
    return path


def inspect_zstandard(path: Path, samples: list[Fields], **changes: Any) -> Path:
    """As `inspect_zip`, compressed as versions of 2026 do, which Python's zipfile writes from 3.14 on."""
    with zipfile.ZipFile(inspect_zip(path, samples, **changes)) as archive:
        members = {name.encode(): archive.read(name) for name in archive.namelist()}
    body, directory = b"", b""
    for name, content in members.items():
        packed = pa.Codec("zstd").compress(content, asbytes=True)
        sizes = struct.pack("<LLLHH", zlib.crc32(content), len(packed), len(content), len(name), 0)
        common = struct.pack("<HHHHH", 20, 0, 93, 0, 0x21) + sizes
        directory += b"PK\x01\x02\x14\x00" + common + struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name
        body += b"PK\x03\x04" + common + name + packed
    end = struct.pack("<HHHHLLH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path
