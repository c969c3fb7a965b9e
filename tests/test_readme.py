"""What the documents say runs, as they say it, and where they point to is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from lcbench.methods import all_methods
from lcbench.methods.base import REGISTRY
from lcbench.tasks import task_files
from tests.helpers import REPOSITORY, Outcome, cli

EXAMPLES = {"lcbench/methods/mirror.py", "lcbench/methods/lantern.py"}  # that readers are told to write
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
DOCUMENTS += [f"docs/{name}.md" for name in ("tasks", "headlines", "performance", "engines", "explain", "tune")]
NEEDS = "# needs "  # the marker of a command for another machine: `# needs the hub`, `# needs a GPU`


def read(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block, in order."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def commands(block: str) -> list[list[str]]:
    """The `lcbench` commands of a block that this machine can run, without the word itself."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lcbench ") and NEEDS not in line]


def inline_commands(text: str) -> list[list[str]]:
    """Those within sentences."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(found)[1:] for found in re.findall(r"`(lcbench (?:run|list|table|show)\b[^`]*)`", outside)]


def run(arguments: list[str]) -> Outcome:
    """A suite with one sample of each of its cells instead of twenty; `test_baseline` runs one whole."""
    of_suite = len(arguments) > 1 and arguments[0] == "run" and "suites" in task_files().get(arguments[1], Path()).parts
    return cli(*arguments, *(["--samples", "1"] if of_suite else []))


def import_block(path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module of its own, as if it stood in a file."""
    path.write_text(content)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS[:4])  # the others take minutes of a core, or need servers
def test_everything_in_a_document_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom: Python is imported, YAML saved under the name that the text gives it, commands are run."""
    monkeypatch.chdir(tmp_path)
    text, methods = read(document), set(all_methods())
    given_names = {suffix: iter(re.findall(rf"\./(\w+\.{suffix})`", text)) for suffix in ("yaml", "jsonl")}
    ran = 0
    try:
        for number, (language, content) in enumerate(blocks(text)):
            if language == "python":
                import_block(tmp_path / f"{Path(document).stem.lower()}_{number}.py", content, monkeypatch)
                ran += 1
            elif language in given_names:
                (tmp_path / next(given_names[language])).write_text(content)
            for arguments in commands(content) if language in ("bash", "sh", "") else []:
                outcome = run(arguments)
                assert outcome.code == 0, (arguments, outcome.err)
                ran += 1
        for arguments in inline_commands(text):
            outcome = run(arguments)
            assert outcome.code == 0, (arguments, outcome.err)
            ran += 1
    finally:
        for name in REGISTRY.keys() - methods:
            del REGISTRY[name]
    assert ran >= 2


def test_commands_are_found() -> None:
    text = (
        "x\n```bash\nlcbench run a  # more\nlcbench run b  # needs a GPU\nmake demo\n```\nand `lcbench list tasks`.\n"
    )
    ((language, content),) = blocks(text)
    assert (language, commands(content), inline_commands(text)) == ("bash", [["run", "a"]], [["list", "tasks"]])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    targets = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
    named = re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", read(document), re.MULTILINE)
    assert {first or second for first, second in named} <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    text = read(document)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in local:
        path, _, anchor = target.partition("#")
        assert not path or ((REPOSITORY / document).parent / path).exists(), target
        assert not anchor or path or anchor in headings, target
    for path in re.findall(r"`((?:lcbench|tests|tasks|benchmarks)/[\w/]+\.\w+)`", text):
        assert (REPOSITORY / path).exists() or path in EXAMPLES, path


def test_every_method_and_option_is_in_the_readme() -> None:
    rows = {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` \|.*$", read("README.md"), re.MULTILINE)}
    for name, cls in all_methods().items():
        for field in fields(cls):
            assert f"`{field.name}`" in rows[name], (name, field.name)


def test_no_machine_of_ours_is_named() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(rb"/(?:work|tmp/venv|root|home/\w+)\b")
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if path.is_file() and path.suffix != ".safetensors" and path != Path(__file__):
            assert not home.search(path.read_bytes()), name
