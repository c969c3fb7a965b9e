"""The scores of a task once more by groups of its samples, as a task names them: difficulty, class of length, kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lcbench.results.schema import Record

BEGIN = " ["  # of a group's name after that of its task, in which no option has a blank


def is_group(task: str) -> bool:
    """Whether it is the name of a group of a task's samples."""
    return BEGIN in task and task.endswith("]")


def by_group(records: Iterable[Record]) -> list[Record]:
    """The records of samples that belong to groups, once for each of their groups, under the name of the task and the
    group, as `longbench_v2 [difficulty=hard]`; groups in the order of their names."""
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
