"""Files and numbers without end, as people or scripts make them: refused in a sentence, within a second or two."""

from __future__ import annotations

import gzip
import os
import time
import zipfile
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.data import raw_file
from lcbench.data.raw import expand, read_rows
from lcbench.data.raw_file import RawFile
from lcbench.results.records import MANIFEST, RECORDS
from tests.helpers import Outcome, cli
from tests.recorded import record, write

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*arguments: str) -> str:
    begun = time.monotonic()
    shown: Outcome = cli(*arguments)
    assert time.monotonic() - begun < 20  # a second or two on a machine with nothing else to do
    assert shown.code == 2 and shown.error.startswith("error: ") and len(shown.error) < 700
    return shown.error


@pytest.mark.parametrize("seed", ["-1", "9" * 30, str(2**63), "1.5"])
def test_a_seed_has_bounds(seed: str) -> None:
    for verb in ("run", "show"):
        wrong = cli(verb, "passkey", "--seq-len", "256", "--seed", seed)
        assert wrong.code == 2 and "Invalid value for '--seed'" in wrong.err and "Traceback" not in wrong.err
    Path("suite.yaml").write_text(f"seed: {seed}\nruns:\n- task: passkey\n")
    assert "seed must be a whole number" in refused("run", "./suite.yaml")


def test_the_largest_seed_is_one() -> None:
    assert cli("show", "passkey", "--seq-len", "256", "--seed", str(2**63 - 1)).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"family: passkey\n{LAUGHS}protocols: *a11\n", "aliases that stand for more than 200,000 entries"),
        (f"runs: *a11\n{LAUGHS}", "not valid YAML"),
        (f"{LAUGHS}runs: *a11\n", "aliases that stand for more"),
        (f"family: passkey\nprotocols: {'[' * 5000}{']' * 5000}\n", "is nested too deeply"),
        (f"family: passkey\nprotocols: {'[' * 50}{']' * 50}\n", "is nested too deeply"),
        ("family: passkey\nprotocols: &a [*a]\n", "is nested too deeply"),
        (f"family: passkey\nsamples: {'9' * 5000}\n", "is not valid YAML"),
        ("family: passkey\nsamples: 2024-99-99\n", "is not valid YAML: month must be in 1..12"),
        (
            f"family: passkey\nprotocols: {list(range(10_000))}\n",
            "protocols must be a mapping, not [0, 1, 2, 3, 4, 5, ...]",
        ),
        ("family: passkey\n" + "#" * 2**21, "more than 1 MB"),
    ],
)
def test_yaml_that_stands_for_too_much(text: str, said: str) -> None:
    Path("mine.yaml").write_text(text)
    assert said in refused("run", "./mine.yaml")


@pytest.mark.parametrize("arguments", [("run", "./mine.yaml"), ("run", "needle", "--haystack", "mine.txt")])
@pytest.mark.parametrize("device", ["/dev/zero", None])
def test_inputs_without_end(arguments: tuple[str, ...], device: str | None) -> None:
    path = Path(arguments[-1])
    os.mkfifo(path) if device is None else path.symlink_to(device)
    assert "it is a device or a pipe and no file" in refused(*arguments)


@pytest.mark.parametrize("name", [MANIFEST, RECORDS])
@pytest.mark.parametrize("device", ["/dev/zero", None])
def test_a_run_of_devices_hides_no_other(name: str, device: str | None) -> None:
    write(Path("results/good"), record(0))
    write(Path("results/bad"), record(0))
    path = Path("results/bad") / name
    path.unlink()
    os.mkfifo(path) if device is None else path.symlink_to(device)
    assert "it is a device or a pipe and no file" in refused("table", "results/bad")
    shown = cli("list", "runs")
    assert shown.code == 0 and "results/good" in shown.out


@pytest.mark.parametrize("name", [MANIFEST, RECORDS])
def test_a_gigabyte_without_a_line_break(name: str) -> None:
    write(Path("run"), record(0))
    with (Path("run") / name).open("r+b") as file:
        file.truncate(2**30)  # holes: it takes no place on the disk
    said = refused("table", "run")
    assert "more than 64 MB" in said or "line 2, is not a record: it has no end within 64 MB" in said


@pytest.mark.parametrize("name", [MANIFEST, RECORDS])
def test_deep_json(name: str) -> None:
    write(Path("run"), record(0))
    (Path("run") / name).write_text('{"a": ' * 100_000 + "1" + "}" * 100_000 + "\n")
    assert "is not JSON" in refused("table", "run")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--samples", "1" + "0" * 30), "passkey cannot have more than 1,000,000 samples per cell"),
        (("--seq-len", "1e30"), "'1e30' is not a length in tokens"),
        (("--seq-len", "1" + "0" * 30), "is longer than any run"),
        (("--seq-len", "9" * 100_000), "is not a length in tokens"),
    ],
)
def test_numbers_without_measure(option: tuple[str, str], said: str) -> None:
    assert said in refused("run", "passkey", *option)


def test_samples_of_a_task_file() -> None:
    text = Path(__file__).parents[2] / "tasks" / "passkey.yaml"
    Path("mine.yaml").write_text(text.read_text().replace("samples: ", "samples: 1000000000000000000000000000000 # "))
    assert "more than 1,000,000 samples" in refused("run", "./mine.yaml")


def zipped(name: str, content: bytes) -> RawFile:
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    (file,) = expand(Path("a.zip"), "a.zip")
    return file


def test_a_zip_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_file, "SMALL", 2**20)
    bomb = b'{"text": "' + b" " * 2**23 + b'"}\n'
    Path("b.jsonl.gz").write_bytes(gzip.compress(bomb))
    for file in (zipped("b.jsonl", bomb), RawFile(Path("b.jsonl.gz"), "b.jsonl.gz")):
        with pytest.raises(UserError, match="unpacks to more than 200 times its size, as a zip bomb does"):
            list(read_rows(file))
    rows = b"".join(b'{"text": "%d"}\n' % number for number in range(80_000))
    assert len(list(read_rows(zipped("c.jsonl", rows)))) == 80_000


def test_an_encrypted_zip() -> None:
    file = zipped("b.jsonl", b'{"text": "x"}\n')
    packed = bytearray(Path("a.zip").read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(signature) + flags] |= 1
    Path("a.zip").write_bytes(packed)
    with pytest.raises(UserError, match=r"cannot read a.zip/b.jsonl: .*is encrypted.*; unpack it and give the folder"):
        list(read_rows(file))


def test_rows_that_are_nested_too_deeply() -> None:
    Path("a.jsonl").write_text('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(UserError, match="line 1, is nested too deeply"):
        list(read_rows(RawFile(Path("a.jsonl"), "a.jsonl")))


def test_a_list_of_runs_shows_names_as_they_are() -> None:
    """Neither markup of rich nor what a terminal obeys."""
    for name in ("[red]run", "[bold]", "\x1b[2Jrun"):
        write(Path("results") / name, record(0))
    shown = cli("list", "runs")
    assert shown.code == 0 and "\x1b" not in shown.out
    assert all(f"results/{name}" in shown.out for name in ("[red]run", "[bold]", "\\x1b[2Jrun"))
