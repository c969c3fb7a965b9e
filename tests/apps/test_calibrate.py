"""The heads that DuoAttention keeps full, where the answer is known: the embedded model retrieves by one of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from lcbench.apps.calibrate import Calibration, Calibrator
from lcbench.attention.steering import steered_method
from lcbench.methods.duo_attention import DuoAttention
from tests.attention import zoo
from tests.helpers import cli


@pytest.mark.slow
def test_the_head_that_matches_is_found_and_kept(tmp_path: Path) -> None:
    """Layer 1's first: alone it answers as all sixteen do."""
    table = tmp_path / "heads.tsv"
    command = [
        "calibrate",
        "duo_attention:sinks=4,window=24",
        "--seq-len",
        "200",
        "--samples",
        "1",
        "--out",
        str(table),
    ]
    done = cli(*command)
    assert done.code == 0 and done.out.startswith("1 of 16 KV heads keep every key; ")
    assert done.out.rstrip().endswith(f"--method duo_attention:file={table},sinks=4,window=24")
    gates = [[float(gate) for gate in line.split("\t")] for line in table.read_text().splitlines()]
    assert [(layer, head) for layer, row in enumerate(gates) for head, gate in enumerate(row) if gate >= 0.5] == [
        (1, 0)
    ]
    found = DuoAttention(file=str(table)).for_model(zoo.config("LlamaConfig", num_key_value_heads=4))
    assert found.full_heads == ("1:0",)


@pytest.mark.parametrize(("tolerance", "full"), [(0.0, 3), (0.05, 3), (0.1, 2), (0.35, 1), (1.0, 0)])
def test_the_fewest_heads_within_the_tolerance(tolerance: float, full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loss is the sum of what the heads that stream were needed for."""
    needs = {(0, 0): 0.1, (0, 1): 0.0, (1, 0): 0.25, (1, 1): 0.6}

    def scored(model: PreTrainedModel, tokens: list[int], first: int) -> SimpleNamespace:
        method = steered_method(model)
        assert isinstance(method, DuoAttention) and method.full_heads is not None
        lost = sum(need for (layer, head), need in needs.items() if f"{layer}:{head}" not in method.full_heads)
        return SimpleNamespace(nll=torch.tensor([lost + 2.0]))

    monkeypatch.setattr("lcbench.apps.calibrate.score_tokens", scored)
    model = zoo.llama(eos_token_id=None)
    found = Calibrator(model, DuoAttention(), [zoo.tokens(1, 20)[0].tolist()], budget=2).run(tolerance)
    assert found.full == full and found.heads[:3] == ((1, 1), (1, 0), (0, 0))
    assert found.loss <= tolerance + 1e-6


@pytest.mark.parametrize("full", [0, 1, 3, 4])
def test_the_table_says_which_heads_are_full(full: int, tmp_path: Path) -> None:
    heads = ((1, 1), (1, 0), (0, 0), (0, 1))
    (tmp_path / "heads.tsv").write_text(Calibration(heads, full, 0.0).table())
    found = DuoAttention(file=str(tmp_path / "heads.tsv")).for_model(zoo.config("LlamaConfig", num_hidden_layers=2))
    assert set(found.full_heads or ()) == {f"{layer}:{head}" for layer, head in heads[:full]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dca"], "dca has nothing to calibrate; duo_attention has: its full heads."),
        (["duo_attention", "--task", "pg19"], "pg19 generates no answers"),
        (["duo_attention", "--out", "missing/heads.tsv"], "there is no folder missing"),
        (["duo_attention", "--model", "lcbench-tyni"], "lcbench-tiny"),
        (["duo_atention"], "did you mean 'duo_attention'?"),
    ],
)
def test_refused(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in arguments else ["--out", "heads.tsv"]
    refused = cli("calibrate", *arguments, *out)
    assert refused.code == 2 and said in refused.error and not list(tmp_path.iterdir())
