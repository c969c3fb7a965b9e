"""Task families (classes) and the YAML files that configure them.

A task is named `passkey`, `passkey:protocol=longlm`, or `./my_task.yaml`. Other packages add families through the entry
point group `lcbench.tasks`, each entry naming a `Task` subclass.
"""

from __future__ import annotations

import dataclasses
import os
from functools import cache
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError, unknown
from lcbench.core.plugins import import_all
from lcbench.core.specs import convert_options, split_spec
from lcbench.core.yaml_files import read_shipped_yaml, read_yaml_file
from lcbench.tasks.base import FAMILIES, Cell, Example, Task

__all__ = ["Cell", "Example", "Task", "load_task", "read_yaml", "task_files"]


def all_families() -> dict[str, type[Task]]:
    """All task families by name: those of lcbench, then those that other packages register."""
    import_all(__name__)
    return FAMILIES


REFERENCES = "references"  # folder of published figures, which are not tasks


@cache
def shipped_yaml() -> tuple[Path, ...]:
    """All YAML files that ship with lcbench: inside the wheel, or next to the package in a checkout."""
    return tuple(sorted(_folder().rglob("*.yaml")))


def _folder() -> Path:
    package = Path(__file__).parents[1]
    folder = package / "task_files"
    return folder if folder.is_dir() else package.parent / "tasks"


@cache
def task_files() -> dict[str, Path]:
    """The tasks and suites that ship with lcbench, by name.

    The name of a task includes its folder, as in `scrolls/qasper`; the name of a suite does not.
    """
    names = ((path.relative_to(_folder()).with_suffix("").as_posix(), path) for path in shipped_yaml())
    tasks = ((name, path) for name, path in names if not name.startswith(f"{REFERENCES}/"))
    return {name.removeprefix("suites/"): path for name, path in tasks}


def read_yaml(name: str, seen: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """The name and the mapping of a YAML file, given by its path or by the name of a task that ships. `like: NAME`
    inherits every key of another task that the file does not set. Data files are also looked up in the folder of the
    YAML file.

    Raises: UserError for a file that is missing or malformed, or an unknown name.
    """
    path, title = Path(os.path.expanduser(name)), Path(name).stem
    if path.suffix in (".yaml", ".yml"):
        content = read_yaml_file(path)
    else:
        files = task_files()
        if name not in files:
            raise unknown("task", name, files)
        path, title = files[name], name
        content = read_shipped_yaml(path)
    if not isinstance(content, dict) or not content.keys() & {"family", "like", "runs"}:
        raise UserError(f"{path} must be a mapping with a `family` (a task) or `runs` (a suite).")
    for key in ("data", "demonstrations"):
        beside = path.parent / str(content.get(key, ""))
        if beside.is_file():
            content[key] = str(beside)
    if "like" not in content:
        return title, content
    like = str(content.pop("like"))
    if like in seen:
        raise UserError(f"{path} is `like: {like}`, which is like it in turn; remove one of the two.")
    return title, {**read_yaml(like, (*seen, like))[1], **content}


def load_task(spec: str) -> Task:
    """A task from its name or YAML path, with options after a colon. Raises: UserError for an unknown name, family or
    option, or a value of the wrong kind."""
    name, options = split_spec(spec)
    stem, content = read_yaml(name)
    if "runs" in content:
        raise UserError(f"{name} is a suite; name a single task here.")
    families = all_families()
    family = str(content.pop("family", ""))
    if family not in families:
        raise unknown(f"family in task {name}:", family, families)
    cls = families[family]
    values = convert_options(f"task {stem}", cls, {"name": stem, **content, **options})
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise UserError(f"task {stem} ({family}) lacks `{field.name}`.")
    if values.get("samples", 1) < 1:
        raise UserError(f"task {stem}: samples must be at least 1, not {values['samples']}.")
    fixed = [option for option in options if option in ("name", "description", "citation", "samples")]
    if fixed:
        raise UserError(
            f"{fixed[0]} is not an option after a task's name{'; use --samples' * (fixed[0] == 'samples')}."
        )
    # Options are part of the name of the task in records, and of the seed that samples are drawn with.
    changed = {key: value for key, value in sorted(options.items()) if str(content.get(key)) != value}
    if changed:
        values["name"] = f"{stem}:" + ",".join(f"{key}={value}" for key, value in changed.items())
    return cls(**values)
