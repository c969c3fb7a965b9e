"""`--name`: what tables, pages and comparisons call a model, and nothing else."""

from __future__ import annotations

from pathlib import Path

from lcbench.results.records import read_manifest
from tests.helpers import cli, records_of

RUN = ["run", "passkey", "--seq-len", "150", "--samples", "2"]


def test_a_name_is_shown_everywhere_and_decides_nothing(tmp_path: Path) -> None:
    plain, named = tmp_path / "plain", tmp_path / "named"
    assert cli(*RUN, "-o", plain).code == 0
    done = cli(*RUN, "-o", named, "--name", "Tiny [red]1")
    assert done.code == 0 and records_of(plain) == records_of(named)
    identities = [read_manifest(folder).content["identity"] for folder in (plain, named)]
    assert identities[0] == identities[1] and identities[1]["model"] == "lcbench-tiny"
    assert "Tiny [red]1" in cli("table", plain, named).out
    assert "model changed: lcbench-tiny in BASE, Tiny [red]1 in NEW" in cli("compare", plain, named).out
    cli("report", named, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "passkey on Tiny [red]1</h1>" in page and "Tiny [red]1 (lcbench-tiny, sha256:" in page
    assert cli(*RUN, "-o", named).code == 0  # the name stays
    assert read_manifest(named).model_name == "Tiny [red]1"
    assert cli(*RUN, "-o", named, "--name", "Other").code == 0
    assert read_manifest(named).model_name == "Other"


def test_a_name_is_a_name(tmp_path: Path) -> None:
    for name in (" ", "x" * 101):
        refused = cli(*RUN, "-o", tmp_path / "run", "--name", name)
        assert refused.code == 2 and "--name" in refused.error
