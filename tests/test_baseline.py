"""Nothing got worse: a fresh run of the smoke suite against the baseline that is committed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from string import Template

import pytest
import yaml

from lcbench.results.records import MANIFEST, RECORDS, read_manifest
from tests.helpers import REPOSITORY, cli, fields_of, lines_of

BASELINE = REPOSITORY / "results" / "baselines" / "smoke"
pytestmark = pytest.mark.skipif(not BASELINE.exists(), reason="baselines are in the repository only")


@pytest.mark.slow
def test_nothing_got_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands of the workflow that users copy. If this fails and shall, make a new baseline as
    results/baselines/README.md says."""
    monkeypatch.chdir(tmp_path)
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "regression.yml").read_text())
    variables = workflow["env"] | {"GITHUB_STEP_SUMMARY": "summary.md"}
    assert REPOSITORY / variables["BASELINE"] == BASELINE
    variables["BASELINE"] = str(BASELINE)
    steps = [step["run"] for step in workflow["jobs"]["compare"]["steps"] if step.get("run", "").startswith("lcbench ")]
    outcomes = [cli(*shlex.split(Template(step).substitute(variables))[1:]) for step in steps]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[-1].out + outcomes[-1].err
    assert ", 0 not comparable" in outcomes[1].out  # else the baseline asks something that the suite does not any more
    fresh, known = ({record["id"] for record in fields_of(folder)} for folder in (Path("results/new"), BASELINE))
    assert fresh == known
    assert Path("summary.md").read_text().startswith("## lcbench compare: ")
    assert Path("results/junit.xml").exists() and Path("results/comparison.html").exists()


@pytest.mark.parametrize(("lost", "code"), [(20, 1), (12, 1), (3, 0)])
def test_a_broken_method_is_found_and_a_few_flips_are_not(lost: int, code: int, tmp_path: Path) -> None:
    """The suite has samples enough: of 20 right answers 12 lost are a regression, 3 may be another processor's."""
    new = tmp_path / "new"
    shutil.copytree(BASELINE, new)
    records, left = lines_of(new), lost
    for record in records:
        if (record["task"], record["method"], record["seq_len"]) == ("passkey", "dca:mscale=0.1", 512) and left:
            record["scores"]["exact_match"], left = 0.0, left - 1
    assert left == 0
    (new / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    compared = cli("compare", BASELINE, new, "--fail-on-regression")
    assert compared.code == code
    assert ("1 regressed" in compared.out) == bool(code)


def test_the_baseline_is_small_and_names_no_machine() -> None:
    assert sum(path.stat().st_size for path in BASELINE.iterdir()) < 2**20
    assert {path.name for path in BASELINE.iterdir()} - {".lock"} == {MANIFEST, RECORDS}
    manifest = read_manifest(BASELINE).content
    (session,) = manifest["sessions"]
    command = " ".join(session["command"])
    assert command == "lcbench run smoke --device cpu --output results/baselines/smoke"
    assert not re.search(r'"/|[A-Z]:\\\\', json.dumps(manifest))
    assert all(record["error"] is None for record in fields_of(BASELINE))
