"""YAML files of tasks, templates and rows with what does not belong there: a sentence, or a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcbench.tasks import task_files
from tests.attacks import ALL, fault, report, some

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("-inf"),
    10**30,
    "",
    " ",
    "x",
    "x" * 100_000,
    "\u65e5\u672c",
    "\x1b[31m",
    "[/red]",
    "{",
    "}",
    "{key}{key}",
    "{0.__class__}",
    "%s",
    "{{",
    "{{ nothing }}",
    "{% for x in y %}",
    "{% include 'x' %}",
    "(",
    "(?P<a>",
    "nowhere.jsonl",
    ".",
    "vanilla",
    [],
    [[]],
    [None],
    [{}],
    ["x", 3],
    ["{key}"],
    {},
    {"a": {"b": [None]}},
    {"x": 1, 2: None},
    {None: None},
    {1.5: {}},
    [1, [2, [3]]],
)
SUITE = {
    "model": "lcbench-tiny",
    "seed": 0,
    "description": "d",
    "runs": [{"task": "passkey", "methods": ["vanilla"], "seq_len": [150], "depths": [0.5], "samples": 1}],
}
OWN = {
    "family": "document",
    "description": "d",
    "citation": "c",
    "data": "rows.jsonl",
    "prompt": "{{ document }}\n{{ question }}",
    "scorer": "f1",
    "max_new_tokens": 4,
    "samples": 1,
}
FAMILIES = ("passkey", "needle", "ruler/vt", "trec", "pg19")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)  # six levels of nine: half a million words
TEXTS = {
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbffamily: passkey\n",
    "UTF-16": "family: passkey\n".encode("utf-16"),
    "Latin-1": b"family: caf\xe9\n",
    "a NUL": b"family: \0\n",
    "binary": bytes(range(256)),
    "tabs": b"family:\t\tpasskey\n\tx: 1\n",
    "a tag of Python": b"!!python/object/apply:os.system ['true']\n",
    "another tag": b"family: !x passkey\n",
    "a set": b"!!set {family, runs}\n",
    "documents": b"family: passkey\n---\nfamily: passkey\n",
    "a date": b"family: 2001-01-01\n",
    "binary text": b"family: !!binary aGVsbG8=\n",
    "a key twice": b"family: passkey\nfamily: needle\n",
    "an unknown anchor": b"family: *x\n",
    "itself": b"family: &a [*a]\n",
    "a merge of itself": b"&a family: x\n<<: *a\n",
    "like itself": b"like: ./mine.yaml\n",
    "like nothing": b"like: \n",
    "like a list": b"like: [passkey]\n",
    "a list as key": b"family: passkey\n? [1, 2]\n: 3\n",
    "a mapping as key": b"family: passkey\n? {a: 1}\n: 3\n",
    "a number as key": b"family: passkey\n3: 4\n",
    "null as key": b"family: passkey\n~: 4\n",
    "laughs as an option": (BOMB + "family: passkey\n").encode(),
    "a number of 5000 digits": b"family: passkey\nsamples: " + b"9" * 5000,
    "sexagesimal": b"family: passkey\nsamples: 1:30\n",
    "octal": b"family: passkey\nsamples: 0o17\n",
    "infinite": b"family: passkey\nsamples: .inf\n",
}
ROWS = {
    "nothing": b"",
    "empty lines": b"\n\n\n",
    "a byte order mark": b'\xef\xbb\xbf{"document": "d", "question": "q", "references": ["a"]}\n',
    "binary": bytes(range(256)),
    "NULs": b"\0" * 100,
    "Latin-1": b'{"document": "caf\xe9"}\n',
    "UTF-16": '{"document": "d"}\n'.encode("utf-16"),
    "carriage returns": b'{"document": "d", "question": "q", "references": ["a"]}\r\n' * 2,
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "cut off": b'{"document": "d", "question',
    "deep": b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "deep mappings": b'{"a":' * 50_000,
    "a huge number": b'{"document": ' + b"9" * 5000 + b"}\n",
    "a key twice": b'{"document": "d", "document": "e", "references": ["a"]}\n',
    "no fields": b"{}\n",
    "no references": b'{"document": "d", "question": "q"}\n',
    "only the first": b'{"document": "d", "question": "q", "references": ["a"]}\n{}\n',
}
LOOPS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "grows": "{{ 'x' * 10**9 }}",
    "counts": "{{ 10 ** (10 ** 10) }}",
    "recurses": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "is deep": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "looks inside": "{{ ''.__class__.__mro__ }}",
    "prints a bomb": "{{ document.__init__.__globals__ }}",
    "fails": "{{ 1 / 0 }}",
    "includes": "{% include '/etc/passwd' %}",
    "sleeps": "{{ lipsum(n=10**9) }}",
    "cycles": "{{ cycler(*range(9)).next() }}",
}
Case = tuple[str, Callable[[], None]]


def _write(name: str, content: bytes | dict[str, Any]) -> None:
    data = content if isinstance(content, bytes) else yaml.safe_dump(content, allow_unicode=True).encode()
    Path(name).write_bytes(data)


def _rows(content: bytes | Any) -> None:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode() + b"\n"
    Path("rows.jsonl").write_bytes(content)
    _write("mine.yaml", OWN)


def _bad_keys() -> None:
    task = yaml.safe_load(task_files()["needle"].read_text(encoding="utf-8"))
    _write("mine.yaml", changed(task, ("protocols", "single_3", "source"), {"x": 1, 2: None}))


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are, from the top: of lists the first entry."""
    pairs = content.items() if isinstance(content, dict) else list(enumerate(content))[:1]
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    key, rest = path[0], path[1:]
    copied = content.copy()
    copied[key] = changed(content[key], rest, value) if rest else value
    return copied


