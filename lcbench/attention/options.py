"""What is said of attention itself, apart from the model: who computes it, and how its KV cache is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lcbench.core.errors import unknown

AUTO = "auto"
BACKEND_NAMES = ("reference", "matmul", "tiled", "flash", "triton")
KV_DTYPES = ("auto", "float32", "bfloat16", "float16", "float8_e4m3fn")
ALIASES = {"joint": "matmul"}  # names that backends had before, and that commands may still give
RECORDED = {"matmul": "joint"}  # in the identity of a run, so that folders of before go on under either name


def backend_name(name: str) -> str:
    """The name of a backend that is meant by a name or one of its aliases; any other name as it is."""
    return ALIASES.get(name, name)


def check_backend_name(name: str) -> None:
    """Raises: UserError for a name that is no backend and not `auto`."""
    if backend_name(name) not in (AUTO, *BACKEND_NAMES):
        raise unknown("attention backend", name, (AUTO, *BACKEND_NAMES))


def check_kv_dtype(name: str) -> None:
    """Raises: UserError for a name that is none of `KV_DTYPES`."""
    if name not in KV_DTYPES:
        raise unknown("KV dtype", name, KV_DTYPES)


@dataclass(frozen=True)
class AttentionOptions:
    """`backend` is `auto` (the fastest that can compute a call) or one of `lcbench.attention.backends.dispatch`;
    `kv_dtype` (`auto`: the model's) and `kv_offload` (to the RAM of the CPU) say how a KV cache stores its keys and
    values (`lcbench.attention.cache.growing.held_keys`)."""

    backend: str = AUTO
    kv_dtype: str = "auto"
    kv_offload: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", backend_name(self.backend))

    def check_names(self) -> None:
        """Raises: UserError for a backend or dtype that there is not, on whatever machine; imports no PyTorch."""
        check_backend_name(self.backend)
        check_kv_dtype(self.kv_dtype)

    def identity(self) -> dict[str, Any]:
        """Their part in the identity of a run. `auto` is None there: it goes by the machine."""
        backend = None if self.backend == AUTO else RECORDED.get(self.backend, self.backend)
        identity: dict[str, Any] = {"attention": backend}
        if self.kv_dtype != "auto":
            identity["kv_dtype"] = self.kv_dtype
        if self.kv_offload:
            identity["kv_offload"] = True
        return identity
