"""Tasks of the lm-evaluation-harness: names and data sets are found in its files, in a moment and without it."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from lcbench.core import hub
from lcbench.core.errors import UserError
from lcbench.data.harness import _files_by_name, check_tasks, named_tasks
from tests.helpers import REPOSITORY

FILES = {
    "rain/_rain.yaml": "group: rain\ntask:\n  - rain_easy\n  - task: rain_hard\n    task_alias: x\naggregate: !x y\n",
    "rain/plain_template": "tag: all_rain\ndataset_path: weather/more\n",
    "rain/other.yaml": "include: plain_template\ntask: rain_other\n",
    "rain/base.yaml": "dataset_path: weather/rain\nprocess_docs: !function utils.docs\n",
    "rain/easy.yaml": "include: base.yaml\ntask: rain_easy\n",
    "rain/hard.yaml": 'tag:\n  - hard_ones\n  - "more"\ninclude: base.yaml\ntask: "rain_hard" # dull\n',
    "own.yaml": "task: own\ntag: hard_ones\ndataset_path: json\ndataset_kwargs: {data_files: x}\n",
    "broken.yaml": "task: broken\n  dataset_path: [\n",
    "sun.yaml": "task: sun\ndataset_path: sunshine\n",
}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    return tmp_path / "tasks"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--tasks", "a,b", "--device", "cpu"], ["a", "b"]),
        (["--tasks", "a", "b", "--limit", "1", "-t", "c"], ["a", "b", "c"]),
        (["--tasks=a,b"], ["a", "b"]),
        (["--model", "lcbench"], []),
        (["--tasks", "a", "--include_path", "x"], []),
        (["--tasks", "a*"], []),
        (["--tasks", "./a.yaml"], []),
        (["--config", "x.yaml", "--tasks", "a"], []),
    ],
)
def test_names_on_the_command_line(arguments: list[str], names: list[str]) -> None:
    assert named_tasks(arguments) == names


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("rain_eazy", "unknown task 'rain_eazy' of the lm-evaluation-harness; did you mean 'rain_easy'"),
        ("zzz", "`lcbench lm-eval ls tasks` lists them"),
        ("sun", "the task sun reads the data set sunshine, which is not in the cache, and"),
        ("own,rain", "the task rain reads the data set weather/rain"),
        ("hard_ones", "the task hard_ones reads the data set weather/rain"),
        ("more", "weather/rain"),
        ("rain_hard", "weather/rain"),
        ("rain_other", "weather/more"),
        ("all_rain", "weather/more"),
    ],
)
def test_what_is_refused(typed: str, sentence: str, tasks: Path) -> None:
    with pytest.raises(UserError) as refused:
        check_tasks(["--tasks", typed], tasks)
    assert sentence in str(refused.value)


def test_what_is_not(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tasks(["--tasks", "own", "broken"], tasks)
    (tmp_path / "hub/datasets--weather--rain/snapshots").mkdir(parents=True)
    (tmp_path / "datasets/Sunshine").mkdir(parents=True)
    check_tasks(["--tasks", "rain,sun,hard_ones"], tasks)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    (tmp_path / "datasets/Sunshine").rmdir()
    check_tasks(["--tasks", "rain,sun,hard_ones"], tasks)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the harness")
def test_a_task_without_data_is_refused_in_a_moment() -> None:
    """Nothing of the harness is imported, nor PyTorch."""
    code = (
        "import sys; sys.argv = ['lcbench', 'lm-eval', '--model', 'lcbench', '--tasks', 'hellaswag']\n"
        "from lcbench.core import hub\nhub.is_reachable = lambda: False\n"
        "from lcbench.__main__ import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'transformers', 'lm_eval.api') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": "/nowhere", "PATH": ""}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "reads the data set Rowan/hellaswag" in done.stderr, done.stderr
    assert done.stdout.strip() == "[]" and time.monotonic() - started < 15  # 1.4 on a quiet machine


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the harness")
def test_no_name_of_the_harness_is_unknown_here() -> None:
    from lm_eval.tasks import TaskManager

    spec = find_spec("lm_eval")
    assert spec and spec.submodule_search_locations
    known = _files_by_name(Path(spec.submodule_search_locations[0], "tasks"))
    assert set(TaskManager().all_tasks) <= known.keys()
