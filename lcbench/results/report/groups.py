"""The scores of a task by groups of its samples that the task names: difficulty, length class, type of question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lcbench.results.schema import Record

BEGIN = " ["  # between the task's name, which has no spaces, and that of the group


def is_group(task: str) -> bool:
    """Whether this is the name of a group of a task's samples."""
    return BEGIN in task and task.endswith("]")


def by_group(records: Iterable[Record]) -> list[Record]:
    """The records of samples in groups, once for each of their groups, with the task renamed to task and group, such as
    `longbench_v2 [difficulty=hard]`; groups are in alphabetical order."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups = (record.prompt.details or {}).get("groups")
        for kind, value in groups.items() if isinstance(groups, dict) else ():
            key = record.identity.task, str(kind), str(value)
            found.setdefault(key, []).append(record)
    return [
        replace(record, identity=replace(record.identity, task=f"{task}{BEGIN}{kind}={value}]"))
        for (task, kind, value), members in sorted(found.items(), key=lambda item: item[0])
        for record in members
    ]
