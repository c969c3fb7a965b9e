"""Logs damaged in every field: imported or refused, never a traceback, and what is imported is a run."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import ALL, fault, report, some
from tests.results.imported.logs import chosen, generated, header, inspect_zip, lm_eval, results, sample

VALUES = [None, True, -1, 0, 10**30, 1e308, float("nan"), "", "x", "\x1b[2J", "\ud800", "1" * 5000, [], [[]], [None],
          {}, {"a": {"b": []}}, [1, "2"], {"arg_0": 1}]  # fmt: skip
Log = tuple[str, Any]


def changed(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of nested objects replaced by each of VALUES, and left out."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        for other in VALUES:
            yield (*path, key), other
        if isinstance(value, dict | list):
            yield from changed(value, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def cases() -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    whole = {
        "lines": [generated(0, True), generated(1, False)],
        "choices": [chosen(0), chosen(1)],
        "results": results(config={"model": "m", "method": "dca", "method_options": {"a": 1}, "layers_steered": 2}),
        "samples": [sample(1, "C"), sample("two", {"a": 1}, error={"message": "x"})],
        "header": header(),
    }
    for kind, content in whole.items():
        for path, value in changed(content):
            yield kind, content, path, value


def write(kind: str, content: Any) -> str:
    shutil.rmtree("log", ignore_errors=True)
    Path("log").mkdir()
    if kind in ("lines", "choices", "results"):
        lm_eval(Path("log"), [generated(0, True)] if kind == "results" else content)
        if kind == "results":
            next(Path("log").glob("results_*")).write_text(json.dumps(content))
        return "log"
    inspect_zip(Path("log/a.eval"), [sample(1, "C")])
    head, samples = (content, [sample(1, "C")]) if kind == "header" else (header(), content)
    Path("log/a.json").write_text(json.dumps(head | {"samples": samples}))
    return "log/a.json"


@pytest.mark.parametrize("count", [12, ALL])
def test_no_damaged_log_ends_in_a_traceback(count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, tried = dict[Any, str](), some(list(cases()), count)
    for kind, content, path, value in tried:
        log = write(kind, replaced(content, path, value))
        shutil.rmtree("run", ignore_errors=True)
        wrong = fault("import", log, "-o", "run")
        if not wrong and Path("run").exists():
            wrong = fault("table", "run") or fault("compare", "run", "run")
        if wrong:
            found[kind, path, repr(value)[:40]] = wrong[:300]
    report(len(tried), found)
