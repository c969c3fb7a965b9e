"""Likelihoods of tokens: an array file for each sample, next to the records, and the scores computed from it.

`RUN/nll/<name>.npz` contains, compressed, for a text that was read in `w` windows and scored at `n` tokens

    nll      float32 [n]   -ln p of every scored token, in nats, window by window
    start    int64 [w]     first token of the text in each window
    first    int64 [w]     first token of the text that is scored there
    stop     int64 [w]     one past its last token
    head     int64 []      tokens before the text in each window, such as BOS
    chars    int32 [t]     characters of the text that each of its tokens adds, to the last that is read
    opening  int64 []      CRC-32 of the first 64 characters, to check that two runs read the same text

The last two are missing in older files.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcbench.core.errors import LostRecordsError, UserError, gist_of
from lcbench.core.files import LARGEST, require_regular, write_atomically

FOLDER = "nll"


@dataclass(frozen=True)
class TokenNll:
    """The likelihood of one text; the fields are those of the file."""

    nll: NDArray[np.float32]
    start: NDArray[np.int64]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    head: int
    chars: NDArray[np.int32] | None = None
    opening: int | None = None

    def scores(self, size: int, words: int) -> dict[str, float]:
        """Scores by name: `nll` in nats per token, `perplexity`, `bits_per_byte`, `bits_per_word`. `size` is the size
        of the scored text in UTF-8 bytes, `words` its number of words. Undefined scores (overflow, no word) are left
        out.

        The mean is over all tokens. A protocol that averages over windows has the same mean within a text, whose
        windows have equal length; it differs in giving every text the same weight.
        """
        nll = float(self.nll.mean(dtype=np.float64))
        bits = nll / math.log(2) * len(self.nll)
        scores = {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else None}
        scores["bits_per_byte"] = bits / size if size else None
        scores["bits_per_word"] = bits / words if words else None
        return {name: score for name, score in scores.items() if score is not None}

    def buckets(self) -> list[tuple[int, int, float, int]]:
        """(first position, last position, sum of NLL in nats, tokens), by the number of tokens before a token in its
        window: 1, 2 to 3, 4 to 7, and so on."""
        begin = self.head + self.first - self.start
        positions = np.concatenate([np.arange(b, b + n) for b, n in zip(begin, self.stop - self.first, strict=True)])
        exponents = np.frexp(positions)[1] - 1  # floor(log2), exact
        sums = np.bincount(exponents, weights=self.nll.astype(np.float64))
        counts = np.bincount(exponents)
        return [(2**k, 2 ** (k + 1) - 1, float(sums[k]), int(n)) for k, n in enumerate(counts.tolist()) if n]

    def write(self, folder: Path, id: str) -> str:
        """Write the file of the record with this id, atomically, and return its path relative to the run's folder.
        Equal numbers give equal bytes. Raises: UserError if it cannot be written; LostRecordsError if the folder is
        gone."""
        path = folder / FOLDER / _name(id)
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, _archive(arrays), owned=True)
        except OSError as error:
            if not folder.is_dir():
                raise LostRecordsError(
                    f"{folder} was removed while lcbench was writing to it; restore it, or run the same command again."
                ) from error
            raise UserError(
                f"cannot write {path}: {error.strerror}; what was written is intact, run the same command again once "
                "there is space."
            ) from error
        return f"{FOLDER}/{path.name}"

    @classmethod
    def read(cls, path: Path) -> TokenNll:
        """Raises: UserError for a file that is missing or damaged."""
        try:
            require_regular(path)
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST >> 30} GB")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name in _FIELDS}
            opening = arrays.pop("opening", None)
            read = cls(**arrays | {"head": int(arrays["head"]), "opening": None if opening is None else int(opening)})
            if read.chars is not None and read.chars.shape != (int(read.stop.max()),):
                raise ValueError("`chars` does not match its tokens")
            if read.nll.shape != (len(read.nll),) or not len(read.nll) or not np.isfinite(read.nll).all():
                raise ValueError("`nll` is not a list of finite numbers")
            return read
        except Exception as error:  # numpy and zipfile raise many types of errors for broken archives
            raise UserError(
                f"cannot read {path}: {gist_of(error)}; restore it, or run the same command again."
            ) from error


def added(ends: Sequence[int]) -> NDArray[np.int32]:
    """The characters that each token adds to a text, from the tokens' ends."""
    borders = np.concatenate([[0], np.asarray(ends, dtype=np.int64)])
    lengths: NDArray[np.int32] = (borders[1:] - borders[:-1]).astype(np.int32)
    return lengths


_FIELDS = frozenset(field.name for field in fields(TokenNll))


def mean_buckets(all_buckets: Sequence[Sequence[tuple[int, int, float, int]]]) -> list[tuple[int, int, float]]:
    """(first position, last position, mean NLL) over the buckets of several records."""
    sums: dict[tuple[int, int], list[float]] = {}
    for buckets in all_buckets:
        for begin, end, total, count in buckets:
            entry = sums.setdefault((begin, end), [0.0, 0.0])
            entry[0] += total
            entry[1] += count
    return [(*ends, total / count) for ends, (total, count) in sorted(sums.items()) if count]


def _name(id: str) -> str:
    """A readable file name, unique to the record."""
    readable = re.sub(r"[^\w.-]+", "_", id)[:80]
    return f"{readable}-{hashlib.sha256(id.encode()).hexdigest()[:12]}.npz"


def _archive(arrays: dict[str, Any]) -> bytes:
    """As numpy's savez_compressed, but without timestamps: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(values), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), entry.getvalue(), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()
