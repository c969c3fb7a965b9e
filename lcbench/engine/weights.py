"""Loading weights: the config's tensors must all be there, and no tensor of a module may be left over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.engine.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger("lcbench")


def load_weights(checkpoint: Checkpoint, config: PretrainedConfig, **options: Any) -> PreTrainedModel:
    """The model with its weights; `options` of `from_pretrained` give dtype and placement. Raises: UserError if they
    cannot be loaded, or do not fit the config."""
    from transformers import AutoModelForCausalLM

    name, folder = checkpoint.name, Path(checkpoint.location)
    if not checkpoint.gguf and folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{name} has no *.safetensors file, the only format that is loaded; "
            f"`lcbench convert {name} --out FOLDER` converts pytorch_model*.bin."
        )
    loaded: PreTrainedModel
    loaded, report = checkpoint.load(
        AutoModelForCausalLM,
        "model",
        config=config,
        use_safetensors=True,
        **options,
        ignore_mismatched_sizes=True,  # reported like missing tensors
        output_loading_info=True,
    )
    unfit = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if unfit:
        raise UserError(
            f"the weights of {name} do not fit {_config(checkpoint)}; tensors that are missing or of another shape: "
            f"{len(unfit)}, such as {unfit[0]}."
        )
    _check_unread(checkpoint, loaded, report["unexpected_keys"])
    if checkpoint.gguf:
        checkpoint.gguf.finish(loaded)
    if getattr(getattr(loaded.config, "quantization_config", None), "dequantize", False):
        logger.warning("%s: this machine cannot compute with weights of this type; they are dequantized", name)
    return loaded


def _config(checkpoint: Checkpoint) -> str:
    return "the config that transformers makes of it" if checkpoint.gguf else "its config.json"


def _check_unread(checkpoint: Checkpoint, model: PreTrainedModel, keys: Iterable[str]) -> None:
    """Warn of tensors that no module reads, of another part of a composite model, such as its vision tower.

    Raises: UserError for unread tensors within the modules of this model (biases, adapters, surplus layers), without
    which it would compute something else than intended.
    """
    modules = {module for module, _ in model.named_modules()} - {"", model.base_model_prefix}
    unread = sorted(key for key in keys if not key.endswith("rotary_emb.inv_freq"))  # a buffer of old checkpoints
    inside = [key for key in unread if any(key.startswith(f"{module}.") for module in modules)]
    if inside:
        raise UserError(
            f"the weights of {checkpoint.name} do not fit {_config(checkpoint)}; tensors that no module of "
            f"{type(model).__name__} reads: {len(inside)}, such as {inside[0]}."
        )
    if unread:
        logger.warning("%s: %d tensors are not read, such as %s", checkpoint.name, len(unread), unread[0])
