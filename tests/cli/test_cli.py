"""What people see: every command, in a pipe and in a terminal, from help to exit codes."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from lcbench.methods import all_methods
from lcbench.results.records import RECORDS, read_manifest
from lcbench.tasks import task_files
from tests.helpers import cli, command, fields_of, lines_of, process, records_of

SMALL = ["run", "passkey", "--seq-len", "150", "--samples", "2"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def the_run(results: str = "results") -> Path:
    (folder,) = Path(results).iterdir()
    return folder


# Refused before anything runs


def test_options_that_a_method_cannot_have_are_refused_before_anything_is_promised() -> None:
    done = cli("run", "passkey", "--method", "vanilla,snapkv", "--seq-len", "256", "--kv-dtype", "float16")
    assert done.code == 2 and "cell" not in done.err and not Path("results").exists()
    assert (
        done.error
        == "error: snapkv reads all keys; it does not support a KV cache in another dtype or on another device."
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("run", "passkey", "-o", ""), "--output"),
        (("import", ""), "FILE_OR_FOLDER"),
        (("report", "results", ""), "RUN"),
        (("table", "--run", ""), "--run"),
        (("train", "lm", "--out", ""), "--out"),
        (("run", "needle", "--haystack", ""), "--haystack"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words: tuple[str, ...], named: str) -> None:
    assert cli(*words).error == f"error: {named} is empty; name a file or folder (the current one is `.`)."


# Lists and show


def test_lists() -> None:
    shown = {what: cli("list", what) for what in ("methods", "tasks", "models")}
    assert {outcome.code for outcome in shown.values()} == {0}
    for name in all_methods():
        assert re.search(rf"^ {name} ", shown["methods"].out, re.MULTILINE)
    for name in task_files():
        assert re.search(rf"^ {name} ", shown["tasks"].out, re.MULTILINE)
    assert "lcbench-tiny" in shown["models"].out and "256 tokens" in shown["models"].out


def test_list_of_runs() -> None:
    assert cli("list", "runs").code == 0
    cli(*SMALL)
    cli(*SMALL, "--seed", "1", "-o", "results/mine")
    shown = cli("list", "runs").out
    assert "results/mine" in shown and shown.count("lcbench-tiny") >= 2


def test_list_of_runs_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole names, newest first; a run of another version hides no other."""
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"passkey-lcbench-tiny-{digit * 8}" for digit in "ba"]
    for name in names:
        cli(*SMALL, "-o", f"results/{name}")
    started = read_manifest(Path("results") / names[0]).content["sessions"][0]["started_at"]
    rows = [line.split() for line in cli("list", "runs").out.splitlines() if "results/" in line]
    assert rows[1] == [f"results/{names[0]}", "lcbench-tiny", "2", *started[:16].split("T")]
    assert [row[0] for row in rows] == [f"results/{name}" for name in reversed(names)]
    manifest = Path("results") / names[1] / "run.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    shown = cli("list", "runs")
    assert shown.code == 0 and names[0] in shown.out
    assert f"note: results/{names[1]} was written by another version of lcbench" in shown.out


def test_show_has_the_prompt_and_its_counts() -> None:
    shown = cli("show", "passkey:protocol=longlm", "--seq-len", "300", "--depth", "1", "--full")
    assert shown.code == 0
    assert "What is the pass key? The pass key is" in shown.out
    found = re.fullmatch(
        r"head (\d+) \+ context (\d+) \+ tail (\d+) \+ answer (\d+) = 300 tokens, needle at depth 1.000, "
        r"answer '(\d{5})', seed \d+\n",
        shown.err,
    )
    assert found and sum(map(int, found.groups()[:4])) == 300
    assert f"The pass key is {found[5]}." in shown.out


def test_show_shortens_long_prompts_unless_told_not_to() -> None:
    short, full = (cli("show", "passkey", "--seq-len", "4k", *more).out for more in ([], ["--full"]))
    assert "characters more: --full" in short and len(short) < 2500
    assert len(full) > 10_000 and full.startswith(short[:500]) and full.endswith(short[-500:])


def test_show_is_what_run_asks() -> None:
    cli("run", "passkey", "--seq-len", "150", "--samples", "3")
    for record in fields_of(the_run()):
        shown = cli("show", "passkey", "--seq-len", "150", "--sample", str(record["sample"]))
        assert f"answer '{record['references'][0]}', seed {record['seed']}" in shown.err


# Runs and tables


