"""Whole or not at all, never other data unasked, and errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.core.locks import locked
from lcbench.data import hub, load_document, load_rows
from lcbench.data.hub import Snapshot
from lcbench.data.raw_file import sha256
from lcbench.data.schema import FileFacts
from lcbench.data.store import read_manifest
from lcbench.data.write import Writer
from tests.data.sources import BOOK, scrolls_row, write_jsonl, write_parquet, write_zip
from tests.helpers import cli


def books(path: Path, count: int = 3, **changes: Any) -> Path:
    rows = [
        BOOK | {"url": f"http://www.gutenberg.org/ebooks/{n}", "text": f"Book {n}."} | changes for n in range(count)
    ]
    return write_jsonl(path, rows)


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_manifest_says_where_it_is_from(tmp_path: Path, root: Path) -> None:
    path = books(tmp_path / "books.jsonl")
    cli("data", "prepare", "pg19", "--from", path)
    manifest = read_manifest(root / "pg19")
    assert manifest and manifest.origin == {"path": str(path.resolve())} and manifest.rows == {"test": 3}
    assert manifest.files == {"books.jsonl": FileFacts(sha256=sha256(path), bytes=path.stat().st_size)}
    assert manifest.licence and manifest.licence["name"] == "Apache-2.0" and manifest.documents == 3
    written = {name: entry.sha256 for name, entry in manifest.prepared.items()}
    assert written == {name: sha256(root / "pg19" / name) for name in ("documents.jsonl", "test.jsonl")}


def test_the_same_again_changes_nothing_and_mends_what_was_lost(tmp_path: Path, root: Path) -> None:
    path = books(tmp_path / "books.jsonl")
    cli("data", "prepare", "pg19", "--from", path)
    before = state(root / "pg19")
    assert "prepared already" in cli("data", "prepare", "pg19", "--from", path).out and state(root / "pg19") == before
    (root / "pg19" / "test.jsonl").write_bytes(b"")
    assert "prepared already" not in cli("data", "prepare", "pg19", "--from", path).out
    assert len(load_rows("pg19", "test")) == 3


def test_other_local_files_are_taken_only_when_wanted(tmp_path: Path, root: Path) -> None:
    first, second = books(tmp_path / "a" / "books.jsonl"), books(tmp_path / "b" / "books.jsonl", 4)
    cli("data", "prepare", "pg19", "--from", first)
    before = state(root / "pg19")
    other = cli("data", "prepare", "pg19", "--from", second)
    assert other.code == 2 and "(books.jsonl); pass --update" in other.error and state(root / "pg19") == before
    assert cli("data", "prepare", "pg19", "--update", "--from", second).code == 0
    assert len(load_rows("pg19", "test")) == 4  # and not what an earlier call of this process had open
    assert sorted(path.name for path in root.iterdir()) == [".pg19.lock", "pg19"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_breaks_off_leaves_nothing_or_what_was_there(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def break_off(self: Writer) -> dict[str, int]:
        raise error

    path = books(tmp_path / "books.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_rows", break_off)
        assert cli("data", "prepare", "pg19", "--from", path).code == (130 if error is KeyboardInterrupt else 2)
        assert [path.name for path in root.iterdir()] == [".pg19.lock"]
    cli("data", "prepare", "pg19", "--from", path)
    before = state(root / "pg19")
    monkeypatch.setattr(Writer, "write_rows", break_off)
    cli("data", "prepare", "pg19", "--update", "--from", books(tmp_path / "books.jsonl", 5))
    assert state(root / "pg19") == before and sorted(p.name for p in root.iterdir()) == [".pg19.lock", "pg19"]


@pytest.mark.parametrize("moment", ["write_rows", "between the renames"])
def test_killed_at_the_worst_moment(tmp_path: Path, root: Path, moment: str) -> None:
    """The old data, and nothing half, after a kill that no process can catch; the same command then goes through."""
    cli("data", "prepare", "pg19", "--from", books(tmp_path / "a" / "books.jsonl"))
    newer = books(tmp_path / "b" / "books.jsonl", 6)
    arguments = ["data", "prepare", "pg19", "--update", "--from", str(newer)]
    program = f"""
import os, pathlib, signal, sys
from lcbench.__main__ import main
from lcbench.data.write import Writer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if {moment == "write_rows"}:
    Writer.write_rows = die
else:
    replace = pathlib.Path.replace
    pathlib.Path.replace = lambda self, to: die() if self.name == ".pg19.tmp" else replace(self, to)
