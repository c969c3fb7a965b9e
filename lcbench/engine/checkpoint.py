"""The files of a model, and what transformers builds from them without the weights: config, tokenizer, modules."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, out_of_memory, unknown
from lcbench.core.files import require_regular
from lcbench.core.hub import explain, is_reachable, require_model, silence_hub
from lcbench.engine.config_file import check_config_file, padding_fault
from lcbench.engine.embedded import embedded_models, has_own_tokenizer
from lcbench.engine.gguf_config import complete_config, require_whole
from lcbench.engine.gguf_files import GgufFile, is_gguf, on_hub, refuse_part
from lcbench.engine.gguf_tokenizer import complete_tokenizer
from lcbench.engine.longllama import StockConfig
from lcbench.engine.rope_config import idle_factor, rope_fault, wrong_number
from lcbench.engine.stored_tokenizer import as_stored
from lcbench.engine.vocabulary import check_ends

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MOST_LAYERS = 10_000  # building the modules of more takes minutes
# Suffixes of the files that determine a model's output.
READ = (".jinja", ".json", ".model", ".py", ".safetensors", ".tiktoken", "merges.txt", "vocab.txt")
ENDS = 2**20  # bytes at each end of a file that its fingerprint reads


@dataclass(frozen=True)
class Checkpoint:
    """A model by name: an embedded one, a folder, a Hugging Face id, or a GGUF file (on the hub: `ID:FILE.gguf`).

    Remote code runs only if `trust_remote_code`.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def location(self) -> str:
        """The first argument of `from_pretrained`: a folder or a Hugging Face id."""
        if self.gguf:
            return str(self.gguf.path.parent)
        embedded = embedded_models()
        return str(embedded[self.name]) if self.name in embedded else os.path.expanduser(self.name)

    @cached_property
    def gguf(self) -> GgufFile | None:
        """The GGUF file, downloaded if it is on the hub; None for another format. Raises: UserError."""
        if not is_gguf(self.name) or Path(self.name).expanduser().is_dir():
            return None
        hosted = on_hub(self.name)
        return GgufFile(self.name, self._downloaded(*hosted) if hosted else Path(self.name).expanduser())

    def check_exists(self) -> None:
        """Check a name or path without a request to the hub. Raises: UserError if it can be no folder, file or id."""
        if hosted := on_hub(self.name):
            refuse_part(self.name)  # before gigabytes are downloaded
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
                raise UserError(f"{self.name} is not a model folder: it has no config.json.")
            if self.revision is not None:
                raise UserError(f"{self.name} is a folder; --revision is for models on the hub.")
            self._check_files(folder)
            if not self.trust_remote_code:  # which may read a file of its own kind
                check_config_file(self.name, folder / "config.json")
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
        """Raises: UserError for a pipe or a device among the files, which the libraries that read them would open."""
        for path in folder.iterdir():
            try:
                require_regular(path)
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}; take it out of {self.name}.") from error

    def config(self) -> PretrainedConfig:
        """Raises: UserError for a model that does not exist."""
        self.check_exists()
        config: PretrainedConfig
        if self.gguf:
            from transformers import AutoConfig

            require_whole(self.gguf)
            config = self.load(AutoConfig, "config")
            complete_config(self.gguf, config)
        else:
            config = self.load(StockConfig, "config")
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise UserError(
                f"{self.name}: no model has {layers:,} layers; correct num_hidden_layers in its config.json."
            )
        if wrong := wrong_number(config):
            raise UserError(f"{self.name}: {wrong}; correct it.")
        if factor := idle_factor(config):
            raise UserError(
                f"{self.name}: the rope_scaling in its config.json has the factor {factor:g} but no type that uses "
                "it; set rope_type, such as linear or yarn, or remove the factor."
            )
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError for a model without tokenizer, or with one that has tokens beyond its embedding."""
        config = self.config()  # first, since the tokenizer's loader reads it too and blames the wrong file
        from transformers import AutoTokenizer

        folder = Path(self.location)
        names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
        if not self.gguf and folder.is_dir() and not any((folder / name).exists() for name in names):
            raise UserError(f"{self.name} has no tokenizer: copy its tokenizer files (tokenizer.json, ...) there.")
        options = {"add_bos_token": True} if has_own_tokenizer(folder) else {}
        tokenizer: PreTrainedTokenizerBase = self.load(AutoTokenizer, "tokenizer", **options)
        file = None if self.gguf else self._file("tokenizer.json")
        tokenizer = as_stored(self.name, tokenizer, file, lambda kind: self.load(kind, "tokenizer", **options))
        if self.gguf:
            complete_tokenizer(self.gguf, tokenizer)
        else:
            check_ends(self.name, tokenizer, self._file)
        rows = getattr(config.get_text_config(), "vocab_size", None)
        if isinstance(rows, int):
            self.check_tokenizer(tokenizer, rows)
        return tokenizer

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Raises: UserError for tokens that a prompt may contain and that an embedding of `rows` rows lacks.

        Special tokens that the chat template does not write are ignored, since no text is tokenized to them (Gemma 3 1B
        has one for images, which its embedding lacks).
        """
        added, written = tokenizer.added_tokens_decoder, str(tokenizer.chat_template)
        own = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
        for number, token in beyond:
            if number in own or number not in added or not added[number].special or token in written:
                raise UserError(
                    f"the tokenizer of {self.name} has {len(beyond)} tokens that its embedding of {rows} rows lacks, "
                    f"such as {token!r} ({number}); resize the embedding (resize_token_embeddings), or use the model's "
                    "own tokenizer."
                )

    def skeleton(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model's modules without weights, on the meta device. Raises: UserError if it is not a language model."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=self.trust_remote_code
                )
        except Exception as error:  # as in `load`: a broken config fails in many ways
            if fault := rope_fault(config) or padding_fault(config):
                raise UserError(f"{self.name}: {fault}.") from error
            raise UserError(f"{self.name} is not a causal language model: {explain(error)}") from error
        if self.gguf:
            self.gguf.check_unread(skeleton)
        return skeleton

    def fingerprint(self, config: PretrainedConfig) -> str:
        """An identifier of weights and tokenizer: the hub's commit, or a digest of the size and both ends of each file
        (hashing all of a large model would take minutes)."""
        commit = getattr(config, "_commit_hash", None)
        folder = Path(self.location)
        if not self.gguf and (commit or not folder.is_dir()):
            return str(commit)
        digest = hashlib.sha256()
        for path in [self.gguf.path] if self.gguf else sorted(folder.glob("*")):
            if self.gguf or path.name.endswith(READ):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
                with path.open("rb") as file:
                    digest.update(file.read(ENDS))
                    file.seek(-min(ENDS, path.stat().st_size), os.SEEK_END)
                    digest.update(file.read())
        return f"sha256:{digest.hexdigest()[:16]}"

    def load(self, factory: Any, what: str, **options: Any) -> Any:
        """The result of the factory's `from_pretrained`; `what` names it in messages. Raises: UserError."""
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

    @property
    def generation_config(self) -> Path | None:
        """Its generation_config.json; None if it has none."""
        return None if self.gguf else self._file("generation_config.json")

    def _file(self, name: str) -> Path | None:
        """A small file of the model; None if it has none."""
        from huggingface_hub import try_to_load_from_cache

        folder = Path(self.location)
        if folder.is_dir():
            return folder / name if (folder / name).is_file() else None
        cached = try_to_load_from_cache(self.location, name, revision=self.revision)
        return Path(cached) if isinstance(cached, str) else None

    def _downloaded(self, repository: str, file: str) -> Path:
        """A file of the hub in its cache. Raises: UserError."""
        from huggingface_hub import hf_hub_download

        silence_hub()
        try:
            return Path(hf_hub_download(repository, file, revision=self.revision, local_files_only=not is_reachable()))
        except Exception as error:  # as in `load`
            raise UserError(f"cannot get {self.name}: {explain(error)}") from error
