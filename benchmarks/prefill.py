"""Prefill on the CPU: each method against the model's own SDPA attention, in one run.

    python benchmarks/prefill.py --lengths 4096,8192,16384 --rounds 5

Variants take turns within a round, so that a noisy machine is noisy for all of them; the table shows medians, the
ratio to native SDPA (median over rounds of the ratio within a round), and the peak memory above that of the loaded
model. The model has the shape of the embedded reference model (or --hidden/--heads) and random weights. A last line of
JSON is for machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before torch starts its threads

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel

from lcbench.attention.steering import Steering
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.methods import parse_method
from lcbench.report.tables import human_bytes

CPU = torch.device("cpu")
NATIVE = "native sdpa"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="4096,8192,16384")
    parser.add_argument("--methods", default="vanilla;self_extend;dca", help="separated by semicolons")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pretraining-length", type=int, default=4096, help="decides the methods' default windows")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    arguments = parser.parse_args()
    model = random_model(arguments.hidden, arguments.heads, arguments.head_dim, arguments.pretraining_length)
    variants = [NATIVE, *arguments.methods.split(";")]
    results = {
        length: measure(model, variants, length, arguments.rounds) for length in map(int, arguments.lengths.split(","))
    }
    show(results, variants)


def random_model(hidden: int, heads: int, head_dim: int, pretraining_length: int) -> PreTrainedModel:
    """Four Llama layers with random float32 weights."""
    config = LlamaConfig(
        vocab_size=1344,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_position_embeddings=pretraining_length,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@torch.no_grad()
def measure(model: PreTrainedModel, variants: list[str], length: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds, median ratio to native, and peak bytes of each variant."""
    ids = torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    peaks: dict[str, int] = dict.fromkeys(variants, 0)
    for turn in range(-1, rounds):  # the first turn warms up
        for variant in variants:
            with contextlib.nullcontext() if variant == NATIVE else Steering(model, parse_method(variant), length):
                reset_peak_memory(CPU)
                before, started = peak_memory(CPU), time.perf_counter()
                model(ids, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
                if turn >= 0:
                    seconds[variant].append(time.perf_counter() - started)
                    peaks[variant] = max(peaks[variant], peak_memory(CPU) - before)
    return {
        variant: {
            "seconds": statistics.median(seconds[variant]),
            "ratio": statistics.median(a / b for a, b in zip(seconds[variant], seconds[NATIVE], strict=True)),
            "peak_bytes": peaks[variant],
        }
        for variant in variants
    }


def show(results: dict[int, dict[str, dict[str, float]]], variants: list[str]) -> None:
    table = Table("variant", *(f"{length:,} tokens" for length in results))
    for variant in variants:
        cells = [row[variant] for row in results.values()]
        table.add_row(
            variant,
            *(f"{c['seconds']:.2f} s  x{c['ratio']:.2f}  +{human_bytes(int(c['peak_bytes']))}" for c in cells),
        )
    Console().print(table)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}))


if __name__ == "__main__":
    main()
