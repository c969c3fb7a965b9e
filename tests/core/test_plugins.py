"""Methods and task families of other packages are found by their entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from lcbench.core import plugins
from lcbench.methods import parse_method
from lcbench.methods.base import REGISTRY

METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from lcbench.methods import Method


@dataclass(frozen=True, kw_only=True)
class Shifted(Method):
    name: ClassVar[str] = "shifted-by-another-package"

    def score_scale(self, i, lengths):
        return i * 0 + 2.0
"""


def test_a_method_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_package.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    asked = []

    def entry_points(group: str) -> EntryPoints:
        asked.append(group)
        return EntryPoints(
            [EntryPoint("shifted", "another_package:Shifted", group)] if group == "lcbench.methods" else []
        )

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins.import_all.cache_clear()
    try:
        assert str(parse_method("shifted-by-another-package")) == "shifted-by-another-package"
        assert parse_method("shifted-by-another-package").hooks == {"score_scale"}
        assert asked == ["lcbench.methods"]  # looked for once
    finally:
        REGISTRY.pop("shifted-by-another-package", None)
        sys.modules.pop("another_package", None)
