"""A training run of a second: a very small Llama, and an objective with random tokens of its own for each step.

    python -m tests.apps.train.tiny OUT

runs it in two processes.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lcbench.apps.train.loop import Schedule, fit, process_index, step_seed

SCHEDULE = Schedule(steps=24, learning_rate=5e-3, warmup=4)


def tiny_model() -> LlamaForCausalLM:
    """Two layers of hidden size 32, with dropout, so that what is random in the model counts too."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


@dataclass
class Counting:
    """Predict the next of tokens that count upwards; stops with an error before step `fails_at`."""

    seed: int = 0
    fails_at: int = -1
    calls: int = 0
    tokens_per_step: int = 64

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        if step == self.fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        rng = random.Random(step_seed(self.seed, step, process_index()))
        ids = (torch.tensor([[rng.randrange(64)] for _ in range(4)]) + torch.arange(17)) % 64
        logits = model(ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def train(out: Path, objective: Any = None, schedule: Schedule = SCHEDULE, **arguments: Any) -> LlamaForCausalLM:
    """A run into `out`, a checkpoint every 5 steps."""
    model = tiny_model()
    fit(
        model,
        objective or Counting(),
        schedule,
        out,
        **{"recipe": {"kind": "test", "seed": 0}, "checkpoint_every": 5} | arguments,
    )
    return model


def train_without_dropout(out: Path, objective: Counting) -> None:
    """A run whose steps are decided by their tokens alone, in full precision."""
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    fit(model, objective, SCHEDULE, out, recipe={"seed": 0}, precision="no")


def main() -> None:
    """Such a run in two processes, forked once all is imported, with what a launcher tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    first = os.fork() == 0
    os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), "0" if first else "1")
    train_without_dropout(Path(sys.argv[1]), Counting())
    torch.distributed.destroy_process_group()
    if not first:
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))


if __name__ == "__main__":
    main()
