"""The training loop that every `lcbench train` verb uses: on CPU, on a GPU, on many through `accelerate launch`.

The same call resumes where it stopped, and ends with the weights of a run that was never interrupted: the optimizer's
state is saved, and the data of a step depend only on the seed, the step's number and the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lcbench.apps.train.checkpoint import CHECKPOINT, RECIPE, Log, Reached, load_checkpoint, save_checkpoint, write_json
from lcbench.apps.train.folder import one_writer, open_folder
from lcbench.apps.train.progress import Silent, TrainingProgress
from lcbench.core import provenance
from lcbench.core.errors import UserError

LOG_EVERY = 10  # steps between two looks at the losses: each waits for the device


class Objective(Protocol):
    """What is trained on. What a step sees is a pure function of (seed, step, process index), so that a resumed run
    sees what an uninterrupted one would; `step` counts from 0, of the whole run.

    The model is the one that was given to `fit`, on its device; call it, or parts of it, as you like: gradients are
    averaged over processes after the backward pass, not by a wrapper around the model.
    """

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one process sees in a step."""
        ...

    def __call__(self, model: PreTrainedModel, step: int) -> Tensor:
        """The loss of one step, a scalar."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Steps of AdamW, and the learning rate of each.

    `linear_tail` is constant, then falls linearly over the last quarter to a fiftieth; `cosine` falls to a tenth.
    Weight decay applies to matrices, neither to embeddings nor to norms.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    shape: Literal["linear_tail", "cosine", "constant"] = "linear_tail"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        fraction = step / self.steps
        if self.shape == "linear_tail":
            factor = min(1.0, max(0.02, (1 - fraction) / 0.25))
        elif self.shape == "cosine":
            factor = 0.1 + 0.45 * (1 + math.cos(math.pi * fraction))
        else:
            factor = 1.0
        return self.learning_rate * min(factor, (step + 1) / max(1, self.warmup))


def processes() -> PartialState:
    """The processes of `accelerate launch`, or the only one, and the device of this one."""
    # As accelerate.Accelerator, which `accelerate launch --cpu` tells by this variable; without it, processes on a
    # machine that has CPUs only would not learn of each other.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu)


def process_index() -> int:
    """Which of the processes of `accelerate launch` this is; 0 where there is one."""
    return int(processes().process_index)


def step_seed(seed: int, step: int, process: int) -> int:
    """A seed for everything drawn at random in one step of one process, unrelated to that of any other."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()[:7], "big")


