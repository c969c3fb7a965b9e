"""Each test in a folder of its own, with a server and without keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lcbench.engine.endpoint import client as client_module
from tests.engine.endpoint.fake import Server, serving


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.01)
    for name in ("OPENAI_API_KEY", "LCBENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as served:
        yield served
