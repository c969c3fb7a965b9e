"""Tuning on text through a method: the method is what runs, the loss falls, the result loads again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import lcbench
from lcbench.apps.train.lm import next_token_loss, train_lm
from lcbench.engine.models import ModelSource
from lcbench.tasks.text.books import Book
from tests.apps.train.test_fot import books, losses, small_model
from tests.helpers import cli

__all__ = ["small_model"]


def test_loss_is_the_weighted_mean() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 5, 7, dtype=torch.float64), torch.randint(7, (2, 5))
    weights = torch.tensor([[1.0, 0, 0.5, 0, 2], [0, 0, 0, 0, 1]])
    total = 0.0
    for row in range(2):
        for place in range(5):
            surprise = -logits[row, place].softmax(-1)[targets[row, place]].log()
            total += float(weights[row, place] * surprise)
    assert next_token_loss(logits, targets, weights).item() == pytest.approx(total / 4.5, abs=1e-6)
    assert next_token_loss(logits, targets, torch.zeros(2, 5)) == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return books(tmp_path_factory.mktemp("books"))


@pytest.mark.parametrize("method", ["dca", "self_extend:group_size=4,neighbor_window=16", None])
def test_training_beyond_the_trained_length(
    small_model: ModelSource, text: str, tmp_path: Path, method: str | None
) -> None:
    out = train_lm(
        small_model, tmp_path / "out", text, method=method, length=160, steps=25, learning_rate=0.02, batch=2
    )
    found = losses(out)
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.max_position_embeddings == 64  # the method still needs to know
    with lcbench.extend(model, method or "vanilla", length=160) as extended, torch.no_grad():
        assert extended(torch.arange(3, 163)[None]).logits.isfinite().all()


def test_the_method_is_what_trains(small_model: ModelSource, text: str, tmp_path: Path) -> None:
    """The first losses, of the same text and weights, are those that the methods compute."""
    firsts = {}
    for method in (None, "vanilla", "dca", "rerope:window=8"):
        out = train_lm(small_model, tmp_path / f"{method}"[:4], text, method=method, length=160, steps=1, batch=2)
        firsts[method] = losses(out)[0]
    assert firsts[None] == pytest.approx(firsts["vanilla"], abs=2e-3)  # bfloat16, added up in another order
    assert len(set(firsts.values())) >= 3


def test_fot_leaves_its_options_in_the_config(small_model: ModelSource, text: str, tmp_path: Path) -> None:
    method = "fot:memory_layers=[1],last_context_length=20"
    out = train_lm(small_model, tmp_path / "out", text, method=method, length=160, steps=2, batch=1)
    config = ModelSource(str(out)).config()
    assert (list(config.mem_layers), config.last_context_length) == ([1], 20)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(Book(1).text(120), encoding="utf-8")
    arguments = ("train", "lm", "--text", tmp_path / "book.txt", "--method", "dca", "--seq-len", "512", "--steps", "2")
    done = cli(*arguments, "--batch", "1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (recipe["options"]["method"], recipe["options"]["length"]) == ("dca", 512)
    assert recipe["finished"]["tokens"] == 2 * 512
    failed = cli(*arguments, "--method", "dcaa", "--out", tmp_path / "other")
    assert (failed.code, failed.error) == (2, "error: unknown method 'dcaa'; did you mean 'dca'?")
