"""What a data script says of a data set: where it is, whose it is, what a row of it holds, and what that row asks."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from lcbench.core.errors import UserError
from lcbench.data.raw import RawRow
from lcbench.data.schema import SPLITS

SPLIT_NAMES = {
    "train": "train",
    "trainmodel": "train",  # so named in the copy of WebQuestions that projects of question answering pass around
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
SPLIT_SUFFIX = re.compile(rf"[-_.]({'|'.join(SPLIT_NAMES)})\b.*$")
Fields = Mapping[str, type]


@dataclass(frozen=True)
class Hub:
    """Files of a data set on the Hugging Face hub.

    files: patterns of the names that are read, as in `data/test-*.parquet`.
    revision: a commit, or a branch whose commit and files are written down when they are first prepared.
    sha256: of files that are known beforehand, by name.
    """

    repo: str
    files: tuple[str, ...]
    revision: str = "main"
    sha256: Mapping[str, str] = field(default_factory=dict)

    def choose(self, names: Iterable[str]) -> list[str]:
        """The names that are read, in order."""
        return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.files))


@dataclass(frozen=True)
class Licence:
    """`commercial`: whether those who hold the rights allow commercial use; `unclear` where they say nothing."""

    name: str
    commercial: Literal["allowed", "forbidden", "unclear"] = "allowed"
    note: str = ""


@dataclass(frozen=True)
class SourceRow:
    """What one question of the source becomes: a `Row`, and the document that it is about.

    A document without id of its own gets one from its text, so that a text that comes twice is kept once.
    """

    id: str
    question: str
    references: tuple[str, ...]
    text: str | None = None
    title: str = ""
    document_id: str | None = None
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """One data set of a source.

    name: the script's, or the script's and its own behind a slash, as `scrolls/qasper`.
    formats: the columns and types that a row must have; the first is the hub's, others are of local copies.
    examples: a row and its number in its split, from 0 -> what it asks.
    unnamed_split: of a local file whose name tells no split.
    """

    name: str
    description: str
    hub: Hub
    licence: Licence
    formats: tuple[Fields, ...]
    examples: Callable[[RawRow, int], Iterable[SourceRow]]
    splits: tuple[str, ...] = SPLITS
    unnamed_split: str = "test"

    def owns(self, name: str) -> bool:
        """Whether a file of a source with several data sets is of this one: `qasper.zip`, `qasper/train.jsonl`."""
        return any(SPLIT_SUFFIX.sub("", part.partition(".")[0]) == self._own for part in _parts(name))

    def split(self, name: str) -> str | None:
        """The split that a file belongs to by its name or its folder's; None if that split is not read."""
        for part in reversed(_parts(name)):
            for word in re.split(r"[^a-z]+", part.lower()):
                if word in SPLIT_NAMES:
                    return SPLIT_NAMES[word] if SPLIT_NAMES[word] in self.splits else None
        return self.unnamed_split

    def check(self, row: RawRow, where: str) -> None:
        """Raises: UserError naming what a row lacks to be one of this source."""
        problems = [_problem(row, fields) for fields in self.formats]
        if None not in problems:
            columns = " or ".join(", ".join(fields) for fields in self.formats)
            raise UserError(f"{where} {problems[0]}; a row of {self.name} has {columns}.")

    @property
    def _own(self) -> str:
        return self.name.rpartition("/")[2]


def _problem(row: RawRow, fields: Fields) -> str | None:
    for name, kind in fields.items():
        if name not in row:
            return f"has no field `{name}`"
        if not isinstance(row[name], kind):
            return f"has in its field `{name}` no {kind.__name__}"
    return None


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts
