"""Models whose weights are elsewhere: offloaded to the CPU's or the disk's care, or split over ranks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import lcbench
from tests.attention import zoo

N = 60
METHODS = ["self_extend:group_size=3,neighbor_window=10", "dca:chunk_size=18,max_position=21+yarn:factor=2"]
PLACES = ["cpu", "cpu and buffers", "disk", "device map"]


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(zoo.tokens(2, N)).logits


def place(model: PreTrainedModel, where: str, folder: Path) -> PreTrainedModel:
    if where == "disk":
        disk_offload(model, folder, execution_device=torch.device("cpu"))
    elif where == "device map":
        device_map = {
            "model.embed_tokens": "cpu",
            "model.layers.0": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "disk",
        }
        device_map |= {"model.layers.1": "disk", "model.norm": "cpu"}
        dispatch_model(model, device_map, main_device="cpu", offload_dir=folder, force_hooks=True)
    else:
        cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers="buffers" in where)
    return model


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("spec", METHODS)
def test_offloaded(spec: str, where: str, tmp_path: Path) -> None:
    model = zoo.llama()
    native = logits(model)
    with lcbench.extend(model, spec, length=N):
        expected = logits(model)
    model = place(model, where, tmp_path)
    assert any(weight.device.type == "meta" for weight in model.parameters())
    with lcbench.extend(model, spec, length=N) as steered:
        assert torch.equal(logits(steered), expected)
        ids = steered.generate(zoo.tokens(1, 40), max_new_tokens=5, do_sample=False)
        assert torch.equal(ids, steered.generate(zoo.tokens(1, 40), max_new_tokens=5, do_sample=False, use_cache=False))
    assert torch.equal(logits(model), native)


def parallel_logits(rank: int, checkpoint: str, rendezvous: str, out: str) -> None:
    """One of two ranks, each with half of the heads."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    from transformers.distributed import DistributedConfig

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation="eager", distributed_config=DistributedConfig(tp_plan="auto")
    )
    assert any(type(weight).__name__ == "DTensor" for weight in model.parameters())
    answers = []
    for spec in METHODS:
        with lcbench.extend(model, spec, length=N):
            answers.append(logits(model))
    if rank == 0:
        torch.save([answer.full_tensor() if hasattr(answer, "full_tensor") else answer for answer in answers], out)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_tensor_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.llama()
    model.save_pretrained(tmp_path / "model")
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    torch.multiprocessing.spawn(
        parallel_logits, (str(tmp_path / "model"), str(tmp_path / "rendezvous"), str(tmp_path / "out.pt")), nprocs=2
    )
    for spec, actual in zip(METHODS, torch.load(tmp_path / "out.pt")):
        with lcbench.extend(copy.deepcopy(model), spec, length=N) as single:
            torch.testing.assert_close(actual, logits(single), atol=1e-4, rtol=0)
