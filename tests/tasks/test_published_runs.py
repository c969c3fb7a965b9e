"""GSM8K after the eight published problems, and the suite that repeats a paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcbench.engine.models import ModelSource
from lcbench.methods import parse_method
from lcbench.run.measures.answer import cut
from lcbench.run.requests import read_requests
from lcbench.tasks import Cell, load_task
from tests.helpers import cli


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))


def test_gsm8k() -> None:
    Path("gsm8k").mkdir()
    row = {"question": "Ann has 3 pens and buys 4. How many has she?", "answer": "3 + 4 = <<3+4=7>>7.\n#### 7"}
    for split in ("train", "test"):
        Path(f"gsm8k/{split}.jsonl").write_text(json.dumps(row) + "\n")
    done = cli("data", "prepare", "gsm8k", "--from", "gsm8k")
    assert done.code == 0, done.err
    task, tokenizer = load_task("gsm8k"), ModelSource().tokenizer()
    example = task.example(Cell(4096), 0, tokenizer, 0)
    text = str(tokenizer.decode(example.prompt, skip_special_tokens=True)).strip()
    assert text.startswith("Q: There are 15 trees in the grove.")
    assert text.endswith("23 - 15 is 8. The answer is 8.\n\nQ: Ann has 3 pens and buys 4. How many has she?\nA:")
    assert text.count("Q: ") == text.count("\nA:") == 9 and text.count("The answer is ") == 8
    assert example.prompt.count(tokenizer.bos_token_id) == 1 and example.context == []
    said = " She has 3 + 4 = 7 pens. The answer is 7.\n\nQ: Ben has 9 pens."
    assert task.score(example, cut(said, example.stop)) == {"score": 100.0, "score_corrected": 100.0}
    # The last number is of a problem that the model made up.
    assert task.score(example, said) == {"score": 0.0, "score_corrected": 0.0}


def test_the_suite_of_the_paper() -> None:
    requests, given = read_requests("papers")
    assert given == {"model": "meta-llama/Meta-Llama-3-8B", "references": ("chunkllama", "longllama")}
    shots = {"scrolls/narrative_qa": 0, "scrolls/qasper": 2, "scrolls/quality": 2, "scrolls/qmsum": 1}
    names = [request.task.partition(":")[0] for request in requests]
    assert names == ["pg19", "passkey", *shots]
    for request in requests:
        task = load_task(request.task)
        assert [parse_method(method).name for method in request.methods or ()] == ["vanilla", "pi", "ntk", "dca"]
        assert request.seq_lens and all(length % 1024 == 0 for length in request.seq_lens)
        assert getattr(task, "shots", None) == shots.get(request.task)
    assert requests[0].seq_lens == requests[1].seq_lens == (4096, 8192, 16384, 32768, 65536, 98304)
