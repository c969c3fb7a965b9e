"""Ask the model as a run does, and watch the last token of the prompt: attention, positions, each layer's own answer.

Only one row of attention is computed, that of the last query over all keys, so that a prompt of 128k tokens needs no
more than to be answered.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcbench.apps.explain.question import GROUPS, Question
from lcbench.apps.explain.result import Lens, Look, Standing
from lcbench.attention.rope import frequencies, scales
from lcbench.attention.steering import Steering
from lcbench.attention.weights import LastQuery
from lcbench.core.errors import UnsupportedModelError, UserError
from lcbench.engine.base import PromptRequest
from lcbench.engine.layerwise import LayerStack
from lcbench.engine.steered import SteeredEngine, SteeredHost
from lcbench.run.plan import Job
from lcbench.tasks import Example
from lcbench.tasks.chat import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BINS = 240  # parts of the context in a strip
Turned = tuple[float, float]  # least and most, over the slow channels, of how fast they turn against the unscaled model


def look(host: SteeredHost, job: Job, example: Example, asked: Question) -> Look:
    """What the method of a job makes of a question.

    Raises: UserError for a method that attends otherwise than its pieces say, as one that searches or drops keys by
    their content does.
    """
    tokenizer, length = host.tokenizer, job.cell.seq_len
    with host.engine(job.resolved, length, [length], shares=False) as engine:
        assert isinstance(engine, SteeredEngine)
        watch = _Watch(engine.steering, asked)
        with watch.layers(host.model):
            answer = _answer(engine, tokenizer, length, example, asked)
    begun = str(tokenizer.decode(asked.prompt[asked.asked :]))
    lens, no_lens = _lens(watch, asked.right, tokenizer)
    numbers = sorted(watch.rows)
    rows = [watch.rows[number] for number in numbers]
    return Look(
        method=str(job.method),
        resolved=str(job.resolved),
        equals=job.equals,
        answer=begun + answer,
        score=job.task.score(example, begun + answer)[job.task.metric],
        layers=tuple(numbers),
        shares=np.stack([row.shares for row in rows]),
        on_answer=np.stack([row.on_answer for row in rows]),
        strip=np.stack([row.strip for row in rows]),
        standing=_standing(rows),
        lens=lens,
        no_lens=no_lens,
    )


def _answer(
    engine: SteeredEngine, tokenizer: PreTrainedTokenizerBase, length: int, example: Example, asked: Question
) -> str:
    """The answer, ended as that of a run is."""
    request = PromptRequest(
        asked.prompt,
        length,
        max(1, example.max_new_tokens - len(asked.prompt) + asked.asked),
        stop=example.stop,
        end_tokens=end_of_turn(tokenizer),
    )
    (output,) = engine.generate([request], shared=False)
    return output.text


@dataclass(frozen=True, eq=False)
class _Row:
    """One layer: see `Look`. `distances` are those of the needle's keys to each KV head, and how fast these turn."""

    shares: NDArray[np.float64]
    on_answer: NDArray[np.float64]
    strip: NDArray[np.float64]
    distances: list[Tensor]
    turned: Turned | None


