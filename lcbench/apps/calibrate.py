"""Which KV heads need every key: found for DuoAttention by letting one after another attend to a window.

    lcbench calibrate duo_attention --seq-len 256 --out heads.tsv
    lcbench run passkey --method duo_attention:file=heads.tsv

The measure is the likelihood of what the model itself answers when every head is full, so that no reference answer is
needed. The authors of DuoAttention learn one gate a head by gradient descent, with the same aim; this needs a pass for
each head and no gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lcbench.attention.steering import Steering
from lcbench.core.errors import UserError
from lcbench.engine.generate import generate
from lcbench.engine.score import score_tokens
from lcbench.methods import Composition, Method, compose
from lcbench.methods.duo_attention import DuoAttention

Head = tuple[int, int]  # layer, KV head
Progress = Callable[[int, int], None]  # passes done, passes in all, roughly


@dataclass(frozen=True)
class Calibration:
    """The KV heads of a model, that needed most first, of which the first `full` are full; `loss` is what the model's
    answers lose in likelihood by the others, in nats per token."""

    heads: tuple[Head, ...]
    full: int
    loss: float

    def table(self) -> str:
        """A line a layer, a number a KV head: above 0.5 for full heads, and the larger the more a head is needed."""
        n = len(self.heads)
        gates = {}
        for rank, head in enumerate(self.heads):
            full = rank < self.full
            gates[head] = 1 - rank / (2 * self.full) if full else (n - rank) / (2 * (n - self.full) + 1)
        layers, count = (1 + max(numbers) for numbers in zip(*gates, strict=True))
        rows = [[f"{gates[layer, head]:.4f}" for head in range(count)] for layer in range(layers)]
        return "".join("\t".join(row) + "\n" for row in rows)


@dataclass(frozen=True)
class Calibrator:
    """`method` is `duo_attention`, alone or composed; `prompts` are token ids, answered with `budget` tokens each."""

    model: PreTrainedModel
    method: Method
    prompts: Sequence[Sequence[int]]
    budget: int

    def run(self, tolerance: float, progress: Progress = lambda done, of: None) -> Calibration:
        """The fewest full heads, taken in the order in which they are needed by themselves, with which the answers lose
        at most `tolerance` nats per token."""
        config = self.model.config.get_text_config()
        count = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        every = [(layer, head) for layer in range(config.num_hidden_layers) for head in range(count)]
        total, done = len(every) + len(every).bit_length() + 1, 0

        def nats(full: Sequence[Head]) -> float:
            nonlocal done
            done += 1
            progress(done, total)
            with self._steered(full) as model:
                scored = [score_tokens(model, [*p, *a], len(p)).nll for p, a in zip(self.prompts, answers, strict=True)]
            return sum(float(nll.double().mean()) for nll in scored) / len(scored)

        with self._steered(every) as model:
            answers = [generate(model, prompt, self.budget).tokens for prompt in self.prompts]
        best = nats(every)
        needed = {head: nats([other for other in every if other != head]) for head in every}
        ranked = sorted(every, key=lambda head: -needed[head])
        low, high, loss = 0, len(ranked), 0.0
        while low < high:  # `high` heads are enough
            middle = (low + high) // 2
            lost = nats(ranked[:middle]) - best
            if lost <= tolerance:
                high, loss = middle, lost
            else:
                low = middle + 1
        return Calibration(tuple(ranked), high, loss)

    @contextmanager
    def _steered(self, full: Sequence[Head]) -> Iterator[PreTrainedModel]:
        names = tuple(f"{layer}:{head}" for layer, head in full)
        length = self.budget + max(map(len, self.prompts))
        with Steering(self.model, calibrated(self.method, full_heads=names), length) as model:
            yield model


def calibrated(method: Method, **options: Any) -> Method:
    """The method with other options of its part `duo_attention`."""
    parts = method.parts if isinstance(method, Composition) else (method,)
    return compose([dataclasses.replace(p, **options) if isinstance(p, DuoAttention) else p for p in parts])


def require_calibrated(method: Method) -> None:
    """Raises: UserError for a method whose heads cannot be found."""
    parts = method.parts if isinstance(method, Composition) else (method,)
    if not any(isinstance(part, DuoAttention) for part in parts):
        raise UserError(f"{method.label} has nothing to calibrate; duo_attention has: its full heads.")
