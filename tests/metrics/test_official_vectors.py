"""Scores that the official scorers gave: published ones, and worked examples beside the repository where they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lcbench.metrics import score_corpus, score_example
from tests.helpers import REPOSITORY

EXAMPLES = REPOSITORY.parent / "shared" / "data" / "scorer_examples.json"
VECTORS: list[dict[str, Any]] = json.loads(EXAMPLES.read_text())["vectors"] if EXAMPLES.exists() else []

# The three examples in the docstring of the SCROLLS metric, metrics/scrolls.py of tau/scrolls.
PREDICTIONS = ["exact match example", "hello there", "general kenobi"]
REFERENCES = [["exact match example"], ["hello", "hi there"], ["commander kenobi"]]


@pytest.mark.skipif(not VECTORS, reason="needs the worked examples beside the repository")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_worked_example(vector: dict[str, Any]) -> None:
    name = f"{vector['suite']}/{vector['task']}"
    scored = score_example(name, vector["prediction"], vector["references"])
    assert scored["score"] == vector["score"]
    assert {part: scored[part] for part in vector["parts"]} == vector["parts"]
    if "score_chunkllama_copy" in vector:
        assert scored["score_chunkllama_copy"] == vector["score_chunkllama_copy"]
    corpus = score_corpus(name, [vector["prediction"]], [vector["references"]])
    assert corpus == {part: scored[part] for part in corpus if part in scored} | {
        part: vector["score"] for part in corpus if part.startswith("turn_")
    }


@pytest.mark.parametrize("task", ["gov_report", "qmsum", "summ_screen_fd"])
def test_published_rouge(task: str) -> None:
    parts = {"rouge1": 72.2222, "rouge2": 33.3333, "rougeL": 72.2222, "geometric_mean": 55.8136}
    assert score_corpus(f"scrolls/{task}", PREDICTIONS, REFERENCES) == {"score": 55.8136, **parts}


@pytest.mark.parametrize("task", ["contract_nli", "quality"])
def test_published_exact_match(task: str) -> None:
    assert score_corpus(f"scrolls/{task}", PREDICTIONS, REFERENCES) == {
        "score": 33.3333,
        "exact_match": 33.3333,
        "score_corrected": 33.3333,
    }


@pytest.mark.parametrize("task", ["narrative_qa", "qasper"])
def test_published_f1(task: str) -> None:
    assert score_corpus(f"scrolls/{task}", PREDICTIONS, REFERENCES) == {
        "score": 72.2222,
        "f1": 72.2222,
        "score_corrected": 72.2222,
    }