def test_run_writes_what_it_says(tmp_path: Path) -> None:
    done = cli(*SMALL, "--method", "vanilla,dca:mscale=0.1", "--method", "self_extend+ntk")
    assert done.code == 0
    folder = the_run()
    assert done.out.splitlines()[-1] == f"records: {folder}"
    assert done.err.splitlines()[0] == "3 cells, 6 samples"
    assert [line.rpartition("  ")[0].split("  ")[:3] for line in done.err.splitlines()[1:]] == [
        ["passkey", "150", method] for method in ("vanilla", "dca:mscale=0.1", "self_extend+ntk")
    ]
    records = lines_of(folder)
    assert sorted(record["id"] for record in records) == sorted(
        f"passkey/{method}/150/uniform/{sample}"
        for method in ("vanilla", "dca:mscale=0.1", "self_extend+ntk")
        for sample in range(2)
    )
    for record in records:
        assert record["prompt_tokens"] + record["max_new_tokens"] == record["seq_len"] == 150
        assert record["error"] is None and record["layers_steered"] == 4
        assert record["scores"] == {"exact_match": float(record["prediction"].strip() == record["references"][0])}
        assert record["cost"]["prefill_seconds"] > 0 and record["cost"]["peak_memory_bytes"] > 2**20
    (dca, _) = (record["method_options"] for record in records if record["method"] == "dca:mscale=0.1")
    assert dca["mscale"] == 0.1 and dca["chunk_size"] == 192
    session = read_manifest(folder).content["sessions"][0]
    assert session["command"] == [
        "lcbench",
        *SMALL,
        "--method",
        "vanilla,dca:mscale=0.1",
        "--method",
        "self_extend+ntk",
    ]
    assert session["versions"]["torch"] == metadata.version("torch") and session["hardware"]["cores"]


def test_running_twice_does_nothing_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cli(*SMALL)
    before = (the_run() / RECORDS).read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("a model is loaded for nothing")

    monkeypatch.setattr("lcbench.engine.models.ModelSource.model", never)
    second = cli(*SMALL)
    assert second.code == 0 and second.out == first.out
    assert "2 of them already recorded" in second.err
    assert (the_run() / RECORDS).read_bytes() == before


def test_the_same_command_in_two_folders_gives_the_same_records() -> None:
    arguments = [*SMALL, "--method", "vanilla,yarn", "--depths", "3"]
    for folder in ("one", "other"):
        assert cli(*arguments, "-o", folder).code == 0
    assert records_of(Path("one")) == records_of(Path("other"))
    identities = [read_manifest(Path(folder)).content["identity"] for folder in ("one", "other")]
    assert identities[0] == identities[1]


def test_more_samples_begin_with_the_same_ones() -> None:
    cli(*SMALL, "-o", "few")
    cli("run", "passkey", "--seq-len", "150", "--samples", "4", "--seed", "0", "-o", "many")
    few, many = records_of(Path("few")), records_of(Path("many"))
    assert len(many) == 4 and few.items() <= many.items()


def test_more_samples_extend_a_run_and_fewer_show_a_part_of_it() -> None:
    cli(*SMALL, "-o", "run")
    longer = cli("run", "passkey", "--seq-len", "150", "--samples", "4", "-o", "run")
    assert longer.code == 0 and "4 samples, 2 of them already recorded" in longer.err
    assert len(fields_of(Path("run"))) == 4
    again = cli(*SMALL, "-o", "run")
    assert "exact match, 2 samples per score" in again.out
    assert len(fields_of(Path("run"))) == 4


def test_depths() -> None:
    assert cli(*SMALL, "--depths", "0,0.5,1").code == 0
    records = fields_of(the_run())
    assert sorted(record["cell_depth"] for record in records) == [0, 0, 0.5, 0.5, 1, 1]
    assert all(abs(record["depth"] - record["cell_depth"]) < 0.35 for record in records)
    assert [record["depth"] for record in records if record["cell_depth"] == 1] == [1.0, 1.0]


def test_a_suite_and_what_the_command_line_changes_of_it() -> None:
    Path("mine.yaml").write_text(
        "seed: 3\nruns:\n"
        "  - {task: passkey, methods: [vanilla, 'dca:chunk_size=100'], seq_len: [150, 160], samples: 1}\n"
        "  - {task: 'passkey:protocol=longlm', seq_len: 150, depths: [0, 1], samples: 2}\n"
    )
    assert cli("run", "mine.yaml", "-o", "whole").code == 0
    assert records_of(Path("whole")).keys() == {
        *(f"passkey/{m}/{n}/uniform/0" for n in (150, 160) for m in ("vanilla", "dca:chunk_size=100")),
        *(f"passkey:protocol=longlm/vanilla/150/{d}/{s}" for d in ("0.0", "1.0") for s in (0, 1)),
    }
    assert read_manifest(Path("whole")).content["identity"]["seed"] == 3
    changes = ["--method", "pi", "--seq-len", "152", "--samples", "1", "--seed", "4", "--depths", "0.5"]
    assert cli("run", "mine.yaml", *changes, "-o", "changed").code == 0
    assert list(records_of(Path("changed"))) == [
        "passkey/pi/152/0.5/0",
        "passkey:protocol=longlm/pi/152/0.5/0",
    ]
    assert read_manifest(Path("changed")).content["identity"]["seed"] == 4


