"""Checkpoints in one GGUF file, the format of llama.cpp; transformers reads config, tokenizer and weights from it.

The weights are dequantized when they are loaded: the file is small, the model is not. What a file says and transformers
does not read is added: to the config in `gguf_config`, to the tokenizer in `gguf_tokenizer`.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache, lru_cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".gguf"
MAGIC = b"GGUF"
PROJECTOR = "clip"  # the architecture of mmproj files
SHARE = 0.01  # of the weights; types with less are not named
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ON_HUB = re.compile(r"(?P<id>[\w.-]+/[\w.-]+):(?P<file>[^:]+\.gguf)", re.IGNORECASE)
PART_OF_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def is_gguf(name: str) -> bool:
    """Whether a name as typed is meant as a GGUF file, on this machine or as `ID:FILE.gguf` on the hub."""
    return name.lower().endswith(SUFFIX)


def on_hub(name: str) -> tuple[str, str] | None:
    """The repository and the file of `ID:FILE.gguf`; None for a path."""
    match = None if Path(name).expanduser().exists() else ON_HUB.fullmatch(name)
    return (match["id"], match["file"]) if match else None


def refuse_part(name: str) -> None:
    """Raises: UserError for a part of a split model, told by its name."""
    if PART_OF_SPLIT.search(name):
        raise UserError(
            f"{name} is a part of a split model, which transformers does not read; join the parts with "
            "`llama-gguf-split --merge`."
        )


@dataclass(frozen=True)
class GgufFile:
    """A file on this machine; `name` is what was typed, for messages."""

    name: str
    path: Path

    def check(self) -> None:
        """Raises: UserError for what is not a whole GGUF file of a model, before anything heavy is imported."""
        refuse_part(self.name)
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.name} is not a regular file; give a GGUF file.")
            with self.path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise UserError(f"cannot read {self.name}: {error.strerror or error}.") from error
        if magic != MAGIC:
            raise UserError(f"{self.name} is not a GGUF file: it does not begin with the letters GGUF.")

    @property
    def _contents(self) -> tuple[dict[str, Any], Any]:
        self.check()
        status = self.path.stat()
        return _parsed(self, status.st_size, status.st_mtime_ns)

    @property
    def metadata(self) -> dict[str, Any]:
        """Keys and values of the file; for a list of strings, its length. Raises: UserError for a damaged file."""
        return self._contents[0]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def value(self, key: str) -> Any:
        """The value under the architecture's own prefix, None if there is none."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def entries(self, key: str, numbers: Sequence[int] | None = None) -> list[Any]:
        """The entries of a list, of which `metadata` has the length: all, or those of these numbers."""
        field = self._contents[1].fields.get(key)
        if field is None:
            return []
        return list(field.contents()) if numbers is None else [field.contents(number) for number in numbers]

    def tensor(self, name: str) -> Any:
        """The values of a tensor as stored; None if the file has no such tensor."""
        return next((tensor.data for tensor in self._contents[1].tensors if tensor.name == name), None)

    @property
    def types(self) -> list[str]:
        """The types of at least `SHARE` of the weights as ggml names them, the most frequent first."""
        elements: Counter[str] = Counter()
        for tensor in self._contents[1].tensors:
            elements[tensor.tensor_type.name] += int(tensor.n_elements)
        return [name for name, count in elements.most_common() if count >= SHARE * elements.total()]

    @property
    def dtype(self) -> str | None:
        """The floating-point type of weights that are not quantized, as torch names it."""
        return FLOATS.get(self.types[0])

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Inside, transformers uses the parsed file. For most architectures, its loader would parse it again for
        config, tokenizer and weights, and rebuild the table of tensor names for each module of the model."""
        import gguf

        parsed, before = self._contents[1], (gguf.GGUFReader, gguf.get_tensor_name_map)

        def reader(path: str | os.PathLike[str], *options: Any) -> Any:
            return parsed if os.path.samefile(path, self.path) else before[0](path, *options)

        gguf.GGUFReader, gguf.get_tensor_name_map = reader, cache(before[1])
        try:
            with redirect_stderr(StringIO()):  # its progress bar, which no option turns off
                yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = before

    def finish(self, model: PreTrainedModel) -> None:
        """Make a model loaded from this file a plain one that can be saved, and drop the parsed file."""
        self.check_unread(model)
        _parsed.cache_clear()
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):  # one loader of two leaves it
            del model.config.quantization_config

    def check_unread(self, model: PreTrainedModel) -> None:
        """Raises: UserError for tensors that no parameter takes, such as biases: without them the model would compute
        something else."""
        import gguf
        from transformers.integrations.gguf import is_gguf_arch_supported

        if is_gguf_arch_supported(self.architecture):
            return  # this loader reports tensors that it did not read

        tensors = [tensor for tensor in self._contents[1].tensors if not tensor.name.startswith("rope_")]
        stored = model.state_dict().keys()
        taken = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name in stored)]
        if sum(int(tensor.n_elements) for tensor in tensors) == sum(x.numel() for x in taken):
            return
        layers = model.config.get_text_config().num_hidden_layers
        kinds = [kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture]
        names: Any = gguf.get_tensor_name_map(kinds[0], layers) if kinds else None
        parts = [key.rpartition(".") for key in model.state_dict()] if kinds else []
        read = {f"{names.get_name(module)}.{parameter}" for module, _, parameter in parts}
        unread = [tensor.name for tensor in tensors if tensor.name not in read]
        if unread:
            raise UserError(
                f"{self.name} has tensors that no module of {type(model).__name__} reads: {len(unread)}, such as "
                f"{unread[0]}."
            )


@lru_cache(maxsize=1)
def _parsed(file: GgufFile, size: int, changed: int) -> tuple[dict[str, Any], Any]:
    """Metadata and gguf's reader of a file, parsed once per process unless it changes. Raises: UserError for a damaged
    file."""
    import gguf
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        # The stricter reader comes first: gguf's own may never end on a damaged length.
        metadata, _ = read_gguf_metadata(str(file.path))
        reader = gguf.GGUFReader(file.path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error, OSError) as error:
        raise UserError(f"{file.name} is damaged or truncated; download it again.") from error
    if metadata["general.architecture"] == PROJECTOR:
        raise UserError(f"{file.name} holds only the vision part of a model; give the GGUF file of its language model.")
    return metadata, reader
