"""LongPPL: perplexity over the tokens for which the long context matters, from the token likelihoods of runs.

Fang et al. 2024, https://arxiv.org/abs/2410.23771; reference PKU-ML/LongPPL@1decd2a7 longppl/longppl.py. A token is key
if a judge's loss falls by more than `alpha` nats from a short to the long context and is below `-beta` there; the
constants are theirs. LongPPL is exp of the mean loss of the evaluated model, in the long context, over key tokens of
all texts together.

The long context is a run of `pg19` (protocol prefix), the short one a run of the same books with protocol=sliding: its
windows overlap, so that every token after the first window has at least the short context, and at most a stride more.
The paper's is 4,096 tokens with a stride of 1,024; windows here begin with a BOS if the tokenizer has one. Tokens with
no more than the short context are never key. The judge is the evaluated model itself, or another run, possibly with
another tokenizer: then the judge's key tokens are mapped to spans of characters, adjacent ones joined, and a token of
the evaluated model is key if it lies within one, as in the reference. Text that the judge did not read, since its
tokens are shorter, is not key.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcbench.core.errors import UserError
from lcbench.core.stats import ratio_interval
from lcbench.results.nll import TokenNll
from lcbench.results.records import read_manifest, read_records
from lcbench.results.schema import Record

ALPHA, BETA = 2.0, -2.0  # nats: thresholds of the gain and of the loss
Judge = tuple[Path, Path, str]  # a long and a short run, and the method in both that chooses key tokens


@dataclass(frozen=True)
class LongPpl:
    """LongPPL of a method at a length, with its 95 % interval over the texts and the perplexity of all tokens.

    `key_tokens` of the `tokens` in `texts` are key; a text may have none. LongPPL is None if no token is key. `context`
    is the short context in tokens.
    """

    method: str
    seq_len: int
    longppl: float | None
    low: float | None
    high: float | None
    perplexity: float
    key_tokens: int
    tokens: int
    texts: int
    context: int


@dataclass(frozen=True)
class _Text:
    """The per-token likelihoods of one text; NaN for tokens that are not scored."""

    nll: NDArray[np.float64]
    bytes: int
    context: int  # fewest tokens before a scored token, from the end of the first window on
    prompt: str = ""  # hash of the token ids
    spans: NDArray[np.int64] | None = None  # [n, 2]: start and end of each token in the text, in characters
    opening: int | None = None  # of the text


def longppl(long: Path, short: Path, judge: Judge | None = None) -> list[LongPpl]:
    """A row for each method and length of the run `long`, judged by the same methods in `short`, or by a `judge`: a
    long and a short run, and the method in both that chooses key tokens.

    Raises: UserError for runs without likelihoods, or without the texts and methods of the other.
    """
    _require_one_model(*((long, short) if judge is None else judge[:2]))
    evaluated = _texts(long, overlapping=False)
    short_of = _texts(short if judge is None else judge[1], overlapping=True)
    long_of = evaluated if judge is None else _texts(judge[0], overlapping=False)
    rows: dict[tuple[str, int], list[tuple[_Text, NDArray[np.bool_], int]]] = {}
    for (method, document, seq_len), text in evaluated.items():
        judging = method if judge is None else judge[2]
        reference = _found(long_of, judging, document, long if judge is None else judge[0], seq_len)
        brief = _found(short_of, judging, document, short if judge is None else judge[1], None)
        key = key_tokens(reference, brief)
        if reference.prompt != text.prompt:
            key = _by_place(key, reference, text, document)
        rows.setdefault((method, seq_len), []).append((text, key, brief.context))
    return [_row(method, seq_len, members) for (method, seq_len), members in rows.items()]


def self_judged(read: Sequence[tuple[tuple[Path, Record], tuple[Path, Record]]]) -> LongPpl | None:
    """The row of some texts, each read in one window and in overlapping ones by one model and method, given as (run
    folder, record) of both. None if one of them was read in another way."""
    members = []
    for long, short in read:
        text, brief = _text(*long, overlapping=False), _text(*short, overlapping=True)
        if text is None or brief is None:
            return None
        members.append((text, key_tokens(text, brief), brief.context))
    one = read[0][0][1].identity
    return _row(one.method, one.seq_len, members)


def _require_one_model(long: Path, short: Path) -> None:
    one, other = (read_manifest(run).identity for run in (long, short))
    if one.weights_of != other.weights_of:
        raise UserError(
            f"{long} and {short} are of different models ({one.model} and {other.model}), but key tokens are chosen by "
            "one model in both contexts."
        )


def key_tokens(long: _Text, short: _Text) -> NDArray[np.bool_]:
    """Mask of a text's key tokens."""
    count = min(len(long.nll), len(short.nll))
    gain = short.nll[:count] - long.nll[:count]
    key = np.zeros(len(long.nll), dtype=bool)
    with np.errstate(invalid="ignore"):  # tokens that are not scored
        key[:count] = (gain > ALPHA) & (long.nll[:count] < -BETA)
    key[: short.context] = False
    return key