@dataclass(eq=False)
class _Watch:
    """Keeps what the last token of the prompt attends to in each layer, and each layer's output for it."""

    steering: Steering
    asked: Question
    rows: dict[int, _Row] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)
    stack: LayerStack | None = None
    no_stack: str = ""

    def __post_init__(self) -> None:
        groups = torch.from_numpy(self.asked.groups())
        self._groups_SG = torch.stack([groups == number for number in range(len(GROUPS))], dim=-1).double()
        self._edges = np.unique(np.linspace(0, len(self.asked.prompt), BINS + 1).astype(int))[:-1]

    @contextlib.contextmanager
    def layers(self, model: Any) -> Iterator[None]:
        """Inside, what the layers of the model compute is watched."""
        last = len(self.asked.prompt) - 1
        seen = [False]  # whether the current call ends with the last token of the prompt

        def attended(query: LastQuery) -> None:
            seen[0] = query.position == last
            if seen[0]:
                self.rows[query.layer] = self._row(query)

        def passed(layer: nn.Module, args: Any, output: Any) -> None:
            if seen[0]:
                states = output if isinstance(output, Tensor) else output[0]
                self.states.append(states[0, -1].clone())

        with contextlib.ExitStack() as hooks:
            try:
                self.stack = LayerStack(model)
            except UnsupportedModelError as error:
                self.no_stack = str(error)
            for layer in self.stack.layers if self.stack else ():
                hooks.callback(layer.register_forward_hook(passed).remove)
            self.steering.observer = attended
            hooks.callback(setattr, self.steering, "observer", None)
            yield

    def _row(self, query: LastQuery) -> _Row:
        weights_HS = query.weights()
        self._require_whole(query, weights_HS)
        weights_HS = weights_HS.cpu()
        weights = weights_HS.numpy()
        needle = self.asked.needle
        return _Row(
            shares=(weights_HS @ self._groups_SG).numpy(),
            on_answer=weights[:, self.asked.answer_in_needle()].sum(-1),
            strip=np.add.reduceat(weights, self._edges, axis=-1),
            distances=[query.distances(needle, head) for head in range(query.kv_heads)],
            turned=self._turned(query),
        )

    def _require_whole(self, query: LastQuery, weights_HS: Tensor) -> None:
        """Raises: UserError unless the weights give the output that the layer has computed."""
        own, found = query.out_BHTD[0, :, 0].double(), query.output(weights_HS)
        near = torch.finfo(query.out_BHTD.dtype).eps ** 0.5
        if not torch.allclose(found, own, rtol=0, atol=near * max(1e-3, float(own.abs().max()))):
            raise UserError(
                f"{self.steering.method.label} attends otherwise in layer {query.layer} than its positions say: it "
                "chooses keys by their content (fot: memory=dense does not), and cannot be explained."
            )

    def _turned(self, query: LastQuery) -> Turned | None:
        """None where the method scales nothing, or every channel makes a whole turn within the trained length: it has
        met every angle there is."""
        rope, steering = query.scoring.rope, self.steering
        if not scales(steering.method, rope):
            return None
        own = getattr(rope.rotary, f"{rope.prefix}inv_freq").double()
        scaled, _ = frequencies(steering.method, rope, steering.lengths)
        slow = (own > 0) & (own * steering.lengths.pretraining < 2 * math.pi)
        ratios = (scaled.double().to(own.device) / own)[slow]
        return (float(ratios.min()), float(ratios.max())) if len(ratios) else None


def _standing(rows: list[_Row]) -> tuple[Standing, ...]:
    """Where the needle stands, KV heads that see it alike counted together; the most frequent first."""
    found: dict[Standing, int] = {}
    for row in rows:
        for distances in row.distances:
            near, far = (float(end) for end in distances.aminmax()) if len(distances) else (None, None)
            turned = None
            if row.turned is not None and near is not None and far is not None:
                turned = near * row.turned[0], far * row.turned[1]
            one = Standing(0, near, far, turned)
            found[one] = found.get(one, 0) + 1
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return tuple(replace(one, heads=count) for one, count in ordered)


def _lens(watch: _Watch, right: int, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[Lens, ...], str]:
    """A line a layer, or why there is none."""
    if watch.stack is None:
        return (), watch.no_stack
    device = watch.states[-1].device
    logits_LV = watch.stack.logits_of(torch.stack([state.to(device) for state in watch.states])).double().cpu()
    ranks = 1 + (logits_LV > logits_LV[:, right : right + 1]).sum(-1)
    probabilities = logits_LV.softmax(-1)[:, right]
    firsts = [str(tokenizer.decode([token])) for token in logits_LV.argmax(-1).tolist()]
    return tuple(map(Lens, ranks.tolist(), probabilities.tolist(), firsts)), ""
