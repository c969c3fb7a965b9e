"""Options of attention itself: the backend that computes it, and the storage of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lcbench.core.errors import UserError, unknown
from lcbench.methods.base import CONTENT, Method

AUTO = "auto"
BACKEND_NAMES = ("reference", "matmul", "tiled", "flash", "flex", "triton")
KV_DTYPES = ("auto", "float32", "bfloat16", "float16", "float8_e4m3fn")
ALIASES = {"joint": "matmul"}  # former names of backends, which commands may still use
RECORDED = {"matmul": "joint"}  # in the identity of a run, so that old run folders can be continued


def backend_name(name: str) -> str:
    """The current name of a backend, given its name or an alias; any other name unchanged."""
    return ALIASES.get(name, name)


def check_backend_name(name: str) -> None:
    """Raises: UserError for a name that is neither a backend nor `auto`."""
    if backend_name(name) not in (AUTO, *BACKEND_NAMES):
        raise unknown("attention backend", name, (AUTO, *BACKEND_NAMES))


def check_kv_dtype(name: str) -> None:
    """Raises: UserError for a name that is not in `KV_DTYPES`."""
    if name not in KV_DTYPES:
        raise unknown("KV dtype", name, KV_DTYPES)


@dataclass(frozen=True)
class AttentionOptions:
    """`backend` is `auto` (the fastest that can compute a call) or one of `lcbench.attention.backends.dispatch`;
    `kv_dtype` (`auto`: the model's) and `kv_offload` (to RAM) are the dtype and place of the keys and values in a KV
    cache (`lcbench.attention.cache.growing.key_storage`)."""

    backend: str = AUTO
    kv_dtype: str = "auto"
    kv_offload: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", backend_name(self.backend))

    def check_names(self) -> None:
        """Raises: UserError for an unknown backend or dtype; does not import PyTorch."""
        check_backend_name(self.backend)
        check_kv_dtype(self.kv_dtype)

    def check_method(self, method: Method) -> None:
        """Raises: UserError for options that a method that selects keys by content does not support."""
        if not method.hooks & CONTENT:
            return
        if self.backend != AUTO:
            raise UserError(
                f"{method.label} selects keys and computes attention over them itself; leave --attention at auto."
            )
        if self.kv_dtype != "auto" or self.kv_offload:
            raise UserError(
                f"{method.label} reads all keys; it does not support a KV cache in another dtype or on another device."
            )

    def identity(self) -> dict[str, Any]:
        """The options' entries in the identity of a run. `auto` is None there, since it depends on the machine."""
        backend = None if self.backend == AUTO else RECORDED.get(self.backend, self.backend)
        identity: dict[str, Any] = {"attention": backend}
        if self.kv_dtype != "auto":
            identity["kv_dtype"] = self.kv_dtype
        if self.kv_offload:
            identity["kv_offload"] = True
        return identity
