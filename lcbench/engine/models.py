"""Models and tokenizers by Hugging Face id, by folder, or by the name of one that ships with lcbench."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, out_of_memory, unknown
from lcbench.core.files import require_regular
from lcbench.core.hub import explain, is_reachable, require_model, silence_hub
from lcbench.core.processes import Processes, launched
from lcbench.engine.adapters import Adapter
from lcbench.engine.base import LocalModel, ModelFacts, Source
from lcbench.engine.dtypes import AUTO, best_dtype, check_dtype
from lcbench.engine.footprint import footprint
from lcbench.engine.gguf_files import GgufFile, is_gguf, on_hub
from lcbench.engine.longllama import StockConfig
from lcbench.engine.quantization import SCHEMES, check_scheme, loading_options, stored_scheme
from lcbench.methods import Method, parse_method
from lcbench.methods.base import length_note, trained_length

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from lcbench.attention.options import AttentionOptions
    from lcbench.engine.steered import SteeredHost


logger = logging.getLogger("lcbench")
REFERENCE_MODELS = Path(__file__).parents[1] / "reference_models"
DEFAULT_MODEL = "lcbench-tiny"
ENDS = 2**20  # bytes at each end of a file that its fingerprint reads
LONGEST_NAME = 100  # characters of a display name


@dataclass(frozen=True)
class ModelSource(Source):
    """Which model, and how to load it, as given on the command line.

    `name` is an embedded model, a folder, a Hugging Face id, or a GGUF file, of the hub as `ID:FILE.gguf`; `dtype`
    "auto" is the checkpoint's own; `device` "auto" is the first GPU, if any, and under a launcher the GPU of the local
    rank. Remote code runs only if `trust_remote_code`. `device_map` "auto" spreads the layers over all GPUs, then RAM
    and disk; `tensor_parallel` splits every layer over the processes of torchrun. `display_name` is what tables and
    figures call the model, None for `name`; it decides nothing. `adapter` is a folder or id of peft, merged into the
    weights; `quantization` one of `quantization.SCHEMES`.
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
        """The name with what is done to the weights: `owner/name + my-adapter`, `owner/name (4bit)`."""
        adapted = f"{self.name} + {self.adapter}" if self.adapter else self.name
        return f"{adapted} ({self.quantization})" if self.quantization else adapted

    @property
    def location(self) -> str:
        """The first argument of `from_pretrained`: a folder or a Hugging Face id."""
        if self.gguf:
            return str(self.gguf.path.parent)
        embedded = embedded_models()
        return str(embedded[self.name]) if self.name in embedded else os.path.expanduser(self.name)

    @cached_property
    def gguf(self) -> GgufFile | None:
        """The file of a model that is one; downloaded if it is on the hub. Raises: UserError."""
        if not is_gguf(self.name) or Path(self.name).expanduser().is_dir():
            return None
        hosted = on_hub(self.name)
        return GgufFile(self.name, self._downloaded(*hosted) if hosted else Path(self.name).expanduser())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError for a model without tokenizer, or with one that has tokens beyond its embedding."""
        self.check_exists()
        from transformers import AutoTokenizer

        folder = Path(self.location)
        names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
        if not self.gguf and folder.is_dir() and not any((folder / name).exists() for name in names):
            raise UserError(f"{self.name} has no tokenizer: copy its tokenizer files (tokenizer.json, ...) there.")
        options = {"add_bos_token": True} if _is_own_tokenizer(folder) else {}
        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer, "tokenizer", **options)
        if self.gguf:
            self.gguf.complete_tokenizer(tokenizer)
        rows = getattr(self.config().get_text_config(), "vocab_size", None)
        if isinstance(rows, int):
            self.check_tokenizer(tokenizer, rows)
        return tokenizer

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Tell tokens that a prompt may contain and for which the embedding, of so many rows, has none.

        Special tokens that the chat template does not write are let pass: no document can spell them (Gemma 3 1B has
        one for images, which its embedding lacks).
        Raises: UserError.
        """
        added, written = tokenizer.added_tokens_decoder, str(tokenizer.chat_template)
        own = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
        for number, token in beyond:
            if number in own or number not in added or not added[number].special or token in written:
                raise UserError(
                    f"the tokenizer of {self.name} has tokens that its embedding of {rows} rows lacks: {len(beyond)}, "
                    f"such as {token!r} ({number}); resize the embedding (resize_token_embeddings), or use the model's "
                    "own tokenizer."
                )

    def config(self) -> PretrainedConfig:
        """Raises: UserError for a model that does not exist."""
        self.check_exists()
        config: PretrainedConfig
        if self.gguf:
            from transformers import AutoConfig

            config = self._load(AutoConfig, "config")
            self.gguf.complete_config(config)
        else:
            config = self._load(StockConfig, "config")
        return config

    def torch_device(self) -> torch.device:
        """Raises: UserError for a device that this machine lacks."""
        import torch

        if self.device in ("auto", "cuda") and torch.cuda.is_available():
            local, gpus = launched().local_rank, torch.cuda.device_count()
            if local >= gpus:
                raise UserError(
                    f"more processes were launched than this machine has GPUs; launch {gpus}, or pass --device cpu."
                )
            return torch.device("cuda", local)
        if self.device == "auto":
            return torch.device("cpu")
        try:
            device = torch.device(self.device)
            torch.zeros(1, device=device).tolist()  # meta has no data, other devices may be missing
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"device {self.device!r} is not available here; use cpu, or leave --device out.") from error
        return device

    def model(self) -> PreTrainedModel:
        """The model in evaluation mode on its device. Raises: UserError where it cannot be loaded."""
        import torch
        from transformers import AutoModelForCausalLM

        device = self.torch_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # for kernels that launch on the current device
        config = self.config()
        self.check_weights(config)
        folder = Path(self.location)
        if not self.gguf and folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise UserError(
                f"{self.name} has no *.safetensors file, and weights are read from this format only; "
                f"`lcbench convert {self.name} --out FOLDER` makes them from pytorch_model*.bin."
            )
        loaded: PreTrainedModel
        loaded, report = self._load(
            AutoModelForCausalLM,
            "model",
            config=config,
            dtype=self.torch_dtype(config),
            use_safetensors=True,
            **self._placement(device),
            **(loading_options(self.quantization, self.torch_dtype(config)) if self.quantization else {}),
            ignore_mismatched_sizes=True,  # reported like missing tensors
            output_loading_info=True,
        )
        unfit = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
        if unfit:
            raise UserError(
                f"the weights of {self.name} do not fit its config.json; tensors that are missing or of another shape: "
                f"{len(unfit)}, such as {unfit[0]}."
            )
        self._check_unread(loaded, report["unexpected_keys"])
        if self.gguf:
            self.gguf.finish(loaded)
        if getattr(getattr(loaded.config, "quantization_config", None), "dequantize", False):
            logger.warning("%s: this machine computes with no weights of its kind; they are dequantized", self.name)
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

        device = self.torch_device()
        BackendSelector(attention.backend).check(device)
        kv_dtype, config = kv_torch_dtype(attention.kv_dtype), self.config()
        self.check_weights(config)
        skeleton = self.skeleton(config)
        require_rotary(skeleton)
        dtype = self.torch_dtype(config)
        need = footprint(skeleton, dtype, kv_dtype)
        local = LocalModel(config, need, dtype, device, own_frequencies(skeleton))
        notes = [*self.notes(config), *filter(None, [length_note(config)])]
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
        if self.quantization and (stored or self.gguf):
            raise UserError(f"{self.name} is quantized already; leave --quantization out.")
        if self._adapter and (stored or self.quantization):
            raise UserError(f"an adapter cannot be merged into {fewer_bits} without loss; take the unquantized model.")
        if self.tensor_parallel and (self._adapter or self.quantization):
            raise UserError("--tensor-parallel does not go with --adapter or --quantization.")
        if self._adapter:
            self._adapter.check()

    def _check_unread(self, model: PreTrainedModel, keys: Iterable[str]) -> None:
        """Warn of tensors that no module reads, of another part of a composite model, such as its vision tower.

        Raises: UserError for tensors within the modules of this model (biases, adapters, surplus layers), without which
        it computes something else than its checkpoint means.
        """
        modules = {name for name, _ in model.named_modules()} - {"", model.base_model_prefix}
        unread = sorted(key for key in keys if not key.endswith("rotary_emb.inv_freq"))  # a buffer of old checkpoints
        inside = [key for key in unread if any(key.startswith(f"{name}.") for name in modules)]
        if inside:
            raise UserError(
                f"the weights of {self.name} do not fit its config.json; tensors that no module of "
                f"{type(model).__name__} reads: {len(inside)}, such as {inside[0]}."
            )
        if unread:
            logger.warning("%s: %d tensors are not read, such as %s", self.name, len(unread), unread[0])

    def check_processes(self, processes: Processes) -> None:
        """Raises: UserError for placement options that contradict each other or the number of processes."""
        if self.device_map not in (None, "auto"):
            raise UserError(f"--device-map {self.device_map!r} is not known; it is auto, or left out.")
        if self.device_map and self.device != "auto":
            raise UserError("--device-map auto takes every device; leave --device out.")
        if self.device_map and processes.local_rank:
            raise UserError("--device-map auto takes all GPUs of a machine; launch one process on each.")
        if not self.tensor_parallel:
            return
        if self.device_map or self.device != "auto":
            raise UserError("--tensor-parallel places the model itself; leave --device and --device-map out.")
        if is_gguf(self.name):
            raise UserError("--tensor-parallel does not split a GGUF file; take the model's folder or Hugging Face id.")
        if processes.count == 1:
            raise UserError(
                "--tensor-parallel needs several processes: torchrun --nproc-per-node 2 -m lcbench run ... starts two."
            )
        heads = self.config().get_text_config()
        shared = getattr(heads, "num_key_value_heads", None) or heads.num_attention_heads
        if shared % processes.count:
            raise UserError(
                f"the {shared} KV heads of {self.name} cannot be split over {processes.count} processes; launch so "
                f"many that they divide {shared}."
            )

    def _placement(self, device: torch.device) -> dict[str, Any]:
        """Arguments of `from_pretrained` that load the weights directly onto their devices."""
        if self.tensor_parallel:
            from transformers.distributed import DistributedConfig

            return {"distributed_config": DistributedConfig(tp_plan="auto")}
        return {"device_map": self.device_map or device}

    def skeleton(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model's modules without weights, on the meta device. Raises: UserError if it is no language model."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=self.trust_remote_code
                )
        except Exception as error:  # as in _load: a broken config fails in many ways
            raise UserError(f"{self.name} is no causal language model: {explain(error)}") from error
        if self.gguf:
            self.gguf.check_unread(skeleton)
        return skeleton

    def torch_dtype(self, config: PretrainedConfig) -> torch.dtype:
        """The requested dtype; "auto" is the one in the config, float32 if it has none, or bfloat16 where the device is
        faster in it and the checkpoint has no more digits. Raises: UserError."""
        import torch

        check_dtype(self.dtype)
        if self.dtype != AUTO:
            requested: torch.dtype = getattr(torch, self.dtype)
            return requested
        return best_dtype(_own_dtype(config), self.torch_device(), dequantized=self.dequantizes)

    @property
    def dequantizes(self) -> bool:
        """Whether the file's weights are quantized, and are not when they are loaded."""
        return self.gguf is not None and self.gguf.dtype is None

    def notes(self, config: PretrainedConfig) -> list[str]:
        """What a user should know of how the model is loaded."""
        import torch

        own, dtype = _own_dtype(config), self.torch_dtype(config)
        name = str(dtype).removeprefix("torch.")
        chosen = self.dtype == AUTO and self.torch_device().type == "cpu" and dtype != (own or torch.float32)
        why = f"{name}, in which this CPU is faster; --dtype float32 computes with more digits" if chosen else name
        notes = []
        if self.gguf and self.dequantizes:
            notes.append(f"{self.name}: weights of {' and '.join(self.gguf.types)} are dequantized to {why}.")
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
        """Of the weights, parts that do not apply are left out."""
        assert facts.local is not None
        parts = {
            "model": self.label,
            "model_fingerprint": self.fingerprint(facts.local.config),
            "weights": f"GGUF {', '.join(self.gguf.types)}" if self.gguf else None,
            "adapter": self.adapter,
            "adapter_fingerprint": self._adapter.fingerprint() if self._adapter else None,
            "quantization": self.quantization,
            "pretraining_length": facts.trained,
            "dtype": str(facts.local.dtype).removeprefix("torch."),
            "device": facts.local.device.type,
        }
        return {name: value for name, value in parts.items() if value is not None}

    def fingerprint(self, config: PretrainedConfig) -> str:
        """An identifier of the weights: the hub's commit, or a digest of the files: configs, and the size and both ends
        of each weight file (hashing a large model as a whole would take minutes)."""
        commit = getattr(config, "_commit_hash", None)
        folder = Path(self.location)
        if not self.gguf and (commit or not folder.is_dir()):
            return str(commit)
        digest = hashlib.sha256()
        for path in [self.gguf.path] if self.gguf else sorted(folder.glob("*")):
            if self.gguf or path.suffix in (".json", ".safetensors", ".model"):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
                with path.open("rb") as file:
                    digest.update(file.read(ENDS))
                    file.seek(-min(ENDS, path.stat().st_size), os.SEEK_END)
                    digest.update(file.read())
        return f"sha256:{digest.hexdigest()[:16]}"

    def check(self) -> None:
        """Check names, path, dtype and quantization before PyTorch is imported. Raises: UserError."""
        if self.display_name is not None and not 0 < len(self.display_name.strip()) <= LONGEST_NAME:
            raise UserError(f"a model is shown under a name of 1 to {LONGEST_NAME} characters; shorten --name.")
        self.check_exists()
        check_scheme(self.quantization)
        check_dtype(self.dtype)

    def check_exists(self) -> None:
        """Check a name or path without a request to the hub. Raises: UserError if it is neither a folder nor an id."""
        if hosted := on_hub(self.name):
            require_model(hosted[0], self.revision, hosted[1])
            return
        if self.gguf:
            self.gguf.check()
            if self.revision is not None:
                raise UserError(f"{self.name} is a file; --revision is for models on the hub.")
            return
        folder = Path(self.location)
        if self.name and folder.is_dir():
            if not (folder / "config.json").exists():
                raise UserError(f"{self.name} is no model folder: it has no config.json.")
            if self.revision is not None:
                raise UserError(f"{self.name} is a folder; --revision is for models on the hub.")
            self._check_files(folder)
            return
        looks_like_id = self.name.count("/") == 1 and not self.name.startswith((".", "/", "~"))
        if not looks_like_id:
            raise (
                unknown("model", self.name, embedded_models())
                if "/" not in self.name
                else UserError(
                    f"there is no model folder {self.name}; give a folder, or a Hugging Face id such as owner/name."
                )
            )
        require_model(self.name, self.revision)

    def _check_files(self, folder: Path) -> None:
        """Raises: UserError for a pipe or a device among the files, which no library that opens them would refuse."""
        for path in folder.iterdir():
            try:
                require_regular(path)
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}; take it out of {self.name}.") from error

    def _load(self, factory: Any, what: str, **options: Any) -> Any:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        silence_hub()
        if self.gguf:
            options["gguf_file"] = self.gguf.path.name
        elif not Path(self.location).is_dir():
            options["local_files_only"] = not is_reachable()
        try:
            with self.gguf.read_once() if self.gguf else contextlib.nullcontext():
                return factory.from_pretrained(
                    self.location,
                    revision=None if self.gguf else self.revision,
                    trust_remote_code=self.trust_remote_code,
                    **options,
                )
        except Exception as error:  # a broken folder fails in many ways, depending on the library that reads it
            gist = "out of memory." if out_of_memory(error) else explain(error)
            raise UserError(f"cannot load the {what} of {self.name}: {gist}") from error

    def _downloaded(self, repository: str, file: str) -> Path:
        """A file of the hub in its cache. Raises: UserError."""
        from huggingface_hub import hf_hub_download

        silence_hub()
        try:
            return Path(hf_hub_download(repository, file, revision=self.revision, local_files_only=not is_reachable()))
        except Exception as error:  # as in _load
            raise UserError(f"cannot get {self.name}: {explain(error)}") from error


def _is_own_tokenizer(folder: Path) -> bool:
    """Whether a folder has the tokenizer of lcbench's own models. They read every text behind a BOS in training, which
    the file does not tell."""
    own, given = REFERENCE_MODELS / DEFAULT_MODEL / "tokenizer.json", folder / "tokenizer.json"
    return given.is_file() and given.stat().st_size == own.stat().st_size and given.read_bytes() == own.read_bytes()


def _own_dtype(config: PretrainedConfig) -> torch.dtype | None:
    """The dtype in a config, None if it has none."""
    import torch

    named = getattr(config, "dtype", None)
    return named if isinstance(named, torch.dtype) else None


def embedded_models() -> dict[str, Path]:
    """The reference models that ship with lcbench, by name."""
    return {path.parent.name: path.parent for path in sorted(REFERENCE_MODELS.glob("*/config.json"))}