def cases() -> Iterator[Case]:
    """(what is wrong, what writes mine.yaml)."""
    whole = {name: yaml.safe_load(task_files()[name].read_text(encoding="utf-8")) for name in FAMILIES}
    for name, content in {**whole, "a suite": SUITE, "a task of one's own": OWN}.items():
        for path in places(content):
            for value in VALUES:
                yield f"{name} {path} {value!r:.60}", partial(_write, "mine.yaml", changed(content, path, value))
    for what, text in TEXTS.items():
        yield what, partial(_write, "mine.yaml", text)
    for what, text in ROWS.items():
        yield f"rows: {what}", partial(_rows, text)
    row = {"document": "d", "question": "q", "references": ["a"], "choices": ["a", "b"]}
    for path in places(row):
        for value in VALUES:
            yield f"row {path} {value!r:.60}", partial(_rows, changed(row, path, value))
    for what, template in LOOPS.items():
        yield f"a template that {what}", partial(_write, "mine.yaml", {**OWN, "prompt": template})


@pytest.mark.parametrize("count", [25, ALL])
def test_no_file_ends_in_a_traceback(count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, or planned; and one prompt of it made, where a template or a row may fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("lcbench.tasks.jinja.SECONDS", 0.3)
    found, chosen = dict[Any, str](), some(list(cases()), count)
    for what, write in chosen:
        _rows({"document": "d " * 50, "question": "q", "references": ["a"]})
        write()
        for command in (
            ("run", "mine.yaml", "--dry-run", "--seq-len", "600"),
            ("show", "mine.yaml", "--seq-len", "600"),
        ):
            if wrong := fault(*command):
                found[command[0], what] = wrong[:300]
    report(2 * len(chosen), found)


@pytest.mark.parametrize("case", ["keys", "deep"])
def test_what_was_found(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _bad_keys() if case == "keys" else _rows(ROWS["deep"])
    assert not fault("run", "mine.yaml", "--dry-run", "--seq-len", "600")
