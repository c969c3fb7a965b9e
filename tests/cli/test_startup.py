"""What is imported before a command answers: names are listed, and slips refused, without PyTorch and transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lcbench.attention.backends.dispatch import BACKENDS
from lcbench.attention.options import BACKEND_NAMES
from lcbench.engine.models import ModelSource, embedded_models
from lcbench.methods.trained_length import trained_length
from tests.helpers import REPOSITORY, cli

SMOKE = REPOSITORY / "results" / "baselines" / "smoke"
HEAVY = ["torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "numpy", "scipy"]
HEAVY += ["pandas", "pyarrow", "matplotlib", "triton", "faiss", "rouge", "nltk"]
COMMANDS = {
    "--version": "lcbench",
    "run --help": "--seq-len",
    "list methods": "dca",
    "list tasks": "passkey",
    "list models": "lcbench-tiny-fot",
    "list runs": "run",
    "data list": "scrolls/qasper",
    f"table {SMOKE}": "passkey",
    f"compare {SMOKE} {SMOKE}": "0 regressed",
    # slips
    "list nothing": "unknown list 'nothing'",
    "run passky": "did you mean 'passkey'?",
    "run passkey:protocl=longlm": "did you mean 'protocol'?",
    "run passkey --method dca:chunk_siz=4": "did you mean 'chunk_size'?",
    "run passkey --method vanilla,dcaa": "did you mean 'dca'?",
    "run passkey --seq-len 4q": "'4q' is not a length",
    "run passkey --depths x": "'x' is not a list of depths",
    "run passkey -m lcbench-tiy": "did you mean 'lcbench-tiny'?",
    "run passkey -m ./nowhere": "there is no model folder ./nowhere",
    "run passkey --dtype bf16": "did you mean 'bfloat16'?",
    "run passkey --attention flush": "did you mean 'flash'?",
    "run passkey --kv-dtype float8_e4m3": "did you mean 'float8_e4m3fn'?",
    "run nowhere.yaml": "cannot read nowhere.yaml",
    "run needle --haystack nowhere.txt": "cannot read nowhere.txt",
    "run pg19:source=nowhere.txt": "cannot read nowhere.txt",
    "run scrolls/qasper": "lcbench data prepare scrolls/qasper",
    "run pg19:source=books --seq-len 256 --depths 3": "has no needle",
    "show passky": "did you mean 'passkey'?",
    "show passkey --seq-len 4q": "'4q' is not a length",
    "show passkey -m lcbench-tiy": "did you mean 'lcbench-tiny'?",
    "show needle --haystack nowhere.txt": "cannot read nowhere.txt",
    "ask nowhere.pdf why -m lcbench-tiny --method dcaa": "did you mean 'dca'?",
    "ask nowhere.txt why -m lcbench-tiny": "cannot read nowhere.txt",
    "bench --method dcaa": "did you mean 'dca'?",
    "bench --shape tinny": "did you mean 'tiny'?",
    "train lm --text x --out y --method dcaa": "did you mean 'dca'?",
    "convert ./nowhere --out x": "there is no model folder ./nowhere",
    "import nowhere": "there is no file or folder nowhere",
    "push nowhere --to a/b": "nowhere is not a run",
    f"export {SMOKE} --to wanb": "did you mean 'wandb'?",
}
EACH = f"""
import contextlib, functools, io, json, sys, typer.main
from lcbench.__main__ import main
typer.main.get_command = functools.cache(typer.main.get_command)
for command in json.loads(sys.stdin.read()):
    sys.argv, said = ["lcbench", *command.split(" ")], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main()
    print(json.dumps([command, said.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""


def test_what_needs_no_model_imports_nothing_heavy(tmp_path: Path) -> None:
    """One process for all of them: what one imports, those after it would show."""
    done = subprocess.run(
        [sys.executable, "-c", EACH],
        input=json.dumps(list(COMMANDS)),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "LCBENCH_DATA": str(tmp_path), "COLUMNS": "200"},
    )
    answers = {command: (said, heavy) for command, said, heavy in map(json.loads, done.stdout.splitlines())}
    assert answers.keys() == COMMANDS.keys()
    for command, (said, heavy) in answers.items():
        assert COMMANDS[command] in said, (command, said)
        assert not heavy, (command, heavy)


@pytest.mark.slow
def test_extend_imports_no_modelling_code() -> None:
    """A model that is there has imported it, and PyTorch's compiler, already."""
    code = "import sys; from lcbench import extend; print(*sys.modules)"
    environment = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    imported = set(done.stdout.split())
    assert "lcbench.attention.steering" in imported
    assert not {"transformers.modeling_utils", "torch._dynamo", "sympy", "scipy", "accelerate"} & imported


def test_list_models_says_what_the_configs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads config.json; a run asks transformers."""
    monkeypatch.setenv("COLUMNS", "300")
    rows = [line.split("  ") for line in cli("list", "models").out.splitlines()]
    shown = {cells[0]: cells[1:] for row in rows if len(cells := [cell.strip() for cell in row if cell.strip()]) == 4}
    for name in embedded_models():
        config = ModelSource(name).config()
        assert shown[name] == [
            config.architectures[0],
            f"{trained_length(config):,} tokens",
            ModelSource(name).checkpoint.location,
        ]


def test_names_of_backends() -> None:
    """The names that are checked before PyTorch is imported are those that there are."""
    assert tuple(BACKENDS) == BACKEND_NAMES
