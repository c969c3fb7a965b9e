"""Methods and task families that register themselves when they are imported."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points


@cache
def import_all(package: str) -> None:
    """Import every module of a package of lcbench and of its subpackages, then the entry points of the group of the
    same name; once per process, since finding entry points takes milliseconds."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
    for entry in entry_points(group=package):
        entry.load()
