"""The placement of a model: on one device, over all of them, or split over the processes of torchrun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.processes import Processes, launched
from lcbench.engine.checkpoint import Checkpoint
from lcbench.engine.gguf_files import is_gguf

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Placement:
    """`device` "auto" is the first GPU, if any, and under a launcher the GPU of the local rank. `device_map` "auto"
    spreads the layers over all GPUs, then RAM and disk; `tensor_parallel` splits every layer over the processes of
    torchrun."""

    device: str = "auto"
    device_map: str | None = None
    tensor_parallel: bool = False

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

    def check(self, checkpoint: Checkpoint, processes: Processes) -> None:
        """Raises: UserError for options that contradict each other, the model or the number of processes."""
        if self.device_map not in (None, "auto"):
            raise UserError(f"--device-map can only be auto, not {self.device_map!r}.")
        if self.device_map and self.device != "auto":
            raise UserError("--device-map auto uses all devices; leave --device out.")
        if self.device_map and processes.local_rank:
            raise UserError("--device-map auto uses all GPUs of a machine; launch only one process per machine.")
        if not self.tensor_parallel:
            return
        if self.device_map or self.device != "auto":
            raise UserError("--tensor-parallel places the model itself; leave --device and --device-map out.")
        if is_gguf(checkpoint.name):
            raise UserError("--tensor-parallel does not split a GGUF file; take the model's folder or Hugging Face id.")
        if processes.count == 1:
            raise UserError(
                "--tensor-parallel needs several processes: torchrun --nproc-per-node 2 -m lcbench run ... starts two."
            )
        heads = checkpoint.config().get_text_config()
        shared = getattr(heads, "num_key_value_heads", None) or heads.num_attention_heads
        if shared % processes.count:
            raise UserError(
                f"the {shared} KV heads of {checkpoint.name} cannot be split over {processes.count} processes; launch "
                f"a number that divides {shared}."
            )

    def loading_options(self, device: torch.device) -> dict[str, Any]:
        """Arguments of `from_pretrained` that load the weights directly onto their devices."""
        if self.tensor_parallel:
            from transformers.distributed import DistributedConfig

            return {"distributed_config": DistributedConfig(tp_plan="auto")}
        return {"device_map": self.device_map or device}
