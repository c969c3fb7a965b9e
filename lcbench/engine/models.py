"""A model that transformers runs in this process: its checkpoint, dtype, placement and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.processes import Processes
from lcbench.engine.adapters import Adapter
from lcbench.engine.base import LocalModel, ModelFacts, Source
from lcbench.engine.checkpoint import Checkpoint
from lcbench.engine.dtypes import AUTO, best_dtype, check_dtype
from lcbench.engine.embedded import DEFAULT_MODEL, REFERENCE_MODELS, embedded_models
from lcbench.engine.footprint import footprint
from lcbench.engine.generation_config import greedy_note
from lcbench.engine.placement import Placement
from lcbench.engine.quantization import SCHEMES, check_environment, check_scheme, loading_options, stored_scheme
from lcbench.engine.weights import load_weights
from lcbench.methods import Method, parse_method
from lcbench.methods.trained_length import length_note, trained_length

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from lcbench.attention.options import AttentionOptions
    from lcbench.engine.steered import SteeredHost


__all__ = ["DEFAULT_MODEL", "REFERENCE_MODELS", "ModelSource", "embedded_models"]
LONGEST_NAME = 100  # characters of a display name


@dataclass(frozen=True)
class ModelSource(Source):
    """Which model, and how to load it, as given on the command line.

    `name`, `revision` and `trust_remote_code` are those of a `Checkpoint`, `device`, `device_map` and `tensor_parallel`
    those of a `Placement`; `dtype` "auto" is the checkpoint's own. `display_name` is the model's name in tables and
    figures, None for `name`; it changes no result. `adapter` is a folder or id of a PEFT adapter, merged into the
    weights; `quantization` is one of `quantization.SCHEMES`.
    """

    name: str = DEFAULT_MODEL
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    device_map: str | None = None
    tensor_parallel: bool = False
    display_name: str | None = None
    adapter: str | None = None
    quantization: str | None = None

    @property
    def label(self) -> str:
        """The name with changes to the weights: `owner/name + my-adapter`, `owner/name (4bit)`."""
        adapted = f"{self.name} + {self.adapter}" if self.adapter else self.name
        return f"{adapted} ({self.quantization})" if self.quantization else adapted

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The files that the model is read from."""
        return Checkpoint(self.name, self.revision, self.trust_remote_code)

    @property
    def placement(self) -> Placement:
        """The devices that the model is put on."""
        return Placement(self.device, self.device_map, self.tensor_parallel)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError for a model without tokenizer, or with one that has tokens beyond its embedding."""
        return self.checkpoint.tokenizer()

    def config(self) -> PretrainedConfig:
        """Raises: UserError for a model that does not exist."""
        return self.checkpoint.config()

    def model(self) -> PreTrainedModel:
        """The model in evaluation mode on its device. Raises: UserError if it cannot be loaded."""
        import torch

        device = self.placement.torch_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # for kernels that launch on the current device
        config = self.config()
        self.check_weights(config)
        dtype = self.torch_dtype(config)
        quantized = loading_options(self.quantization, dtype) if self.quantization else {}
        placed = self.placement.loading_options(device)
        loaded = load_weights(self.checkpoint, config, dtype=dtype, **placed, **quantized)
        if adapter := self._adapter:
            loaded = adapter.merged(loaded, self.name)
        return loaded.eval()

    def methods(self, typed: Sequence[str] | None) -> list[Method]:
        return [parse_method(spec) for spec in typed or ("vanilla",)]

    def inspect(self, tokenizer: PreTrainedTokenizerBase, attention: AttentionOptions) -> ModelFacts:
        """Raises: UserError for a model that cannot be steered, weights that cannot be loaded as asked, or options of
        attention that this machine lacks."""
        from lcbench.attention.backends.dispatch import BackendSelector
        from lcbench.attention.cache.growing import kv_torch_dtype
        from lcbench.attention.probe import own_frequencies, require_rotary
        from lcbench.engine.new_cache import require_shared_cache

        device = self.placement.torch_device()
        BackendSelector(attention.backend).check(device)
        kv_dtype, config = kv_torch_dtype(attention.kv_dtype), self.config()
        self.check_weights(config)
        skeleton = self.checkpoint.skeleton(config)
        require_rotary(skeleton)
        require_shared_cache(skeleton)
        dtype = self.torch_dtype(config)
        need = footprint(skeleton, dtype, kv_dtype, kv_offload=attention.kv_offload)
        local = LocalModel(config, need, dtype, device, own_frequencies(skeleton))
        of_answers = greedy_note(self.name, self.checkpoint.generation_config)
        notes = [*self.notes(config), *filter(None, [length_note(config), of_answers])]
        return ModelFacts(trained_length(config), local, notes=notes)

    def open_host(
        self, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts, attention: AttentionOptions
    ) -> SteeredHost:
        from lcbench.engine.steered import SteeredHost

        assert facts.local is not None
        return SteeredHost(self.model(), tokenizer, facts.local.footprint, attention)

    @cached_property
    def _adapter(self) -> Adapter | None:
        return Adapter(self.adapter) if self.adapter is not None else None

    def check_weights(self, config: PretrainedConfig) -> None:
        """Raises: UserError for an adapter or a quantization that cannot be used, or not with these weights."""
        stored = stored_scheme(self.name, config)
        check_scheme(self.quantization)
        fewer_bits = f"{self.name}, quantized by {stored}," if stored else f"--quantization {self.quantization}"
        if self.quantization and (stored or self.checkpoint.gguf):
            raise UserError(f"{self.name} is already quantized; leave --quantization out.")
        if self._adapter and (stored or self.quantization):
            raise UserError(f"an adapter cannot be merged into {fewer_bits} without loss; take the unquantized model.")
        if self.tensor_parallel and (self._adapter or self.quantization):
            raise UserError("--tensor-parallel cannot be combined with --adapter or --quantization.")
        if self._adapter:
            self._adapter.check()
        if stored:
            check_environment(self.name, config, stored)

    def check_processes(self, processes: Processes) -> None:
        """Raises: UserError for placement options that contradict each other or the number of processes."""
        self.placement.check(self.checkpoint, processes)

    def torch_dtype(self, config: PretrainedConfig) -> torch.dtype:
        """The requested dtype; "auto" is the config's, float32 if it has none, or bfloat16 if the device is faster in
        it and the checkpoint is no more precise. Raises: UserError."""
        import torch

        check_dtype(self.dtype)
        if self.dtype != AUTO:
            requested: torch.dtype = getattr(torch, self.dtype)
            return requested
        return best_dtype(_own_dtype(config), self.placement.torch_device(), dequantized=self.dequantizes)

    @property
    def dequantizes(self) -> bool:
        """Whether the weights are quantized in the file and dequantized on loading."""
        return self.checkpoint.gguf is not None and self.checkpoint.gguf.dtype is None

    def notes(self, config: PretrainedConfig) -> list[str]:
        """What a user should know about how the model is loaded."""
        import torch

        own, dtype = _own_dtype(config), self.torch_dtype(config)
        name = str(dtype).removeprefix("torch.")
        chosen = self.dtype == AUTO and self.placement.torch_device().type == "cpu" and dtype != (own or torch.float32)
        why = f"{name}, in which this CPU is faster; --dtype float32 is more precise" if chosen else name
        notes = []
        if (gguf := self.checkpoint.gguf) and self.dequantizes:
            notes.append(f"{self.name}: weights of {' and '.join(gguf.types)} are dequantized to {why}.")
        elif chosen:
            notes.append(f"{self.name}: weights of {str(own).removeprefix('torch.')} are converted to {why}.")
        if stored := stored_scheme(self.name, config):
            notes.append(f"{self.name}: weights are quantized by {stored}.")
        if self._adapter:
            notes.append(self._adapter.note(self.name))
        if self.quantization:
            notes.append(f"{self.name}: weights are quantized ({self.quantization}, {SCHEMES[self.quantization]}).")
        return notes

    def identity(self, facts: ModelFacts) -> dict[str, Any]:
        """The model's part of a run's identity; entries that do not apply are left out."""
        assert facts.local is not None
        parts = {
            "model": self.label,
            "model_fingerprint": self.checkpoint.fingerprint(facts.local.config),
            "weights": f"GGUF {', '.join(self.checkpoint.gguf.types)}" if self.checkpoint.gguf else None,
            "adapter": self.adapter,
            "adapter_fingerprint": self._adapter.fingerprint() if self._adapter else None,
            "quantization": self.quantization,
            "pretraining_length": facts.trained,
            "dtype": str(facts.local.dtype).removeprefix("torch."),
            "device": facts.local.device.type,
        }
        return {name: value for name, value in parts.items() if value is not None}

    def check(self) -> None:
        """Check names, paths, dtype, quantization and adapter before PyTorch is imported. Raises: UserError."""
        if self.display_name is not None and not 0 < len(self.display_name.strip()) <= LONGEST_NAME:
            raise UserError(f"--name must have 1 to {LONGEST_NAME} characters.")
        self.checkpoint.check_exists()
        check_scheme(self.quantization)
        check_dtype(self.dtype)
        if self._adapter:
            self._adapter.check()


def _own_dtype(config: PretrainedConfig) -> torch.dtype | None:
    """The dtype in a config, None if it has none."""
    import torch

    named = getattr(config, "dtype", None)
    return named if isinstance(named, torch.dtype) else None
