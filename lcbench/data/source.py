"""The description of a data set in a data script: location, licence, row format, and conversion of rows to
questions."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from lcbench.core.errors import UserError
from lcbench.data.schema import SPLITS
from lcbench.data.values import RawRow

SPLIT_NAMES = {
    "train": "train",
    "trainmodel": "train",  # the name in a copy of WebQuestions that many projects share
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
ROWS = (".jsonl", ".json", ".parquet", ".label")
SPLIT_SUFFIX = re.compile(rf"[-_.]({'|'.join(SPLIT_NAMES)})\b.*$")
Fields = Mapping[str, type]


@dataclass(frozen=True)
class Hub:
    """Files of a data set on the Hugging Face hub.

    files: patterns of the names of its files, as `data/test-*.parquet`.
    revision: a commit, or a branch whose commit is recorded at the first preparation.
    sha256: known hashes of files, by name.
    """

    repo: str
    files: tuple[str, ...]
    revision: str = "main"
    sha256: Mapping[str, str] = field(default_factory=dict)

    def choose(self, names: Iterable[str]) -> list[str]:
        """The names that match `files`, sorted."""
        return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.files))


@dataclass(frozen=True)
class Licence:
    """`commercial`: whether the rights holders allow commercial use; `unclear` if they do not say."""

    name: str
    commercial: Literal["allowed", "forbidden", "unclear"] = "allowed"
    note: str = ""


@dataclass(frozen=True)
class SourceRow:
    """One converted question of the source: the fields of a `Row`, and its document.

    A document without an id gets one from the hash of its text, so that repeated texts are stored once.
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

    name: that of the script, or script/name as in `scrolls/qasper`.
    formats: required columns and their types; the first is the hub's format, others are of local copies.
    examples: maps a row and its number in its split (from 0) to its questions.
    suffixes: the formats that are read; others stay unread where a folder holds more.
    members: patterns of the names of its files in an archive or a folder, where they are not named after it.
    train_files: patterns of files whose rows are demonstrations, whatever split their names tell.
    from_name: further columns of all rows of a file, which its name tells, such as the length of their documents.
    unnamed_split: the split of a local file whose name contains none.
    """

    name: str
    description: str
    hub: Hub
    licence: Licence
    formats: tuple[Fields, ...]
    examples: Callable[[RawRow, int], Iterable[SourceRow]]
    splits: tuple[str, ...] = SPLITS
    unnamed_split: str = "test"
    suffixes: tuple[str, ...] = ROWS
    members: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ()
    from_name: Callable[[str], dict[str, Any]] | None = None

    def owns(self, name: str) -> bool:
        """Whether a file of a source with several data sets belongs to this one: `qasper.zip`, `qasper/train.jsonl`, or
        one that `members` names."""
        if self.members:
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.members)
        return any(SPLIT_SUFFIX.sub("", part.partition(".")[0]) == self._own for part in _parts(name))

    def split(self, name: str) -> str | None:
        """The split of a file, by its name or its folder; None if that split is not used."""
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.train_files):
            return "train"
        for part in reversed(_parts(name)):
            for word in re.split(r"[^a-z]+", part.lower()):
                if word in SPLIT_NAMES:
                    return SPLIT_NAMES[word] if SPLIT_NAMES[word] in self.splits else None
        return self.unnamed_split

    def check(self, row: RawRow, where: str) -> None:
        """Raises: UserError for a row that has none of the `formats`."""
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