sys.argv = ["lcbench", *{arguments!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -9
    if moment == "write_rows":
        assert len(load_rows("pg19", "test")) == 3
    else:
        with pytest.raises(UserError, match="there is no data `pg19`; run `lcbench data prepare pg19`"):
            load_rows("pg19", "test")
    refused = cli(*[argument for argument in arguments if argument != "--update"])
    assert refused.code == 2 and "pass --update" in refused.error and len(load_rows("pg19", "test")) == 3
    assert cli(*arguments).code == 0 and len(load_rows("pg19", "test")) == 6
    assert sorted(path.name for path in root.iterdir()) == [".pg19.lock", "pg19"]


def test_one_at_a_time(tmp_path: Path, root: Path) -> None:
    root.mkdir()
    lock = locked(root / ".pg19.lock")
    done = cli("data", "prepare", "pg19", "--from", books(tmp_path / "books.jsonl"))
    os.close(lock)
    assert done.code == 2 and "another lcbench is preparing" in done.error


def test_two_texts_of_one_id(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "books.jsonl", [BOOK, BOOK | {"text": "Another."}])
    done = cli("data", "prepare", "pg19", "--from", path)
    assert done.code == 2 and "row 2, has another text for the document 77" in done.error


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def error(name: str, content: bytes, data: str = "pg19") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        done = cli("data", "prepare", data, "--from", path)
        assert done.code == 2 and "Traceback" not in done.err
        return done.error

    assert "books.jsonl, line 2, is not JSON" in error("books.jsonl", json.dumps(BOOK).encode() + b"\n{oops\n")
    assert "is not JSON in UTF-8" in error("books.jsonl", b'{"text": "\xff"}\n')
    assert "line 1, is not a JSON object" in error("books.jsonl", b"[1]\n")
    twice = b'{"title": "a", "facts": [{"year": 1, "year": 2}]}'
    assert "line 1, has the key 'year' twice; keep one of them" in error("books.jsonl", twice)
    assert "row 1, has the key 'year' twice" in error("books.json", b"[" + twice + b"]")
    assert "is not a list of rows" in error("books.json", b"{}")
    assert "is not a readable parquet file" in error("books.parquet", b"PAR1 no")
    assert "is not a readable zip archive" in error("qasper.zip", b"PK no", "scrolls/qasper")
    assert "cannot read books.jsonl.gz" in error("books.jsonl.gz", b"no gzip")
    assert "holds no file of pg19" in error("books.txt", b"text")
    assert "has no row of pg19 in a split that is read" in error("train.jsonl", json.dumps(BOOK).encode())
    whole = write_zip(tmp_path / "whole.zip", {"qasper/train.jsonl": [scrolls_row("a", "q\n\n" + "d" * 9999, "o")]})
    torn = bytearray(whole.read_bytes())
    torn[60:70] = bytes(10)
    assert "cannot read qasper.zip/qasper/train.jsonl" in error("qasper.zip", bytes(torn), "scrolls/qasper")
    assert "there is no" in cli("data", "prepare", "pg19", "--from", tmp_path / "nothing").error


def test_names(tmp_path: Path) -> None:
    assert "did you mean 'scrolls'" in cli("data", "prepare", "scrols").error
    assert "did you mean 'scrolls/qasper'" in cli("data", "prepare", "scrolls/qaspar").error
    assert "name that instead of `all`" in cli("data", "prepare", "all", "--from", tmp_path).error


def test_a_known_hash_is_held_against_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "data/test-00000-of-00001-29a571947c0b5ccc.parquet",
        "data/validation-00000-of-00001-0f92e2337f79aeac.parquet",
    )
    forged = write_parquet(tmp_path / "forged.parquet", [BOOK])
    monkeypatch.setattr(hub, "snapshot", lambda where: Snapshot(where.revision, names))
    monkeypatch.setattr(hub, "download", lambda *_: forged)
    done = cli("data", "prepare", "pg19", "--update")
    assert done.code == 2 and f"{names[0]} of emozilla/pg19 is not the file that lcbench knows" in done.error
    with pytest.raises(UserError, match="there is no data"):
        load_rows("pg19", "test")


def test_all_goes_on_past_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"instructions": ["?"], "outputs": ["A"], "input": "text", "source": "s", "evaluation": "e"}
    path = write_jsonl(tmp_path / "any.jsonl", [row])
    monkeypatch.setattr(hub, "snapshot", lambda where: Snapshot("c" * 40, where.files))
    monkeypatch.setattr(hub, "download", lambda *_: path)
    done = cli("data", "prepare", "all")
    assert done.code == 1 and "gsm8k: error:" in done.err and "leval/tv_show_summ: test 1" in done.out
    assert "error" not in done.out and load_document("leval/tpo", str(load_rows("leval/tpo", "test")[0].document_id))


def test_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    cli("data", "prepare", "pg19", "--from", books(tmp_path / "books.jsonl"))
    lines = {
        line.split()[0]: " ".join(line.split()[1:]) for line in cli("data", "list").out.splitlines() if line.strip()
    }
    assert lines["pg19"] == "books, for perplexity test 3 Apache-2.0"
    assert lines["leval/tpo"] == "multiple choice on lectures research use only, commercial use forbidden"
    assert lines["trec"].endswith("none stated, commercial use not granted") and str(root) in cli("data", "list").out
