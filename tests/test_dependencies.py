"""What pyproject.toml says of dependencies, and what CI installs of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + OPTIONAL if not line.startswith("lcbench")]
CONSTRAINTS = ["constraints.txt", "constraints-lowest.txt"]


def pins(path: Path) -> dict[str, Version]:
    """The version of each package that a constraints file names."""
    lines = [Requirement(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.name): Version(str(line.specifier).removeprefix("==")) for line in lines}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_pin_every_dependency_within_its_range(name: str) -> None:
    pinned = pins(REPOSITORY / name)
    for needed in REQUIREMENTS:
        assert pinned[canonicalize_name(needed.name)] in needed.specifier, needed


def test_the_lowest_versions_are_those_that_pyproject_names() -> None:
    """Or their first patch release, where the package index has no other."""
    pinned = pins(REPOSITORY / "constraints-lowest.txt")
    for needed in REQUIREMENTS:
        (floor,) = (Version(each.version) for each in needed.specifier if each.operator == ">=")
        lowest = pinned[canonicalize_name(needed.name)]
        assert lowest.release[:2] == (*floor.release, 0)[:2] and (len(floor.release) < 3 or lowest == floor), needed


def test_both_pin_the_same_packages_but_for_a_few() -> None:
    """A package that only one of them names is one that the other leaves to the resolver of the day."""
    newest, lowest = (set(pins(REPOSITORY / name)) for name in CONSTRAINTS)
    assert newest - lowest <= {"ast-serialize", "httpcore2", "httpx2", "librt", "truststore"}
    assert lowest - newest <= {"httpcore", "httpx", "setuptools"}
