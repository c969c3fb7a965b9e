"""PEFT adapters (LoRA and others), merged into the base weights, so that methods steer plain modules."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.hub import explain, is_reachable, silence_hub

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROMPT = "num_virtual_tokens"  # in the config of every adapter that is a prompt
MISMATCH = re.compile(r"size mismatch for (\S+): .*?Size\(\[([\d, ]+)\]\).*?Size\(\[([\d, ]+)\]\)")  # PyTorch's words
TEMPLATE = "chat_template.jinja"  # which peft's trainers save beside the weights


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter by its folder or Hugging Face id, as given on the command line."""

    name: str

    def check(self) -> None:
        """Raises: UserError if peft is not installed or the adapter's files are missing."""
        if find_spec("peft") is None:
            raise UserError("--adapter needs peft, which is not installed; pip install 'lcbench[adapter]'.")
        if PROMPT in self.config:
            kind = self.config.get("peft_type", "unknown type")
            raise UserError(
                f"adapter {self.name} ({kind}) is a prompt before every text, and no change of weights that could be "
                "merged; take an adapter of weights, such as a LoRA."
            )

    def note(self, base: str) -> str:
        """A note that it is merged, and whether it was trained on another model than `base`."""
        trained_on = str(self.config.get("base_model_name_or_path") or base)
        other = f", though it was trained on {trained_on}" if _last_name(trained_on) != _last_name(base) else ""
        unread = f"; its own {TEMPLATE} is not read" if (self.folder / TEMPLATE).is_file() else ""
        return f"adapter {self.name} is merged into the weights of {base}{other}{unread}."

    @cached_property
    def folder(self) -> Path:
        """The folder of its files, downloaded if they are on the hub. Raises: UserError."""
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if self.name.count("/") != 1 or self.name.startswith((".", "/", "~")):
                raise UserError(f"there is no adapter folder {self.name}; give a folder, or a Hugging Face id.")
            folder = self._downloaded()
        if not (folder / CONFIG).is_file():
            raise UserError(f"{self.name} is not an adapter: it has no {CONFIG}.")
        if not (folder / WEIGHTS).is_file():
            raise UserError(
                f"{self.name} has no {WEIGHTS}, and weights are read from this format only; load an older "
                "adapter_model.bin with peft and save it again (save_pretrained)."
            )
        return folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of adapter_config.json. Raises: UserError."""
        file = self.folder / CONFIG
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{CONFIG} of {self.name} cannot be read: {explain(error)}") from error
        if not isinstance(content, dict):
            raise UserError(f"{CONFIG} of {self.name} must be a mapping.")
        return content

    def fingerprint(self) -> str:
        """A digest of the adapter's files."""
        digest = hashlib.sha256()
        for file in (CONFIG, WEIGHTS):
            digest.update((self.folder / file).read_bytes())
        return f"sha256:{digest.hexdigest()[:16]}"

    def merged(self, model: PreTrainedModel, base: str) -> PreTrainedModel:
        """The model with the adapter merged into its weights. Raises: UserError for an adapter that does not fit, or
        that cannot be merged."""
        from peft import PeftModel, get_peft_model_state_dict
        from safetensors import safe_open

        try:
            with warnings.catch_warnings(action="ignore"):  # mismatches are refused below
                adapted = PeftModel.from_pretrained(model, self.folder, use_safetensors=True)
            own = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
            with safe_open(self.folder / WEIGHTS, "pt") as file:
                stored = set(file.keys())
            differing = own - stored | stored - own - set(adapted.state_dict())
            if not differing:
                _untie(adapted)
                merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
                return merged
        except Exception as error:  # each type of adapter raises its own errors
            if other := MISMATCH.search(str(error)):
                raise UserError(f"adapter {self.name} does not fit {base}: {_other_shape(model, other)}") from error
            kind = self.config.get("peft_type", "unknown type")
            raise UserError(f"adapter {self.name} ({kind}) cannot be merged into {base}: {explain(error)}") from error
        raise UserError(
            f"adapter {self.name} does not fit {base}: {len(differing)} tensors are on one side only, such as "
            f"{min(differing)}."
        )

    def _downloaded(self) -> Path:
        from huggingface_hub import snapshot_download

        silence_hub()
        try:
            return Path(
                snapshot_download(self.name, allow_patterns=[CONFIG, WEIGHTS], local_files_only=not is_reachable())
            )
        except Exception as error:  # as in ModelSource
            raise UserError(f"cannot get the adapter {self.name}: {explain(error)}") from error


def _other_shape(model: PreTrainedModel, other: re.Match[str]) -> str:
    """The message for a tensor whose shape differs from the model's; added tokens are the usual reason."""
    name, has, wants = other.groups()
    said = f"its {name} has the shape [{has}], where the model has [{wants}]"
    rows, kind = model.get_input_embeddings().weight.shape[0], name.rpartition(".model.")[2]
    if not kind.startswith(("embed", "lm_head")) or str(rows) not in wants.split(", "):
        return f"{said}; give the base that it was trained on."
    return (
        f"{said}: it was trained with an extended vocabulary; resize the base's embedding to it "
        "(resize_token_embeddings), save that model with the adapter's tokenizer, and give its folder as --model."
    )


def _untie(adapted: nn.Module) -> None:
    """Copy the weights of modules that the adapter changes where other modules share them, such as a head that is tied
    to the embedding, or replicated layers: merging would change those, too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    owned = [parameter for module in adapted.modules() for parameter in module.parameters(recurse=False)]
    owners = Counter(map(id, owned))
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            layer: nn.Module = module.get_base_layer()
            for name, parameter in layer.named_parameters(recurse=False):
                if owners[id(parameter)] > 1:
                    owners[id(parameter)] -= 1
                    setattr(layer, name, type(parameter)(parameter.detach().clone(), requires_grad=False))


def _last_name(name: str) -> str:
    """The last component of a path or id, in lower case."""
    return Path(name).expanduser().name.lower()
