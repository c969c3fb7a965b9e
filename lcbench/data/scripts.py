"""The data scripts: one per source, in the wheel or next to the package, found by their file names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lcbench.core.errors import unknown
from lcbench.data.source import DataSet


def script_files() -> dict[str, Path]:
    """The scripts that ship with lcbench, by the names of their sources."""
    package = Path(__file__).parents[1]
    folder = package / "data_scripts"
    if not folder.is_dir():
        folder = package.parent / "data_scripts"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def data_sets(name: str) -> list[DataSet]:
    """The data sets of a name: `scrolls` is all data sets of a source, `scrolls/qasper` is one, `all` is every one.

    Raises: UserError for an unknown name.
    """
    files = script_files()
    if name == "all":
        return [data_set for source in files for data_set in data_sets(source)]
    source = name.partition("/")[0]
    if source not in files:
        raise unknown("data", name, [*files, "all"])
    found = {data_set.name: data_set for data_set in _load(source, files[source])}
    if name == source:
        return list(found.values())
    if name not in found:
        raise unknown("data", name, found)
    return [found[name]]


def _load(name: str, path: Path) -> list[DataSet]:
    module_name = f"lcbench.data_scripts.{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[DataSet] = module.DATA_SETS
    return found
