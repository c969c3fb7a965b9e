"""Files of a training run: a checkpoint that is complete at any moment, a log, a loss curve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lcbench.core.errors import UserError
from lcbench.core.files import replaced, write_atomically

CHECKPOINT, LOG, CURVE, RECIPE = "checkpoint.safetensors", "log.jsonl", "loss.png", "recipe.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Reached:
    """How far a run is: optimizer steps done, and the seconds they took in all its sessions."""

    step: int = 0
    seconds: float = 0.0


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, reached: Reached) -> None:
    """Write the trained weights and both AdamW moments of each, in place of the last checkpoint.

    Raises: UserError if it cannot be written; the last checkpoint then stays as it was.
    """
    tensors = {}
    for name, weight in _trained(model):
        tensors[f"weight/{name}"] = weight.detach()
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[weight][moment]
    try:
        with replaced(folder / CHECKPOINT, owned=True) as temporary:
            save_file(tensors, temporary, metadata={"step": str(reached.step), "seconds": repr(reached.seconds)})
    except (SafetensorError, OSError) as error:
        raise _cannot_write(folder, error) from error


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW) -> Reached:
    """Load the last checkpoint into model and optimizer; without one, step 0 and both unchanged.

    Raises: UserError for a file that is not a checkpoint of this model.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return Reached()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            reached = Reached(int(metadata["step"]), float(metadata["seconds"]))
            with torch.no_grad():
                for name, weight in _trained(model):
                    weight.copy_(file.get_tensor(f"weight/{name}"))
                    state = {moment: file.get_tensor(f"{moment}/{name}").to(weight.device) for moment in MOMENTS}
                    step = torch.tensor(float(reached.step), device=weight.device)
                    optimizer.state[weight] = {"step": step, **state}
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is not a checkpoint of this model; delete the folder to begin again.") from error
    return reached


def _cannot_write(folder: Path, error: Exception) -> UserError:
    return UserError(f"cannot write to {folder}: {error}; the same command goes on once it can.")


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", owned=True)


class Log:
    """`log.jsonl`: a line a step, with `step` (from 1), `loss`, `learning_rate` and `seconds` since the run began."""

    def __init__(self, folder: Path, reached: Reached) -> None:
        """Continue after the step that was reached: lines of later steps are dropped, since those will be done
        again."""
        self._path = folder / LOG
        self._lines: list[dict[str, float]] = []
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [json.loads(line) for line in lines[: reached.step]]
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in self._lines), owned=True)

    def add(self, lines: list[dict[str, float]]) -> None:
        """Raises: UserError if they cannot be written."""
        self._lines += lines
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise _cannot_write(self._path.parent, error) from error

    def draw(self, title: str) -> None:
        """Write the loss curve: every step faintly, and the mean of the 50 steps around it."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        steps = [line["step"] for line in self._lines]
        losses = torch.tensor([line["loss"] for line in self._lines], dtype=torch.float64)
        window = min(50, len(losses))
        means = losses.unfold(0, window, 1).mean(1) if window else losses
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(steps, losses, linewidth=0.5, alpha=0.35, color="tab:blue", label="loss of a step")
        middle = steps[window // 2 : window // 2 + len(means)]
        axes.plot(middle, means, color="tab:blue", label=f"mean of {window} steps")
        axes.set(title=title, xlabel="step", ylabel="loss (nats per token)")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(self._path.with_name(CURVE), dpi=120)
