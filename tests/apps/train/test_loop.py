from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lcbench.apps.train import loop
from lcbench.apps.train.checkpoint import CHECKPOINT, CURVE, LOG, RECIPE
from lcbench.apps.train.folder import LOCK
from lcbench.apps.train.loop import Schedule, step_seed
from lcbench.core.errors import UserError
from lcbench.core.locks import locked
from tests.apps.train.tiny import SCHEDULE, Counting, tiny_model, train, train_without_dropout
from tests.helpers import REPOSITORY


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def assert_same_weights(one: Path, other: Path) -> None:
    assert weights(one).keys() == weights(other).keys()
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(one).items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(folder)
    return folder


def test_the_loss_falls_and_the_folder_loads_again(finished: Path) -> None:
    losses = [line["loss"] for line in logged(finished)]
    assert losses[-1] < losses[0] - 0.5
    model = AutoModelForCausalLM.from_pretrained(finished)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        before = tiny_model().eval()(ids, labels=ids).loss
        after = model(ids, labels=ids).loss
    assert after < before - 0.5


def test_what_a_run_leaves_behind(finished: Path) -> None:
    assert [line["step"] for line in logged(finished)] == list(range(1, 25))
    assert all(line.keys() == {"step", "loss", "learning_rate", "seconds"} for line in logged(finished))
    assert (finished / CURVE).read_bytes().startswith(b"\x89PNG")
    assert not (finished / CHECKPOINT).exists()
    recipe = json.loads((finished / RECIPE).read_text())
    assert recipe["options"]["seed"] == 0
    assert recipe["options"]["schedule"]["learning_rate"] == 5e-3
    assert recipe["finished"]["tokens"] == 24 * 64
    assert recipe["finished"]["seconds"] > 0
    assert recipe["finished"]["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize("fails_at", [3, 10, 23])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, finished: Path, fails_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", Counting(fails_at=fails_at))
    objective = Counting()
    train(tmp_path / "run", objective)
    assert objective.calls == 24 - fails_at // 5 * 5
    assert_same_weights(tmp_path / "run", finished)
    assert [(line["step"], line["loss"]) for line in logged(tmp_path / "run")] == [
        (line["step"], line["loss"]) for line in logged(finished)
    ]


@pytest.mark.slow
def test_runs_killed_at_any_moment_end_with_the_same_weights(tmp_path: Path, finished: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.apps.train.killed_fit", str(tmp_path / "run"), "6"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "24"
    assert_same_weights(tmp_path / "run", finished)


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    objective, notes = Counting(), Notes()
    before = (finished / "model.safetensors").stat().st_mtime_ns
    train(finished, objective, progress=notes)
    assert objective.calls == 0
    assert (finished / "model.safetensors").stat().st_mtime_ns == before
    assert notes.said == [f"{finished} is finished already."]


def test_a_folder_of_another_run_is_refused(finished: Path) -> None:
    with pytest.raises(UserError, match=r"holds another run \(it differs in seed\); pass another --out"):
        train(finished, recipe={"kind": "test", "seed": 1})
    with pytest.raises(UserError, match="differs in schedule"):
        train(finished, schedule=replace(SCHEDULE, steps=25))
    with pytest.raises(UserError, match="differs in precision"):
        train(finished, precision="no")


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than a training run"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_one_writer_a_folder(tmp_path: Path) -> None:
    lock = locked(tmp_path / LOCK)
    with pytest.raises(UserError, match="another lcbench is writing"):
        train(tmp_path)
    os.close(lock)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", Counting(fails_at=7))
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(UserError, match="is not a checkpoint of this model; delete the folder"):
        train(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    class Exploding(Counting):
        def __call__(self, model, step):
            return super().__call__(model, step) * (float("nan") if step >= 12 else 1)

    with pytest.raises(UserError, match=r"the loss of step 13 is nan; try a lower learning rate"):
        train(tmp_path / "run", Exploding())
    assert [line["step"] for line in logged(tmp_path / "run")] == list(range(1, 11))


def test_weight_decay_is_for_matrices_only(tmp_path: Path) -> None:
    class Flat(Counting):
        def __call__(self, model, step):
            return super().__call__(model, step) * 0

    before = {name: weight.clone() for name, weight in tiny_model().named_parameters()}
    model = train(tmp_path, Flat(), Schedule(1, 0.1, warmup=0, shape="constant", weight_decay=0.5))
    for name, weight in model.named_parameters():
        kept = 1.0 if "norm" in name or "embed" in name else 1 - 0.1 * 0.5
        torch.testing.assert_close(weight, before[name] * kept)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    model = tiny_model()
    model.model.layers[0].requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    loop.fit(model, Counting(), SCHEDULE, tmp_path / "run", recipe={"seed": 0})
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("model.layers.0.")


def test_without_a_compiler_it_trains_all_the_same_and_says_so(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments, **options):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    notes = Notes()
    train(tmp_path / "run", progress=notes, compile_decoder=True)
    assert notes.said == ["training without torch.compile, at about half the speed: No working C++ compiler found"]
    assert_same_weights(tmp_path / "run", finished)
    assert notes.steps == list(range(1, 25))


def test_learning_rates() -> None:
    linear = Schedule(100, 2.0, warmup=10)
    assert [linear.rate(step) for step in (0, 4, 9, 50, 74)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert [linear.rate(step) for step in (75, 90, 99)] == pytest.approx([2.0, 0.8, 0.08])
    cosine = Schedule(100, 2.0, warmup=0, shape="cosine")
    assert [cosine.rate(step) for step in (0, 50, 100)] == pytest.approx([2.0, 1.1, 0.2])
    assert Schedule(100, 2.0, warmup=0, shape="constant").rate(99) == 2.0


def test_step_seeds_are_all_different() -> None:
    seeds = {step_seed(seed, step, process) for seed in range(3) for step in range(100) for process in range(4)}
    assert len(seeds) == 1200


@pytest.mark.slow
def test_two_processes_train_on_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """Each sees documents of its own; together they end as one process that sees both."""

    class Both(Counting):
        def __call__(self, model, step):
            losses = []
            for process in (0, 1):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("tests.apps.train.tiny.process_index", lambda process=process: process)
                    losses.append(super().__call__(model, step))
            return sum(losses) / 2

    result = subprocess.run(
        [sys.executable, "-m", "tests.apps.train.tiny", str(tmp_path / "two")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    train_without_dropout(tmp_path / "one", Both())
    one = weights(tmp_path / "one")
    assert json.loads((tmp_path / "two" / RECIPE).read_text())["options"]["processes"] == 2
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, one[name], rtol=1e-4, atol=1e-5)


class Notes:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []

    def start(self, steps: int, done: int) -> None: ...

    def step(self, done: int, loss: float, tokens_per_second: float) -> None:
        self.steps.append(done)

    def note(self, text: str) -> None:
        self.said.append(text)

    def finish(self) -> None: ...