def test_a_task_file_of_ones_own() -> None:
    text = task_files()["passkey"].read_text()
    Path("my key.yaml").write_text(text.replace("The sky is blue.", "Rain falls {mainly} on the plain."))
    assert cli("run", "my key.yaml", "--seq-len", "150", "--samples", "1").code == 0
    assert the_run().name.startswith("my_key-lcbench-tiny-")
    assert "{mainly}" in cli("show", "my key.yaml", "--seq-len", "200").out


def test_dry_run_touches_nothing() -> None:
    shown = cli("run", "passkey", "--method", "vanilla,yarn", "--seq-len", "512,1k", "--samples", "5", "--dry-run")
    assert shown.code == 0 and shown.err.startswith("note: estimated time: ") and shown.err.count("\n") == 1
    assert "4 cells, 20 samples, 15,360 tokens\n" in shown.out
    assert "resolved: yarn:factor=4" in shown.out
    # keys and values of 4 layers, 4 heads, 64 channels, 4 bytes each
    assert f"KV cache up to 8 MiB (vanilla at 1,024 tokens, {2 * 4 * 64 * 4:,} bytes per key and layer)" in shown.out
    assert "while answers are decoded, rotated keys take up to 4 MiB more (vanilla at 1,024 tokens)" in shown.out
    assert not list(Path().iterdir())
    cli("run", "passkey", "--method", "vanilla,yarn", "--seq-len", "512,1k", "--samples", "1")
    assert f"records would go to {the_run()}" in shown.out


def test_table_of_the_newest_run_and_of_a_named_one() -> None:
    cli(*SMALL, "-o", "results/old")
    cli("run", "passkey", "--seq-len", "160", "--samples", "2", "-o", "results/new")
    newest = cli("table")
    assert newest.code == 0 and "160" in newest.out and "150" not in newest.out
    for arguments in (["results/old"], ["--run", "results/old"]):
        assert "150" in cli("table", *arguments).out
    read = list(csv.DictReader(io.StringIO(cli("table", "-f", "csv").out)))
    assert [(line["task"], line["method"], line["seq_len"], line["samples"]) for line in read] == [
        ("passkey", "vanilla", "160", "2")
    ]
    assert cli("table", "--format", "markdown").out.startswith("**passkey: exact match, 2 samples per score")


def test_what_run_prints_is_the_table() -> None:
    assert cli(*SMALL).out.startswith(cli("table").out)


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    done = process(*SMALL, "--method", "vanilla,dca", cwd=tmp_path, TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    assert re.fullmatch(
        r"2 cells, 4 samples\n"
        r"(passkey  150  (vanilla|dca)  exact_match [\d.]+  2 samples  [\d.]+ s(  = vanilla)?\n){2}",
        done.stderr,
    )


@pytest.mark.slow
def test_nobody_reads_on(tmp_path: Path) -> None:
    reader = subprocess.run(
        [
            "bash",
            "-c",
            'set -o pipefail; "$@" | head -n 1',
            "bash",
            *command("show", "passkey", "--seq-len", "32k", "--full"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert reader.stdout.startswith("<|endoftext|>There is an important info") and reader.stdout.count("\n") == 1
    assert "Traceback" not in reader.stderr and "BrokenPipe" not in reader.stderr
    assert reader.returncode == 0


def test_a_haystack_goes_to_the_tasks_of_a_suite_that_take_one(tmp_path: Path) -> None:
    text = " ".join(f"The sky over Oslo was blue on day {n}." for n in range(400))
    Path("essay.txt").write_text(text)
    Path("mine.yaml").write_text(
        "runs:\n  - {task: passkey, seq_len: 256, samples: 1}\n"
        "  - {task: 'needle:protocol=codes', seq_len: 512, depths: [1], samples: 1}\n"
    )
    assert cli("run", "mine.yaml", "--haystack", "essay.txt", "-o", "run").code == 0
    names = {record["task"] for record in fields_of(Path("run"))}
    assert names == {"passkey", "needle:haystack=essay.txt,protocol=codes"}
    refused = cli("run", "passkey", "--haystack", "essay.txt")
    assert refused.code == 2 and "passkey takes no --haystack; tasks that take one: babilong/qa1, " in refused.error
    assert "vt" not in refused.error and cli("show", "passkey", "--haystack", "essay.txt").error == refused.error


def test_the_folder_of_a_suite_names_a_few_tasks() -> None:
    runs = "".join(f"  - {{task: 'passkey', seq_len: {n}, samples: 1}}\n" for n in (150,))
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        Path(f"{name}.yaml").write_text("like: passkey\n")
        runs += f"  - {{task: {name}.yaml, seq_len: 150, samples: 1}}\n"
    Path("mine.yaml").write_text(f"runs:\n{runs}")
    shown = cli("run", "mine.yaml", "--dry-run")
    assert "results/passkey-a-b-3_more-lcbench-tiny-" in shown.out.replace("\n", "")