def _by_place(key: NDArray[np.bool_], judge: _Text, text: _Text, document: str) -> NDArray[np.bool_]:
    """Mask of a text's tokens that lie within the characters of the key tokens of a judge with another tokenizer.

    Raises: UserError for runs without token positions, or with different texts of one title.
    """
    if judge.spans is None or text.spans is None:
        raise UserError(
            f"{document} has other tokens in the judge's run, and their positions in the text were not recorded by an "
            "older lcbench; run both again into new folders."
        )
    if judge.opening != text.opening:
        raise UserError(f"{document} is a different text in the judge's run; use the same source in both.")
    spans = judge.spans[key]
    joined: list[list[int]] = []
    for start, end in spans.tolist():
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    if not joined:
        return np.zeros(len(text.nll), dtype=bool)
    starts, ends = np.array(joined).T
    within = starts.searchsorted(text.spans[:, 0], side="right") - 1  # the last that begins no later than the token
    found: NDArray[np.bool_] = (within >= 0) & (text.spans[:, 1] <= ends[within]) & np.isfinite(text.nll)
    return found


def _spans(chars: NDArray[np.int32]) -> NDArray[np.int64]:
    """Start and end of each token [n, 2], in characters; a token that adds none is a further byte of the last one."""
    ends = np.cumsum(chars, dtype=np.int64)
    own = np.where(chars > 0, ends - chars, 0)
    return np.stack([np.maximum.accumulate(own), ends], axis=1)


def _row(method: str, seq_len: int, members: Sequence[tuple[_Text, NDArray[np.bool_], int]]) -> LongPpl:
    sums = [float(text.nll[key].sum()) for text, key, _ in members]
    counts = [int(key.sum()) for _, key, _ in members]
    scored = np.concatenate([text.nll[np.isfinite(text.nll)] for text, _, _ in members])
    low = high = None
    if sum(counts):
        seed = int.from_bytes(hashlib.sha256(repr((method, seq_len)).encode()).digest()[:6])
        low, high = ratio_interval(sums, counts, seed)
    return LongPpl(
        method=method,
        seq_len=seq_len,
        longppl=math.exp(sum(sums) / sum(counts)) if sum(counts) else None,
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        perplexity=math.exp(float(scored.mean())),
        key_tokens=sum(counts),
        tokens=len(scored),
        texts=len(members),
        context=members[0][2],
    )


def _found(
    texts: dict[tuple[str, str, int], _Text], method: str, document: str, run: Path, length: int | None
) -> _Text:
    for (other, title, seq_len), text in texts.items():
        if (other, title) == (method, document) and length in (None, seq_len):
            return text
    raise UserError(f"{run} has no likelihoods of {document} with {method}; run it with the same books and methods.")


def _texts(run: Path, *, overlapping: bool) -> dict[tuple[str, str, int], _Text]:
    """The texts of a run by method, title and length: those read in one window, or in overlapping ones."""
    found = {
        (record.identity.method, str(record.prompt.document), record.identity.seq_len): text
        for record in _measured(read_records(run))
        if (text := _text(run, record, overlapping=overlapping)) is not None
    }
    if not found:
        wanted = "overlapping windows (pg19:protocol=sliding)" if overlapping else "one window (pg19)"
        raise UserError(f"{run} has no likelihoods of texts that were read in {wanted}.")
    return found


def _measured(records: Iterable[Record]) -> Iterable[Record]:
    return (record for record in records if record.result is not None and record.result.nll is not None)


def _text(run: Path, record: Record, *, overlapping: bool) -> _Text | None:
    likelihood = record.measured.nll
    assert likelihood is not None
    read = TokenNll.read(run / likelihood.file)
    once = bool((read.first[1:] == read.stop[:-1]).all())  # every token is scored once
    if not once or (len(read.start) > 1) != overlapping:
        return None
    nll = np.full(int(read.stop[-1]), np.nan)
    nll[int(read.first[0]) :] = read.nll
    context = int((read.first[1:] - read.start[1:]).min()) + read.head if overlapping else 0
    spans = None if read.chars is None else _spans(read.chars)
    return _Text(nll, likelihood.bytes, context, record.prompt.prompt_sha256, spans, read.opening)
