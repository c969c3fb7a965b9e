"""The results of a bench, as they are shown, drawn and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from lcbench.apps.bench.timing import Spread

FORMAT = 1
PARTS = ("attention", "block", "prefill", "decode", "memory", "score")


@dataclass(frozen=True)
class Measurement:
    """One subject in one part at one length.

    `seconds` are those of one call, or of one token in `decode`; `matmul_share` is the rate of arithmetic, counted over
    the keys that are seen, by the rate of a matrix product in the same rounds; `ratios` are seconds, or bytes in
    `memory`, by those of a vanilla baseline. `layer` is the one that was measured, of `attention` and `block`.
    """

    part: str
    length: int
    subject: str
    resolved: str
    baseline: bool
    layer: int | None
    seconds: Spread | None
    tokens_per_second: float | None
    matmul_share: Spread | None
    peak_bytes: int | None
    kv_bytes: int | None
    ratios: dict[str, Spread]
    backends: list[str]


@dataclass(frozen=True)
class Skipped:
    """What was not measured, and why; `failed` if the machine should have done it."""

    part: str
    length: int
    subject: str
    why: str
    failed: bool = False

    def __str__(self) -> str:
        who = f" of {self.subject}" if self.subject else ""
        return f"{'failed' if self.failed else 'skipped'}: {self.part}{who} at {self.length:,} tokens: {self.why}"


@dataclass(frozen=True)
class Result:
    """A whole bench: `about` says what was measured, on what and how; `checks` are the comparisons with the reference
    that preceded it."""

    about: dict[str, Any]
    checks: list[dict[str, Any]]
    rows: list[Measurement]
    skipped: list[Skipped]
    matmul: Spread | None  # operations a second of the matrix product, in all rounds

    def part(self, name: str) -> list[Measurement]:
        return [row for row in self.rows if row.part == name]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
