"""The keys that lcbench keeps are those that kvpress keeps: SnapKV, Knorm and expected attention on the embedded model.

    python -m benchmarks.kvpress_parity                            # makes a virtual environment, with network
    python -m benchmarks.kvpress_parity --python ENV/bin/python    # of an environment that has kvpress

kvpress pins an older transformers, so that it runs in an environment and a process of its own, given the same model and
the same prompts. Exit code 1: some prompt, layer or head keeps other keys.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

KVPRESS = "kvpress==0.5.5"
PRESSES = {
    "snapkv:compression_ratio=0.5,window_size=64": "SnapKVPress(compression_ratio=0.5)",
    "snapkv:compression_ratio=0.9,window_size=16,kernel_size=7": (
        "SnapKVPress(compression_ratio=0.9, window_size=16, kernel_size=7)"
    ),
    "knorm:compression_ratio=0.7": "KnormPress(compression_ratio=0.7)",
    "expected_attention:compression_ratio=0.5": "ExpectedAttentionPress(compression_ratio=0.5)",
    "expected_attention:compression_ratio=0.8,use_covariance=false,epsilon=0.02,n_future_positions=64": (
        "ExpectedAttentionPress(0.8, use_covariance=False, epsilon=0.02, n_future_positions=64)"
    ),
}
THEIRS = """
import json, sys, kvpress, torch
from transformers import AutoModelForCausalLM, DynamicCache
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64)
presses, prompts = json.load(sys.stdin)
found = []
for press in presses:
    made = eval("kvpress." + press)
    def compress(module, states, keys, values, attentions, kwargs, made=made):
        scores = made.score(module, states, keys, values, attentions, kwargs)
        kept = kvpress.utils.compute_n_kept(keys.shape[2], made.compression_ratio)
        layers.append(scores.topk(kept, dim=-1).indices.sort(dim=-1).values[0].tolist())
        return type(made).compress(made, module, states, keys, values, attentions, kwargs)
    made.compress = compress
    for prompt in prompts:
        layers = []
        with torch.no_grad(), made(model):
            model(torch.tensor([prompt]), past_key_values=DynamicCache())
        found.append(layers)
print(json.dumps(found))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="of an environment that has kvpress")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--length", type=int, default=240)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = given.python or _environment(Path(folder))
        theirs, ours = _compared(python, given.prompts, given.length)
    different = 0
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        spec, prompt = list(PRESSES)[number // given.prompts], number % given.prompts
        for layer, (kept, expected) in enumerate(zip(one, other, strict=True)):
            if kept != expected:
                different += 1
                print(f"{spec}, prompt {prompt}, layer {layer}: other keys than kvpress")
    heads = sum(len(layer) for one in ours for layer in one)
    print(f"{len(PRESSES)} presses, {given.prompts} prompts of {given.length} tokens, {heads} heads: ", end="")
    print(f"{different} layers differ" if different else "all keep the same keys")
    return 1 if different else 0


def _environment(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", KVPRESS], check=True)
    return python


def _compared(python: str, prompts: int, length: int) -> tuple[list[list[list[list[int]]]], ...]:
    """Kept positions of every press and prompt, by layer and KV head: those of kvpress, and ours."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    import lcbench

    folder = lcbench.embedded_models()["lcbench-tiny"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, model.config.vocab_size, (prompts, length), generator=generator)
    command = [python, "-c", THEIRS, str(folder)]
    asked = json.dumps([list(PRESSES.values()), ids.tolist()])
    theirs = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if theirs.returncode:
        sys.exit(theirs.stderr)
    ours = []
    for spec in PRESSES:
        with torch.no_grad(), lcbench.extend(model, spec, length=length):
            for prompt in ids:
                cache = DynamicCache()
                model(prompt[None], past_key_values=cache)
                ours.append([layer.positions_BKN[0].tolist() for layer in cache.layers])
    return json.loads(theirs.stdout.strip().splitlines()[-1]), ours


if __name__ == "__main__":
    sys.exit(main())
