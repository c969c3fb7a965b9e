from __future__ import annotations

import functools
import inspect
import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from lcbench.apps.train import loop, reference
from lcbench.apps.train.documents import Library
from lcbench.apps.train.reference import CURRICULUM, Curriculum, Phase, draw_document, train_reference, weighted_loss
from lcbench.apps.train.start import initial_model
from tests.apps.train.tiny import tiny_model
from tests.helpers import cli

SHORT = (Phase(64, 20, "recall"), Phase(128, 4, "recall_and_facts"))


@pytest.fixture(autouse=True)
def _small_steps_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_compile_decoder", lambda *arguments: None)


@pytest.mark.parametrize("phase", CURRICULUM)
def test_every_document_of_a_phase_fills_the_window(library: Library, phase: Phase) -> None:
    counted = 0
    for seed in range(150):
        document = draw_document(random.Random(seed), phase, library)
        assert len(document.ids) == len(document.weights) == phase.length + 1
        assert 0 <= min(document.ids) <= max(document.ids) < library.size
        counted += sum(weight > 0 for weight in document.weights)
    assert counted > 150 * phase.length / 8


def test_what_a_step_sees_is_decided_by_seed_step_and_process(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Curriculum(CURRICULUM, library, seed=0).documents(1500)
    assert seen == Curriculum(CURRICULUM, library, seed=0).documents(1500)
    assert len(seen) == 4096 // 256
    assert seen != Curriculum(CURRICULUM, library, seed=0).documents(1501)
    assert seen != Curriculum(CURRICULUM, library, seed=1).documents(1500)
    monkeypatch.setattr(reference, "process_index", lambda: 1)
    assert seen != Curriculum(CURRICULUM, library, seed=0).documents(1500)


def test_the_phases_follow_each_other(library: Library) -> None:
    curriculum = Curriculum(CURRICULUM, library, seed=0)
    lengths = [curriculum.phase(step).length for step in (0, 299, 300, 1299, 1300, 4499)]
    assert lengths == [64, 64, 128, 128, 256, 256]
    with pytest.raises(IndexError):
        curriculum.phase(4500)


def test_the_loss_is_the_weighted_mean_of_the_cross_entropies() -> None:
    model = tiny_model().eval()
    rng = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, 64, (3, 20), generator=rng)
    weights_BT = torch.rand(3, 20, generator=rng) * (torch.rand(3, 20, generator=rng) < 0.5)
    losses_BT = functional.cross_entropy(model(ids_BT[:, :-1]).logits.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    expected = (losses_BT * weights_BT[:, 1:]).sum() / weights_BT[:, 1:].sum()
    torch.testing.assert_close(weighted_loss(model, ids_BT, weights_BT), expected)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_compile_decoder", lambda *arguments: None)
        patch.setattr(reference, "Curriculum", functools.partial(Curriculum, tokens_per_step=1024))
        return train_reference(tmp_path_factory.mktemp("runs") / "reference", seed=3, phases=SHORT)


def test_a_short_run_learns_and_loads_again(short: Path, library: Library) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(short), AutoTokenizer.from_pretrained(short)
    assert model.config.max_position_embeddings == 128
    assert len(tokenizer) <= model.config.vocab_size
    unseen = [draw_document(random.Random(seed), SHORT[0], library) for seed in range(100, 150)]
    ids_BT = torch.tensor([document.ids for document in unseen])
    weights_BT = torch.tensor([document.weights for document in unseen])
    with torch.no_grad():
        before = weighted_loss(initial_model(model.config, seed=3, structured=True), ids_BT, weights_BT)
        after = weighted_loss(model, ids_BT, weights_BT)
    assert after < before - 0.05


def test_the_recipe_names_seed_start_and_curriculum(short: Path) -> None:
    options = json.loads((short / "recipe.json").read_text())["options"]
    assert (options["kind"], options["seed"], options["structured_start"]) == ("reference", 3, True)
    assert options["phases"] == [
        {"length": 64, "steps": 20, "mix": "recall"},
        {"length": 128, "steps": 4, "mix": "recall_and_facts"},
    ]
    assert options["schedule"]["steps"] == 24


def test_the_command_takes_out_seed_and_start(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "train_reference", functools.partial(train_reference, phases=SHORT))
    again = cli("train", "reference", "--out", short, "--seed", "3")
    assert again.code == 0
    assert again.out == f"model: {short}\n"
    other = cli("train", "reference", "--out", short, "--seed", "3", "--no-structured-start")
    assert other.code == 2
    assert "holds another run (it differs in structured_start)" in other.error
    assert inspect.signature(train_reference).parameters["phases"].default is CURRICULUM
