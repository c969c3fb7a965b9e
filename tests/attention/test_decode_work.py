"""What a layer does for one token, counted on PyTorch's meta device: operations on the device, copies to it, and work
on the host that grows with the number of keys. A layer is what a second one adds to the first."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache

import lcbench
from lcbench.apps.bench.shapes import shape_config
from tests.attention.test_prefill_memory import no_numbers

KEYS = 5000
VIEWS = ("view", "unsqueeze", "squeeze", "expand", "slice", "select", "transpose", "t.", "unbind", "detach", "alias")


class Work(NamedTuple):
    """Of a forward pass: kernels on the device, views left out; copies to it from the host; operations on the host over
    as many elements as there are keys; questions to the device, for whose answer the host waits."""

    kernels: int = 0
    copies: int = 0
    long_on_host: int = 0
    questions: int = 0

    def __sub__(self, other: Work) -> Work:
        return Work(*(mine - its for mine, its in zip(self, other, strict=True)))


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        kernels, copies, long_on_host, questions = self.work
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default) and given[0].is_meta:
            self.work = Work(kernels, copies, long_on_host, questions + 1)
            return True
        answer = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(answer) if isinstance(x, Tensor)]
        moves = not func.__name__.startswith(VIEWS)
        on_device = any(x.is_meta for x in made)
        self.work = Work(
            kernels + (moves and on_device),
            copies + (on_device and any(not x.is_meta and x.dim() for x in given)),
            long_on_host + (moves and not on_device and any(x.numel() >= KEYS // 2 for x in [*given, *made])),
            questions,
        )
        return answer


@torch.no_grad()
def step(spec: str | None, layers: int) -> Work:
    """One token after KEYS others and two that warm up; `spec` None: the model's own SDPA."""
    config = shape_config("tiny", layers)
    with no_numbers("matmul"), Counting() as counting:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
            prompt = torch.zeros(1, KEYS, dtype=torch.long)
        held = DynamicCache(config=config)
        with lcbench.extend(model, spec, length=2 * KEYS, attention="matmul") if spec else nullcontext():
            for ids in (prompt, prompt[:, :1], prompt[:, :1]):
                model(ids, past_key_values=held, logits_to_keep=1)
            counting.work = Work()
            model(prompt[:, :1], past_key_values=held, logits_to_keep=1)
            return counting.work


@cache
def a_layer(spec: str | None) -> Work:
    """What a layer adds."""
    return step(spec, 2) - step(spec, 1)


@pytest.mark.parametrize("spec", ["vanilla", "dca:chunk_size=1500", "self_extend:group_size=4", "logn"])
def test_a_layer_leaves_the_host_alone(spec: str) -> None:
    work, native = a_layer(spec), a_layer(None)
    assert (work.copies, work.long_on_host, work.questions) == (0, 0, 0)
    assert native.kernels < work.kernels <= native.kernels + 10  # a piece rotates a new key, too


def test_positions_are_worked_out_once_a_forward_pass() -> None:
    """The positions of the queries and of the new keys are copied, those of all keys compared with the ones so far."""
    work = step("dca:chunk_size=1500", 1)
    assert work.copies <= 2 and work.long_on_host <= 5 and work.questions <= 1
