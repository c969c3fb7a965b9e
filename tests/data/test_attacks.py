"""Files that people name as texts, rows, documents and sources, and that are something else: refused, or read."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lcbench.core import files
from lcbench.core.errors import UserError
from lcbench.data import parquet as parquet_rows
from lcbench.data import raw, raw_file
from lcbench.data.raw_file import RawFile
from tests.attacks import ALL, fault, report, some

GOOD = b'{"text": "It rained.", "document": "It rained.", "question": "q", "references": ["a"]}\n'
TASK = """
family: document
data: {name}
prompt: "{{{{ document }}}} {{{{ question }}}}"
scorer: f1
max_new_tokens: 4
"""


def table(**columns: object) -> bytes:
    written = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue()


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return written.getvalue()


def flagged(content: bytes) -> bytes:
    """The zip, said to be encrypted."""
    packed = bytearray(content)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(signature) + flags] |= 1
    return bytes(packed)


WHOLE = table(text=["It rained."] * 9, document=["d"] * 9, question=["q"] * 9, references=[["a"]] * 9)
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\n",
    "binary": bytes(range(256)) * 9,
    "NULs": b"\0" * 5000,
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "only a byte order mark": b"\xef\xbb\xbf",
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "Latin-1": GOOD.replace(b"rained", b"r\xe9ned"),
    "half a character": GOOD.replace(b"rained", b"\\ud800"),
    "CRLF": GOOD.replace(b"\n", b"\r\n") * 3,
    "CR": GOOD.replace(b"\n", b"\r") * 3,
    "line separators": GOOD.replace(b"rained", "a\u2028b\u0085c".encode()),
    "cut off": (GOOD * 3)[:-20],
    "deep": b"[" * 100_000,
    "deep mappings": b'{"text":' * 50_000,
    "a long number": b'{"text": ' + b"9" * 5000 + b"}\n",
    "a long line": b'{"text": "' + b"a b " * 600_000 + b'"}\n',
    "one long word": b"a" * 300_000,
    "another type": b'{"text": 3, "document": {"a": 1}, "question": [], "references": {"b": 2}}\n',
    "null": b"null\n" * 3,
    "a list": b'["a", "b"]\n',
    "commas": b",,,\n,,\n,,,,,,\n",
    "quotes": b'text,question\n"a,b\n',
    "NaN": b'{"text": NaN, "references": [Infinity]}\n',
    "parquet": WHOLE,
    "parquet, cut": WHOLE[: len(WHOLE) // 2],
    "parquet, no start": b"XXXX" + WHOLE[4:],
    "parquet, no end": WHOLE[:-4] + b"XXXX",
    "parquet, no footer": WHOLE[:4] + b"\0" * (len(WHOLE) - 8) + WHOLE[-4:],
    "parquet, long footer": WHOLE[:-8] + b"\xff\xff\xff\x7f" + WHOLE[-4:],
    "parquet, nested": table(text=[{"a": [{"b": ["x"]}]}], references=[[["a"]]]),
    "parquet, other types": table(text=[b"\xff\xfe"], references=[1.5], document=[None]),
    "parquet, no rows": table(text=pyarrow.array([], pyarrow.string())),
    "parquet, no columns": table(),
    "a zip": zipped(a__jsonl=GOOD, b__txt=b"x"),
    "a zip of nothing": zipped(),
    "a zip of itself": zipped(a__zip=zipped(a__jsonl=GOOD)),
    "a zip, cut": zipped(a__jsonl=GOOD * 99)[:-30],
    "a zip, encrypted": flagged(zipped(a__jsonl=GOOD)),
    "a zip of a way out": zipped(**{"../../a.jsonl": GOOD, "/etc/a.jsonl": GOOD}),
    "a zip bomb": zipped(a__jsonl=b'{"text": "' + b" " * 2**23 + b'"}\n'),
    "a gzip": gzip.compress(GOOD),
    "a gzip, cut": gzip.compress(GOOD * 99)[:-9],
    "a gzip bomb": gzip.compress(b" " * 2**23),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n<</Type/Catalog/Pages 1 0 R>>\nendobj\ntrailer<</Root 1 0 R>>\n",
    "a PDF, cut": b"%PDF-1.7\n",
    "HTML": b"<!doctype html><title>404</title>",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
}


def _places() -> dict[str, Callable[[Path], None]]:
    """What stands at a path and is not a file with content."""

    def loop(path: Path) -> None:
        path.symlink_to(path.name)

    def hole(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(2**31)

    def folder_of_loops(path: Path) -> None:
        path.mkdir()
        (path / "again").symlink_to("..")
        (path / f"a{path.suffix}").symlink_to(f"a{path.suffix}")

    def locked(path: Path) -> None:
        path.write_bytes(GOOD)
        path.chmod(0)

    def device(name: str, path: Path) -> None:
        path.symlink_to(name)

    return {
        "nothing there": lambda path: None,
        "a folder": Path.mkdir,
        "a folder of loops": folder_of_loops,
        "a loop": loop,
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a pipe": os.mkfifo,
        "2 GB of holes": hole,
        "no permission": locked,
        **{
            name: partial(device, name) for name in ("/dev/zero", "/dev/null", "/dev/random", "/dev/full", "/dev/stdin")
        },
    }


# Where a file is named, by the suffixes that are read there.
USES: dict[str, tuple[tuple[str, ...], Callable[[str], tuple[str, ...]]]] = {
    "a task's rows": ((".jsonl", ".json", ".csv", ".parquet"), lambda name: ("run", "mine.yaml", "--dry-run")),
    "a haystack": (
        (".txt", ".jsonl", ".parquet"),
        lambda name: ("show", "needle", "--haystack", name, "--seq-len", "600"),
    ),
    "RULER's questions": ((".json",), lambda name: ("show", f"ruler/qa:source={name}", "--seq-len", "1k")),
    "a document": ((".txt", ".pdf"), lambda name: ("ask", name, "Why?")),
    "a source": (
        (".zip", ".jsonl", ".jsonl.gz", ".parquet", ".json"),
        lambda name: ("data", "prepare", "scrolls/qasper", "--from", name),
    ),
    "text to train on": ((".txt", ".jsonl", ".parquet"), lambda name: ("train", "lm", "--out=trained", "--text", name)),
    "rows to train on": ((".jsonl", ".parquet"), lambda name: ("train", "instruct", "--out=trained", "--data", name)),
    "a task": ((".yaml",), lambda name: ("run", f"./{name}", "--dry-run")),
    "a model": (("",), lambda name: ("show", "passkey", "--model", f"./{name}")),
    "a run": (("",), lambda name: ("table", name)),
}
Case = tuple[str, str, tuple[str, ...], Callable[[Path], None]]


def cases() -> Iterator[Case]:
    """(what is wrong, the file's name, the command, what makes the file)."""
    for use, (suffixes, command) in USES.items():
        for suffix in suffixes:
            name = f"given{suffix}"
            for what, content in CONTENTS.items():
                yield f"{use}{suffix}: {what}", name, command(name), lambda path, c=content: path.write_bytes(c)
            for what, make in _places().items():
                yield f"{use}{suffix}: {what}", name, command(name), make


@pytest.mark.parametrize("count", [20, ALL])
def test_no_source_ends_in_a_traceback(count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, or read; within seconds, whatever it is."""
    monkeypatch.setattr(raw_file, "SMALL", 2**20)
    monkeypatch.setattr(files, "LONGEST_LINE", 2**20)
    for work in ("lm.fit", "instruct.fit"):
        monkeypatch.setattr(f"lcbench.apps.train.{work}", lambda *_, **__: Path("nothing"))
    monkeypatch.setattr("lcbench.cli.models._answer", lambda *_, **__: None)
    found, chosen = dict[Any, str](), some(list(cases()), count)
    for number, (what, name, command, make) in enumerate(chosen):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setenv("LCBENCH_DATA", str(place / "data"))
        Path("mine.yaml").write_text(TASK.format(name=name))
        make(Path(name))
        if wrong := fault(*command):
            found[what] = wrong[:300]
    report(len(chosen), found)


@pytest.mark.parametrize("name", ["/dev/zero", None])
def test_a_source_without_end(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    path = tmp_path / "given.jsonl"
    os.mkfifo(path) if name is None else path.symlink_to(name)
    assert not fault("data", "prepare", "scrolls/qasper", "--from", path)


def test_bounds_of_whole_files_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 100)
    monkeypatch.setattr(files, "LONGEST_LINE", 50)
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    assert files.read_whole(path) == b"x" * 100
    with path.open("rb") as file, pytest.raises(OSError, match="line 1 has no end within"):
        list(files.bounded_lines(file))
    path.write_bytes(b"x" * 101)
    with pytest.raises(OSError, match="it has more than"):
        files.read_whole(path)
    path.write_text(json.dumps(["a"]) + "\nb")
    with path.open("rb") as file:
        assert list(files.bounded_lines(file)) == [b'["a"]\n', b"b"]


def test_rows_that_a_parquet_file_cannot_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "MOST_ROWS", 100)
    (tmp_path / "a.parquet").write_bytes(table(text=["x"] * 50_000))
    with pytest.raises(UserError, match="it declares 50,000 rows in"):
        list(raw.read_rows(RawFile(tmp_path / "a.parquet", "a.parquet")))
