"""Models of random weights, of a shape by name: a bench needs no download."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, out_of_memory, unknown

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

SEED = 0


@lru_cache
def shapes() -> dict[str, dict[str, Any]]:
    """Every shape by name, as shapes.yaml has it."""
    import yaml

    table: dict[str, dict[str, Any]] = yaml.safe_load(files(__package__).joinpath("shapes.yaml").read_text("utf-8"))
    return table


def shape_fields(name: str, layers: int | None = None) -> dict[str, Any]:
    """The config fields of a shape, with `layers` instead of its own number of layers. Raises: UserError."""
    if name not in shapes():
        raise unknown("shape", name, shapes())
    fields = dict(shapes()[name])
    if layers is not None:
        if layers > fields["num_hidden_layers"]:
            raise UserError(f"{name} has {fields['num_hidden_layers']} layers; --layers {layers} is more than that.")
        fields["num_hidden_layers"] = layers
    return fields


def shape_config(name: str, layers: int | None = None) -> PretrainedConfig:
    """The config of a shape, with `layers` instead of its own number of layers. Raises: UserError."""
    fields = shape_fields(name, layers)

    from transformers import AutoConfig

    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def random_model(name: str, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model with random weights, made on its device, the same every time. Raises: UserError if it does not fit."""
    import torch
    from transformers import AutoModelForCausalLM

    from lcbench.apps.bench.memory import free_memory
    from lcbench.engine.footprint import footprint
    from lcbench.results.report.layout import human_bytes

    with torch.device("meta"):
        need = footprint(AutoModelForCausalLM.from_config(config), dtype).weights
    free = free_memory(device)
    too_big = UserError(
        f"the weights of {name} in {str(dtype).removeprefix('torch.')} take {human_bytes(need)}, more than {device} has"
        " free; pass fewer --layers, or another --shape."
    )
    if free is not None and need > free:
        raise too_big
    torch.manual_seed(SEED)
    try:
        with torch.device(device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    except RuntimeError as error:
        if out_of_memory(error):
            raise too_big from error
        raise
    return model.eval()
