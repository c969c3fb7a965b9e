"""Tasks of the lm-evaluation-harness, and the data sets on the hub that they read: found in its files, without it.

The harness takes some ten seconds to import itself and to read the YAML files of its 14,000 tasks, before it sees that
a name is wrong, or that a data set is in no cache and the hub does not answer. Here the names of all files are found by
a regular expression, in a fraction of a second, and of the tasks that were named the files are read.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lcbench.core.errors import UserError, brief
from lcbench.core.hub import require_data_set

KEY = r"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*"""
NAME = re.compile(rf"""{KEY}["']?([\w.\-/+() ]*[\w.\-/+()])""", re.MULTILINE)
TAGS = re.compile(r"""^["']?tag["']?[ \t]*:[ \t]*\n((?:[ \t]*-[^\n]*\n)+)""", re.MULTILINE)
ELSEWHERE = ("--include_path", "--config", "-C", "--metadata")  # options that bring names, or data, of the user's own
# Builders of `datasets` that read files; their data are not on the hub.
BUILDERS = frozenset(
    ["arrow", "audiofolder", "csv", "imagefolder", "json", "pandas", "parquet", "sql", "text", "webdataset", "xml"]
)
MOST_FILES = 400  # of a group, that are read


def check_tasks(arguments: Sequence[str], folder: Path) -> None:
    """Check the tasks that the harness's command line names, `folder` being that of its YAML files.

    Raises: UserError for an unknown name, and for a data set that is not in the cache while the hub does not answer.
    """
    names = named_tasks(arguments)
    if not names:
        return
    files = _files_by_name(folder)
    for name in names:
        if name not in files:
            close = difflib.get_close_matches(name, files, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else "`lcbench lm-eval ls tasks` lists them."
            raise UserError(f"unknown task {brief(name)} of the lm-evaluation-harness; {hint}")
    for name in names:
        for data in dict.fromkeys(_data_sets(name, files)):
            require_data_set(data, f"the task {name}")


def named_tasks(arguments: Sequence[str]) -> list[str]:
    """What `--tasks` names; nothing if any of it is a file or a pattern, or comes with files of the user's own."""
    found: list[str] = []
    taking = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in ELSEWHERE:
            return []
        if argument.startswith("-"):
            taking = option in ("--tasks", "-t")
            found += value.split(",") if taking and equals else []
        elif taking:
            found += argument.split(",")
    own = any(re.search(r"[*?\[\]]|\.ya?ml$", name) or Path(name).exists() for name in found if name)
    return [] if own else [name.strip() for name in found if name.strip()]


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """The files of each task, group and tag. What tasks include often has no suffix, and may have their tags."""
    found: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".yaml") or "." not in name:
                path = Path(place, name)
                text = path.read_text(encoding="utf-8", errors="replace")
                tags = [line.strip(" \t-\"'") for block in TAGS.findall(text) for line in block.splitlines()]
                for one in {*NAME.findall(text), *tags}:
                    found.setdefault(one, []).append(path)
    return found


def _data_sets(name: str, files: dict[str, list[Path]]) -> Iterator[str]:
    """The ids of the data sets that a task, or the tasks of a group or tag, read from the hub."""
    waiting, seen = [name], {name}
    read = 0
    while waiting and read < MOST_FILES:
        for path in files.get(waiting.pop(), ()):
            read += 1
            config = _config(path)
            members = config.get("task")
            if isinstance(members, list):
                named = [one.get("task") if isinstance(one, dict) else one for one in members]
                new = [one for one in named if isinstance(one, str) and one not in seen]
                seen.update(new)
                waiting += new
            data = config.get("dataset_path")
            if isinstance(data, str) and data not in BUILDERS and not Path(data).exists():
                yield data


def _config(path: Path, depth: int = 8) -> dict[str, Any]:
    """A YAML file of the harness with what it includes; empty if it is none. Its functions are left out."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    included = config.pop("include", None)
    others = [included] if isinstance(included, str) else included if isinstance(included, list) else []
    merged: dict[str, Any] = {}
    for other in others if depth else []:
        merged |= _config(path.parent / str(other), depth - 1)
    return merged | config


class _Loader(yaml.SafeLoader):
    """SafeLoader, to which the tags of the harness are nothing."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
