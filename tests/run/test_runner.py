"""How a run works: prompts are built beside the model's work, and nobody can tell from the records."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lcbench.core.errors import UserError
from lcbench.engine import steered
from lcbench.engine.models import ModelSource
from lcbench.engine.steered import SteeredHost
from lcbench.run import batches, runner
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import SilentProgress
from lcbench.run.requests import Request
from lcbench.tasks import Example
from lcbench.tasks.passkey import Passkey
from tests.helpers import cli, fields_of, records_of


@pytest.fixture
def a_batch_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that begin alike with no other are by themselves, as long ones are."""
    monkeypatch.setattr(batches, "AT_ONCE", 1)


def plan_of(*methods: str, samples: int = 4, seq_lens: tuple[int, ...] = (150,)) -> Plan:
    return make_plan(ModelSource(), [Request("passkey", methods, seq_lens, None, samples)])


@pytest.mark.usefixtures("a_batch_each")
def test_the_next_prompt_is_built_while_the_model_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model waits within its first call until the second prompt is there: it would wait for ever otherwise."""
    plan, built = plan_of("dca:mscale=0.1"), []  # its prompts share nothing
    second_is_there, main = threading.Event(), threading.get_ident()
    example, generate = Passkey.example, steered.generate_together

    def noted(*arguments: Any) -> Example:
        made = example(*arguments)
        built.append(threading.get_ident())
        if len(built) == 2:
            second_is_there.set()
        return made

    def waits(*arguments: Any) -> Any:
        assert second_is_there.wait(60)
        assert len(built) <= 4
        return generate(*arguments)

    monkeypatch.setattr(Passkey, "example", noted)
    monkeypatch.setattr(steered, "generate_together", waits)
    runner.run(plan, tmp_path / "run", SilentProgress())
    assert len(built) == 4 and main not in built and len(set(built)) == 1


@pytest.mark.usefixtures("a_batch_each")
def test_no_more_than_one_batch_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, built, answered, lead = plan_of("dca:mscale=0.1", samples=8), [], [], []
    example, generate = Passkey.example, steered.generate_together

    def noted(*arguments: Any) -> Example:
        built.append(1)
        return example(*arguments)

    def counted(*arguments: Any) -> Any:
        time.sleep(0.05)  # time to build all that is asked for
        lead.append(len(built) - len(answered))
        answered.append(1)
        return generate(*arguments)

    monkeypatch.setattr(Passkey, "example", noted)
    monkeypatch.setattr(steered, "generate_together", counted)
    runner.run(plan, tmp_path / "run", SilentProgress())
    assert len(answered) == 8 and max(lead) == 2  # the one that is asked, and the next


@pytest.mark.usefixtures("a_batch_each")
def test_an_error_of_a_prompt_ends_the_run_at_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, example = plan_of("dca:mscale=0.1"), Passkey.example

    def broken(self: Passkey, cell: Any, sample: int, *rest: Any) -> Example:
        if sample == 2:
            raise UserError("row 3 of the data is broken; mend it.")
        return example(self, cell, sample, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Passkey, "example", broken)
        with pytest.raises(UserError, match="row 3 of the data is broken"):
            runner.run(plan, tmp_path / "run", SilentProgress())
    assert [record["sample"] for record in fields_of(tmp_path / "run")] == [0, 1]
    assert threading.active_count() == 1 or not any("prompts" in thread.name for thread in threading.enumerate())
    runner.run(plan, tmp_path / "run", SilentProgress())
    assert len(fields_of(tmp_path / "run")) == 4


@pytest.mark.parametrize("where", ["disk", "cpu"])
def test_a_model_that_is_spread_answers_as_one_in_its_place(where: str, tmp_path: Path) -> None:
    """As `--device-map auto` places what fits no GPU: layers wait on disk or in RAM, on meta for torch."""
    plan = plan_of("vanilla", "dca:mscale=0.1", seq_lens=(150, 300), samples=2)
    runner.run(plan, tmp_path / "whole", SilentProgress())
    rest = dict.fromkeys(("model.layers.1", "model.layers.3", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    device_map = {"model.embed_tokens": where, "model.layers.0": where, "model.layers.2": where, **rest}

    def load() -> Any:
        model = AutoModelForCausalLM.from_pretrained(ModelSource().checkpoint.location)
        if where == "disk":
            from accelerate import dispatch_model

            dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path / "disk", force_hooks=True)
        else:
            from accelerate import cpu_offload

            cpu_offload(model, execution_device=torch.device("cpu"))
        assert any(weight.device.type == "meta" for weight in model.parameters())
        return model.eval()

    outcome = runner.run(
        plan,
        tmp_path / "spread",
        SilentProgress(),
        lambda: SteeredHost(load(), plan.tokenizer, plan.facts.local.footprint, plan.attention),
    )
    assert not outcome.failed
    assert records_of(tmp_path / "spread") == records_of(tmp_path / "whole")


def test_device_map_auto(tmp_path: Path) -> None:
    arguments = ["run", "passkey", "--seq-len", "150", "--samples", "2", "--output"]
    assert cli(*arguments, tmp_path / "spread", "--device-map", "auto").code == 0
    assert cli(*arguments, tmp_path / "whole").code == 0
    assert records_of(tmp_path / "spread") == records_of(tmp_path / "whole")


def test_the_tokenizer_serves_two_threads() -> None:
    """One thread encodes prompts while the other decodes answers."""
    tokenizer, ends = ModelSource().tokenizer(), threading.Event()
    text = "The harbour was quiet, and 4821 bells rang. " * 40
    ids = tokenizer(text).input_ids
    expected = tokenizer.decode(ids), ids
    wrong: list[Any] = []

    def encode() -> None:
        try:
            while not ends.is_set():
                if tokenizer(text).input_ids != expected[1]:
                    wrong.append("ids")
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        for _ in range(200):
            assert tokenizer.decode(ids) == expected[0]
    finally:
        ends.set()
        thread.join()
    assert not wrong
