"""The wheel: everything is in it, and it runs where the repository is not."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lcbench
from lcbench.tasks import task_files
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.slow
NO_INDEX = ("No matching distribution found", "Could not find a version", "ConnectionError", "No module named pip")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
        pytest.skip("building needs pip, and hatchling from the package index")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.name == f"lcbench-{lcbench.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "lcbench"
    sources = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(REPOSITORY).as_posix() for path in sources} <= names
    assert any(name.endswith("lcbench-tiny/model.safetensors") for name in names) and "lcbench/py.typed" in names
    tasks = [path.relative_to(REPOSITORY / "tasks").as_posix() for path in task_files().values()]
    assert {f"lcbench/task_files/{name}" for name in tasks} <= names and len(tasks) >= 3
    foreign = {name for name in names if not name.startswith(("lcbench/", f"lcbench-{lcbench.__version__}.dist-info/"))}
    assert not foreign


def test_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that borrows only the dependencies, from an empty folder."""
    environment, work = tmp_path / "environment", tmp_path / "elsewhere"
    work.mkdir()
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=work, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = Path(run(str(python), "-c", "import lcbench; print(lcbench.__file__)").strip())
    assert where.is_relative_to(environment)
    shown = run(str(environment / "bin" / "lcbench"), "run", "smoke", "--samples", "1")
    assert "passkey: exact match, 1 sample per score" in shown
    (manifest,) = work.glob("results/*/run.json")
    session = json.loads(manifest.read_text())["sessions"][0]
    assert session["git"] is None and session["versions"]["lcbench"] == lcbench.__version__