def fit(
    model: PreTrainedModel,
    objective: Objective,
    schedule: Schedule,
    out: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    recipe: dict[str, Any],
    precision: Literal["no", "bf16"] = "bf16",
    checkpoint_every: int = 200,
    progress: TrainingProgress | None = None,
    compile_decoder: bool = False,
) -> Path:
    """Train a model in place and save it to `out` in Hugging Face format, with `recipe.json`, `log.jsonl` and
    `loss.png`. The same call resumes where it stopped, and does nothing (to the model neither) if `out` is finished.

    `recipe` is everything that decides the result and is not in the other arguments: the seed under `"seed"`, the
    options of the objective, the model that training starts from. `compile_decoder` compiles the decoder by
    torch.compile where that works: for objectives that call it as it is, in few different shapes.

    Raises: UserError for a folder of another run or with something else in it, one that is being written or cannot be,
    and for a loss that is not a number.
    """
    state = processes()
    options = {
        **recipe,
        "schedule": asdict(schedule),
        "precision": precision,
        "processes": state.num_processes,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    options = json.loads(json.dumps(options))
    tell = progress if progress and state.is_main_process else Silent()
    with one_writer(out) if state.is_main_process else contextlib.nullcontext():
        if state.is_main_process:
            open_folder(out, options)
        state.wait_for_everyone()
        if json.loads((out / RECIPE).read_text(encoding="utf-8"))["finished"]:
            (out / CHECKPOINT).unlink(missing_ok=True)
            tell.note(f"{out} is finished already.")
            return out
        model.to(state.device).train()
        if compile_decoder:
            _compile_decoder(model, state.device, tell)
        reached = _train(model, objective, schedule, out, recipe["seed"], precision, checkpoint_every, tell)
        if state.is_main_process:
            tokens = schedule.steps * objective.tokens_per_step * state.num_processes
            _save(model.eval(), tokenizer, out, options, reached, tokens)
        state.wait_for_everyone()
    return out


def _train(
    model: PreTrainedModel,
    objective: Objective,
    schedule: Schedule,
    out: Path,
    seed: int,
    precision: str,
    checkpoint_every: int,
    progress: TrainingProgress,
) -> Reached:
    """All steps that are left."""
    state = processes()
    optimizer = _optimizer(model, schedule)
    reached = began = load_checkpoint(out, model, optimizer)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    log = Log(out, reached) if state.is_main_process else None
    started = time.monotonic()
    pending: list[tuple[Tensor, float]] = []
    progress.start(schedule.steps, reached.step)
    try:
        for step in range(reached.step, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            torch.manual_seed(step_seed(seed, step, state.process_index))
            with torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = objective(model, step)
            loss.backward()  # type: ignore[no-untyped-call]
            _average_gradients(weights)
            nn.utils.clip_grad_norm_(weights, schedule.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            reached = Reached(step + 1, began.seconds + time.monotonic() - started)
            pending.append((loss.detach(), reached.seconds))

            save = reached.step % checkpoint_every == 0 or reached.step == schedule.steps
            if save or reached.step % LOG_EVERY == 0:
                lines = _lines(pending, reached.step, schedule)
                pending.clear()
                rate = objective.tokens_per_step * state.num_processes * (reached.step - began.step)
                rate /= reached.seconds - began.seconds
                for line in lines:
                    progress.step(int(line["step"]), line["loss"], rate)
                if log:
                    log.add(lines)
            if save and log:
                save_checkpoint(out, model, optimizer, reached)
                log.draw(out.name)
    finally:
        progress.finish()
    return reached


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    decayed = [weight for weight in trained if weight.dim() >= 2 and id(weight) not in embeddings]
    others = [weight for weight in trained if weight.dim() < 2 or id(weight) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas, fused=True)


def _average_gradients(weights: list[nn.Parameter]) -> None:
    """Give all processes the mean gradient; a weight that a step did not use has a gradient of zero."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    if processes().num_processes > 1:
        for weight in weights:
            weight.grad = reduce(weight.grad, "mean")


def _lines(pending: list[tuple[Tensor, float]], last: int, schedule: Schedule) -> list[dict[str, float]]:
    """Log lines of the steps up to and with number `last`, losses averaged over processes.

    Raises: UserError for a loss that is not a number.
    """
    losses = reduce(torch.stack([loss for loss, _ in pending]).float(), "mean").tolist()
    first = last - len(pending) + 1
    for step, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise UserError(f"the loss of step {step} is {loss}; try a lower learning rate in another folder.")
    return [
        {
            "step": step,
            "loss": round(loss, 6),
            "learning_rate": round(schedule.rate(step - 1), 9),
            "seconds": round(seconds, 3),
        }
        for step, (loss, (_, seconds)) in enumerate(zip(losses, pending), first)
    ]


def _compile_decoder(model: PreTrainedModel, device: torch.device, progress: TrainingProgress) -> None:
    """Compile the decoder in place; one line says why if that does not work here (no C++ compiler, say)."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        progress.note(f"training without torch.compile, at about half the speed: {reason}")
        return
    # One graph a shape: with dynamic shapes, the graph of a later shape would depend on which came first, and a resumed
    # run would differ in the last bit.
    model.get_decoder().compile(dynamic=False)


def _save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    out: Path,
    options: dict[str, Any],
    reached: Reached,
    tokens: int,
) -> None:
    """The finished model; `recipe.json`, written last, says that it is all there."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(out)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    session = provenance.session()
    finished = {
        "tokens": tokens,
        "seconds": round(reached.seconds, 1),
        "versions": session["versions"],
        "hardware": session["hardware"],
    }
    write_json(out / RECIPE, {"options": options, "finished": finished})
    (out / CHECKPOINT).unlink(missing_ok=True)
