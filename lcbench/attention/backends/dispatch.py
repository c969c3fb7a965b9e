"""The backends, which calls each of them supports, and which one computes a call.

| name      | what it is                                                  | where                                  |
| reference | one dense matrix of scores in float64: the truth            | anywhere; n x n, for short runs        |
| matmul    | matrix products, one softmax over all pieces                | anywhere; gradients, soft caps, decode |
| tiled     | PyTorch's flash attention for CPUs, in tiles                | CPU prefill                            |
| flash     | FlashAttention 3 or 4 if installed, else 2, over parts      | CUDA, bfloat16 and float16             |
|           | of pieces                                                   |                                        |
| flex      | PyTorch's FlexAttention, compiled, a call a piece           | CUDA, with the package triton          |
| triton    | a Triton kernel, one pass over all pieces                   | CUDA, with the package triton          |

`joint` is another name of `matmul`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.matmul import matmul_attention
from lcbench.attention.backends.reference import dense_attention
from lcbench.attention.backends.tiled import tiled_attention
from lcbench.attention.options import AUTO, backend_name, check_backend_name
from lcbench.core.errors import UserError

DECODE_QUERIES = 16  # up to this many queries, `matmul` is the fastest
logger = logging.getLogger("lcbench")


@dataclass(frozen=True)
class Backend:
    """One implementation of attention over pieces.

    `machine` and `refusal` return why it cannot run on a device, or does not support a call: the end of a sentence that
    begins with its name, or None if it can. `kernel` names the library kernel in use, if it has several.
    """

    name: str
    run: Callable[[Call], Output]
    machine: Callable[[torch.device], str | None]
    refusal: Callable[[Call], str | None]
    kernel: Callable[[], str] | None = None

    @property
    def label(self) -> str:
        return self.name if self.kernel is None else f"{self.name} ({self.kernel()})"

    def why_not(self, call: Call) -> str | None:
        return self.machine(call.q_BHTD.device) or self.refusal(call)


class BackendSelector:
    """Chooses the backend of each call in a block: the requested one, or the fastest that supports the call.

    `auto` takes `flash` or `tiled` for prefill, and `matmul` for decode and for calls they do not support; never `flex`
    or `triton`, which were faster in no measurement. A requested backend computes every call, decode included.
    """

    def __init__(self, name: str = AUTO) -> None:
        """Raises: UserError for an unknown name."""
        check_backend_name(name)
        self.name = backend_name(name)
        self._used: set[str] = set()

    @property
    def used(self) -> list[str]:
        """Labels of the backends used so far, with their kernels."""
        return sorted(self._used)

    def check(self, device: torch.device) -> None:
        """Raises: UserError if the requested backend does not run on a device."""
        if self.name != AUTO and (why := BACKENDS[self.name].machine(device)):
            raise self._refused(why, [name for name, backend in BACKENDS.items() if not backend.machine(device)])

    def __call__(self, call: Call) -> Output:
        """Raises: UserError if the requested backend does not support this call."""
        backend = self._backend(call)
        if self.note(backend.label):
            logger.info("attention of %d queries is computed by %s", call.q_BHTD.shape[2], backend.label)
        return backend.run(call)

    def note(self, label: str) -> bool:
        """Record what computes a call; returns whether this is its first call."""
        known = len(self._used)
        self._used.add(label)
        return len(self._used) > known

    def _backend(self, call: Call) -> Backend:
        if self.name == AUTO:
            decodes = call.q_BHTD.shape[2] <= DECODE_QUERIES
            fast = () if decodes else (BACKENDS[name] for name in ("flash", "tiled"))
            return next((backend for backend in fast if not backend.why_not(call)), BACKENDS["matmul"])
        backend = BACKENDS[self.name]
        if why := backend.why_not(call):
            raise self._refused(why, [name for name, other in BACKENDS.items() if not other.why_not(call)])
        return backend

    def _refused(self, why: str, others: list[str]) -> UserError:
        return UserError(f"attention backend {self.name} {why}; use {', '.join([AUTO, *others[:-1]])} or {others[-1]}.")


def _run_flash(call: Call) -> Output:
    from lcbench.attention.backends.flash import flash_attention  # imported on use: the import takes a second

    return flash_attention(call)


def _flash_kernel() -> str:
    from lcbench.attention.backends.flash import kernel_name

    return kernel_name()


def _run_flex(call: Call) -> Output:
    from lcbench.attention.backends.flex import flex_pieces_attention  # imported on use: it imports the compiler

    return flex_pieces_attention(call)


def _run_triton(call: Call) -> Output:
    from lcbench.attention.backends.triton_fused import triton_fused_attention  # imported on use: triton is optional

    return triton_fused_attention(call)


def _anywhere(device: torch.device) -> None:
    return None


def _float64_machine(device: torch.device) -> str | None:
    return "computes in float64, which mps does not support" if device.type == "mps" else None


def _cpu_machine(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f"runs on CPUs, not on {device.type}"


def _flash_machine(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"runs on CUDA GPUs, not on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of the Ampere generation or a later one"
    return None


def _compiling_machine(device: torch.device) -> str | None:
    """Why a kernel that Triton compiles cannot run on a device; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton (pip install triton)"
    return _flash_machine(device)


def _triton_machine(device: torch.device) -> str | None:
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"  # for tests
    return None if interpreted and importlib.util.find_spec("triton") else _compiling_machine(device)


def _everything(call: Call) -> None:
    return None


def _plain_scores(call: Call) -> str | None:
    if call.softcap is not None:
        return "does not support the soft cap that this model's scores have"
    return _no_gradients(call)


def _no_gradients(call: Call) -> str | None:
    return "has no gradients" if call.needs_gradient else None


def _tiled_refusal(call: Call) -> str | None:
    widths = None if call.same_width else "needs values as wide as keys"
    return _plain_scores(call) or widths


def _flash_refusal(call: Call) -> str | None:
    from lcbench.attention.backends.flash import refusal

    return _plain_scores(call) or refusal(call)


def _flex_refusal(call: Call) -> str | None:
    from lcbench.attention.backends.flex import refusal

    return _no_gradients(call) or refusal(call)


def _triton_refusal(call: Call) -> str | None:
    from lcbench.attention.backends.triton_fused import refusal

    return _plain_scores(call) or refusal(call)


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", dense_attention, _float64_machine, _everything),
        Backend("matmul", matmul_attention, _anywhere, _everything),
        Backend("tiled", tiled_attention, _cpu_machine, _tiled_refusal),
        Backend("flash", _run_flash, _flash_machine, _flash_refusal, _flash_kernel),
        Backend("flex", _run_flex, _compiling_machine, _flex_refusal),
        Backend("triton", _run_triton, _triton_machine, _triton_refusal),
    )
}
