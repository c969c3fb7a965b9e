"""One task with its options, the names that other harnesses have for an option, and the needle in a long prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcbench.cli.data import _tasks_without_split
from tests.helpers import cli


def test_one_task_shows_its_protocols_and_options() -> None:
    shown = cli("list", "task", "passkey")
    assert shown.code == 0 and "protocols: " in shown.out and "chunkllama (default)" in shown.out
    assert "longlm" in shown.out and "samples" in shown.out and "as in: lcbench run passkey:protocol=" in shown.out
    assert cli("list", "tasks", "scrolls/qasper").out.startswith("scrolls/qasper: Questions on research papers")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "task"), "name the task"),
        (("list", "task", "paskey"), "did you mean 'passkey'"),
        (("list", "task", "smoke"), "is a suite"),
        (("list", "methods", "dca"), "takes no name"),
        (("run", "passkey", "--apply-chat-template"), "use a chat model, or --chat off"),
    ],
)
def test_refusals(arguments: tuple[str, ...], said: str) -> None:
    refused = cli(*arguments)
    assert refused.code == 2 and said in refused.error


@pytest.mark.parametrize("option", ["--samples", "--limit", "--num-samples"])
def test_samples_by_the_names_of_other_harnesses(option: str) -> None:
    done = cli("run", "passkey", "--seq-len", "150", option, "3", "--dry-run")
    assert done.code == 0 and "1 cell, 3 samples" in done.out and "note: estimated time: " in done.err


def test_the_needle_is_always_shown() -> None:
    for depth in ("0", "0.5", "1"):
        shown = cli("show", "passkey", "--seq-len", "4k", "--depth", depth)
        answer = shown.err.rpartition("answer ")[2].split(",")[0].strip("'")
        assert answer in shown.out and "characters more: --full" in shown.out
        assert len(shown.out) < 4000
    assert "the needle is above" in cli("show", "passkey", "--seq-len", "4k", "--depth", "0.5").out
    assert "needle is above" not in cli("show", "passkey", "--seq-len", "4k", "--depth", "0.5", "--full").out


def test_tasks_that_lack_a_split() -> None:
    assert _tasks_without_split("scrolls/qasper", {"train": 3}) == {"scrolls/qasper": ["validation"]}
    assert _tasks_without_split("scrolls/qasper", {"validation": 3}) == {"scrolls/qasper": ["train"]}
    assert _tasks_without_split("scrolls/qasper", {"validation": 3, "train": 1}) == {}


def test_cut_documents_and_short_prompts_are_told(tmp_path: Path) -> None:
    from tests.results.report.samples import record
    from tests.results.report.test_summary import run_folder

    cut = [record(sample=k, details={"cut_tokens": 2300 + k}, prompt_tokens=250) for k in range(3)]
    whole = [record(sample=3, details={"cut_tokens": 0}, prompt_tokens=250)]
    short = [record(seq_len=1024, sample=k, prompt_tokens=90) for k in range(4)]
    shown = cli("table", run_folder(tmp_path / "run", [*cut, *whole, *short])).out.replace("\n", " ")
    assert "passkey at 256: documents were cut in 3 of 4 samples, by 2,301 tokens on average." in " ".join(
        shown.split()
    )
    assert "passkey at 1,024: prompt and answer have 96 tokens on average." in " ".join(shown.split())
    assert "passkey at 256: prompt" not in shown
