"""Bad command lines: each option and argument of each command with what does not belong there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lcbench.cli.app import app
from lcbench.results.push import KEYS
from tests.attacks import ALL, fault, report, some
from tests.helpers import REPOSITORY, TINY
from tests.results.imported.logs import inspect_json, sample

VALUES = (
    # no text, no number, none of that kind, none that anybody means
    "",
    " \t\n",
    "x",
    "--",
    "0",
    "-1",
    "1.5",
    "nan",
    "-inf",
    "1e400",
    "9" * 30,
    "9" * 5000,
    "1_000",
    "\u00b2",
    "1,",
    "2..1",
    "9k..",
    # letters and what is none: half a character, control characters, markup, formats
    "\u65e5\u672c",
    "\u202ex",
    "a\x1b[31mb",
    "\udcff",
    "[/red]",
    "%s{0.x}",
    # specs
    ",",
    ":",
    "=",
    "+",
    "[",
    "[]",
    "a:b",
    "a:b=c",
    "vanilla+",
    "dca:chunk_size=[1",
    "passkey:samples=nan",
    "needle:protocol=[]",
    # paths
    "nowhere/x",
    ".",
    "folder",
    "file",
    "file/x",
    "file.yaml",
    "broken.yaml",
    "loop",
    "a" * 300,
    "a" * 5000,
    "empty.txt",
    "binary.jsonl",
    "broken.parquet",
    "./nowhere",
    "model",
    "~nobody/x",
)
# What only some options could take, by the option.
OWN: dict[str, tuple[str, ...]] = {
    "--sampling": ("temperature", "temperature=nan", "temperature=-1", "temperature=1e400", "temperature=1,top_p=0",
                   "top_k=5", "temperature=1,top_k=1.5", "temperature=1,temperature=2", "x=1"),
    "--endpoint": ("http://", "http://[", "ftp://localhost/v1", "http://localhost:99999/v1", "http://localhost:x/v1",
                   "http://a:b@localhost:1/v1", "http://localhost:1/\x00", "//localhost", "http://\u65e5.invalid/v1"),
    "--adapter": ("folder/", "model/config.json", "rows.jsonl"),
    "--quantization": ("4bit", "8bit", "int8", "16bit"),
    "--chat-option": ("enable_thinking", "enable_thinking=", "messages=1", "a=[", "a={}", "tokenize=true"),
    "--system": ("{{ 1 / 0 }}", "<|endoftext|>", "x" * 100_000),
    "--think-end": ("</think>", "<|endoftext|>"),
    "--too-long": ("cut", "skip", "fail"),
    "--chat": ("auto", "on", "off"),
    "--bos": ("auto", "always", "never"),
    "--to": ("wandb", "mlflow", "trackio", "a/b", "a/b/c"),
    "--served-as": ("yarn:factor=4", "yarn:factor=", "model:x"),
    "--engine": ("vllm", "lcbench"),
    "--device": ("cpu:99", "cuda:99", "mps", "meta"),
    "--tolerance": ("1e-300", "inf"),
}  # fmt: skip
SERVED = ["passkey", "--dry-run", "--seq-len=150", "--samples=1", "--model=model", "--endpoint=http://localhost:1/v1"]
BASES: dict[str, list[str]] = {
    "run": ["passkey", "--dry-run", "--seq-len=150", "--samples=1"],
    "table": ["mine"],
    "plot": ["passkey", "--run=mine", "--out=x.svg"],
    "compare": ["mine", "mine"],
    "report": ["mine", "--out=x.html"],
    "rescore": ["mine"],
    "export": ["mine", "--out=x.parquet"],
    "import": ["log.json", "--output=imported"],
    "push": ["mine", "--to=nobody/nothing"],
    "show": ["passkey", "--seq-len=200"],
    "list": ["methods"],
    "ask": ["book.txt", "Why?", "--model=lcbench-tiny"],
    "convert": [str(TINY), "--out=converted"],
    "calibrate": ["duo_attention:sinks=4,window=16", "--out=heads.txt", "--samples=1"],
    "tune": ["yarn", "--seq-len=150", "--budget=1"],
    "explain": ["pg19", "--out=x.html"],
    "longppl": ["mine", "mine"],
    "bench": ["--shape=tiny", "--layers=1", "--seq-len=64", "--what=attention", "--rounds=1"],
    "data prepare": ["scrolls/qasper", "--from=folder"],
    "data list": [],
    "train reference": ["--out=trained"],
    "train fot": ["--out=trained", "--memory-layers=1", "--text=book.txt", "--steps=1"],
    "train instruct": ["--out=trained", "--data=rows.jsonl", "--steps=1"],
    "train lm": ["--out=trained", "--text=book.txt", "--seq-len=64", "--steps=1"],
}


def commands(command: Any, *names: str) -> Iterator[tuple[str, list[Any]]]:
    """The commands below one, by name, and their parameters."""
    if not hasattr(command, "commands"):
        yield " ".join(names), command.params
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *names, name)


def command_lines() -> Iterator[list[str]]:
    for name, params in commands(typer.main.get_command(app)):
        if name == "lm-eval":  # its options are those of another program
            continue
        base, at = BASES[name], 0
        yield [*name.split(), "--nothing"]
        yield [*name.split(), *base, "too", "many"]
        for param in params:
            if param.param_type_name == "argument":
                for value in VALUES:
                    yield [*name.split(), *base[:at], value, *base[at + 1 :]]
                at += 1
                continue
            option = param.opts[0]
            rest = [word for word in base if word.partition("=")[0] != option]
            yield [*name.split(), *rest, option]
            yield [*name.split(), *rest, f"{option}=1", option, "2"]
            for value in (*VALUES, *OWN.get(option, ())) if not param.is_flag else VALUES[:8]:
                yield [*name.split(), *rest, f"{option}={value}"]
                if name == "run" and option in OWN:
                    yield [*name.split(), *[word for word in SERVED if not word.startswith(f"{option}=")],
                           f"{option}={value}"]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, a model and texts to name; and nothing that was typed is trained, measured or answered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    shutil.copytree(REPOSITORY / "results" / "baselines" / "smoke", "mine")
    shutil.copytree(TINY, "model")
    for folder in ("folder", "x"):
        Path(folder).mkdir()
    Path("folder/notes.tex").write_text("x")
    Path("file").write_text("x")
    Path("book.txt").write_text("It rained. " * 2000)
    Path("rows.jsonl").write_text('{"instruction": "Say yes.", "context": "", "response": "yes"}\n')
    Path("file.yaml").write_text("family: [passkey\n")
    Path("broken.yaml").write_bytes(b"\xff\xfe\x00")
    Path("empty.txt").write_text("")
    Path("binary.jsonl").write_bytes(bytes(range(256)))
    Path("broken.parquet").write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    Path("loop").symlink_to("loop")
    inspect_json(Path("log.json"), [sample(1, "C")])
    for key in KEYS:  # without which nothing is pushed
        monkeypatch.delenv(key, raising=False)

    def nothing(*_: object, **__: object) -> Path:
        return Path("nothing")

    for work in ("train.lm.fit", "train.fot.fit", "train.instruct.fit", "train.reference.fit"):
        monkeypatch.setattr(f"lcbench.apps.{work}", nothing)
    monkeypatch.setattr("lcbench.cli.models._answer", nothing)

    def measured(*_: object) -> None:
        raise typer.Exit

    for work in ("bench.measure.Bench.run", "calibrate.Calibrator.run"):
        monkeypatch.setattr(f"lcbench.apps.{work}", measured)
    return tmp_path


@pytest.mark.parametrize("count", [25, ALL])
def test_no_command_line_ends_in_a_traceback(count: int | None, place: Path) -> None:
    found, chosen = dict[Any, str](), some(list(command_lines()), count)
    for words in chosen:
        if wrong := fault(*words):
            found[" ".join(word[:60] for word in words)] = wrong[:300]
    report(len(chosen), found)


@pytest.mark.parametrize(
    "words",
    [
        ("rescore", "a\x1b[31mb"),
        ("rescore", "\t\n"),
        ("run", "passkey", "--dry-run", f"--model={'a' * 300}"),
        ("table", "loop"),
        ("convert", "model", "--out=file"),
        ("ask", "book.txt", "\udcff", "--model=lcbench-tiny"),
        ("data", "prepare", "scrolls/qasper", "--from=broken.parquet"),
        ("train", "reference", "--out=trained", f"--seed={'9' * 30}"),
        ("train", "instruct", "--out=trained", "--data=rows.jsonl", "--formats=binary.jsonl"),
    ],
)
def test_what_was_found(words: tuple[str, ...], place: Path) -> None:
    Path("\t\n").write_text("x")
    assert not fault(*words)
