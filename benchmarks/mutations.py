"""Do the tests find faults? Each of a table is put into a copy of the repository, and tests run there until one fails.

A test that is made faster, or dropped, must not take with it the only one that would have found a fault. The table is
mutations.yaml beside this file; what only slow tests find, `make test` would not:

    python -m benchmarks.mutations                 # with the tests of `make test`
    python -m benchmarks.mutations --all           # with slow tests as well, as `make test-all`
    python -m benchmarks.mutations rope.py dca.py  # some files only

Exit code 1 if a fault survives. At the end the tests that found one run once without it, and must pass.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist")
PASSED, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
TIMEOUT = 600  # seconds for the tests of one fault, which may be an endless loop


@dataclass(frozen=True)
class Mutation:
    """One fault: in `file`, `new` in place of `old`, which stands there once; `tests` are to find it."""

    file: str
    old: str
    new: str
    fault: str
    tests: str

    def applied(self, text: str) -> str:
        """The file's content with the fault. Raises: ValueError unless `old` stands there exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times, not once: {self.old}")
        return text.replace(self.old, self.new)

    @property
    def paths(self) -> list[str]:
        return [f"tests/{name}" for name in self.tests.split()]


def mutations() -> list[Mutation]:
    return [Mutation(**row) for row in yaml.safe_load(TABLE.read_text(encoding="utf-8"))]


def run_tests(copy: Path, tests: list[str], marks: str) -> tuple[int, str]:
    """The exit code of pytest in a copy of the repository, and what it printed. In a fork of this process, which has
    imported what takes seconds already."""
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if pid == 0:
            signal.alarm(TIMEOUT)
            os.dup2(printed.fileno(), sys.stdout.fileno())
            os.dup2(printed.fileno(), sys.stderr.fileno())
            os.chdir(copy)
            os.environ["PYTHONPATH"] = str(copy)  # of processes that tests start
            sys.path.insert(0, str(copy))
            words = ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", marks, *tests]
            os._exit(pytest.main(words))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        printed.seek(0)
        return status, printed.read().decode(errors="replace")


def preload() -> None:
    """Import what every test wants and no fault is in, as tests/conftest.py has it."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRITON_INTERPRET="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    for name in ("torch", "transformers", "transformers.models.llama.modeling_llama", "hypothesis", "typer", "pandas"):
        importlib.import_module(name)


def try_one(copy: Path, mutation: Mutation, marks: str) -> tuple[str, str]:
    """killed, survived or broken (the tests could not run); and the test that failed first, or the reason."""
    path = copy / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(mutation.applied(text), encoding="utf-8")
    try:
        code, printed = run_tests(copy, mutation.paths, marks)
    finally:
        path.write_text(text, encoding="utf-8")
    found = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", printed, re.MULTILINE)
    if code == FAILED and found:
        return "killed", found[1]
    if code == -signal.SIGALRM:
        return "killed", f"more than {TIMEOUT} s"
    return ("survived", "") if code == PASSED else ("broken", printed.strip().rpartition("\n")[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="*", help="faults in files whose path ends so; default all")
    parser.add_argument("--all", action="store_true", help="with the tests marked slow")
    chosen = parser.parse_args()
    marks = "" if chosen.all else "not slow"
    table = [m for m in mutations() if not chosen.files or m.file.endswith(tuple(chosen.files))]
    verdicts: Counter[str] = Counter()
    finders: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(REPOSITORY, copy, ignore=NOT_COPIED)
        # By hash, not by time: a file that is exchanged within a second is seen to be another.
        compileall.compile_dir(copy / "lcbench", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        preload()
        for mutation in table:
            started = time.monotonic()
            verdict, detail = try_one(copy, mutation, marks)
            verdicts[verdict] += 1
            if verdict == "killed":
                finders[detail] = None
            print(
                f"{verdict:8} {time.monotonic() - started:4.0f} s  {mutation.file}: {mutation.fault}  {detail}",
                flush=True,
            )
        code, printed = run_tests(copy, [name for name in finders if name.startswith("tests/")], marks)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())), f"of {len(table)}")
    if code != PASSED:
        print(f"without a fault the tests that found one do not pass:\n{printed}")
    return int(verdicts["killed"] < len(table) or code != PASSED)


if __name__ == "__main__":
    sys.exit(main())
