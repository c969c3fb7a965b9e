"""Copy a checkpoint whose weights are pickles (`pytorch_model*.bin`) into safetensors, the only format that is loaded.

Older models, among them all LongLLaMA checkpoints, exist as pickles only. They are read by PyTorch's restricted
unpickler (`weights_only=True`), which builds tensors and runs no code.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from lcbench.core.errors import UserError
from lcbench.core.hub import explain, silence_hub
from lcbench.engine.checkpoint import Checkpoint

KEPT = ("*.json", "*.model", "*.txt", "*.jinja")  # configs and tokenizers


def convert_checkpoint(name: str, out: Path, revision: str | None = None) -> list[Path]:
    """Convert the folder or Hugging Face id `name` into the folder `out`; returns the weight files written.

    One shard is in memory at a time; a conversion that fails or is interrupted leaves `out` empty.

    Raises: UserError if there is no such model or nothing to convert, or if `out` is not empty or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out.")
    checkpoint = Checkpoint(name, revision)
    checkpoint.check_exists()
    if checkpoint.gguf:
        raise UserError(f"{name} is a GGUF file, which every command accepts as it is.")
    folder = Path(checkpoint.location)
    if not folder.is_dir():
        folder = _download(name, revision)
    shards = sorted(folder.glob("pytorch_model*.bin"))
    if not shards:
        raise UserError(f"{name} has no pytorch_model*.bin to convert.")

    try:
        out.mkdir(parents=True, exist_ok=True)
        return _convert(name, folder, shards, out)
    except BaseException as error:
        for path in out.glob("*"):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write to {out}: {error.strerror or error}; choose another --out.") from error
        raise


def _convert(name: str, folder: Path, shards: list[Path], out: Path) -> list[Path]:
    """The weight files written. Raises: OSError if `out` cannot be written."""
    import torch
    from safetensors.torch import save_file

    written: dict[str, str] = {}  # file of each tensor
    size = 0
    for shard in shards:
        try:
            tensors: dict[str, Any] = torch.load(shard, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(tensors, dict) or not all(isinstance(x, torch.Tensor) for x in tensors.values()):
                raise pickle.UnpicklingError("not a mapping of tensors")
        except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{shard.name} of {name} holds more than tensors, or is damaged; it was not run."
            ) from error
        target = out / shard.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        # Clones: tied tensors share memory, which the format does not allow.
        save_file({key: x.clone().contiguous() for key, x in tensors.items()}, target, metadata={"format": "pt"})
        written |= dict.fromkeys(tensors, target.name)
        size += sum(x.nbytes for x in tensors.values())
    for path in {path for pattern in KEPT for path in folder.glob(pattern)}:
        if not path.name.endswith(".bin.index.json"):
            shutil.copy(path, out / path.name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": written}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return [out / file for file in dict.fromkeys(written.values())]


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    silence_hub()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*KEPT, "pytorch_model*.bin"]))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise UserError(f"cannot get {name}: {explain(error)}") from error
