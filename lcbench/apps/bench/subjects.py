"""The subjects of a bench: vanilla attention by other libraries' kernels, and methods by lcbench's backends."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lcbench
from lcbench.apps.bench.target import Target
from lcbench.attention.mask import Span
from lcbench.attention.probe import attention_set_to
from lcbench.attention.rope import RopeTables
from lcbench.attention.steering import steered_attention
from lcbench.core.errors import UserError, unknown
from lcbench.engine.generate import PREFILL_CHUNK
from lcbench.methods import Lengths, Method
from lcbench.methods.base import CONTENT

NATIVE = "sdpa"


class Subject(ABC):
    """One way of running the model at one length."""

    name: str
    baseline: bool
    method: Method  # resolved
    lengths: Lengths
    chunk: int | None  # tokens a forward call of prefill; None: all at once

    @abstractmethod
    def running(self) -> contextlib.AbstractContextManager[object]:
        """Inside, the target's model runs so."""

    @abstractmethod
    def attend(self, index: int, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
        """Rotation and causal attention of one layer, [B, T, H, D]; inside `running` only."""

    @property
    def backends(self) -> list[str]:
        """Which backends of lcbench computed so far."""
        return []


class Baseline(Subject):
    """Vanilla attention as the model itself has it, prefill in one call: in chunks `transformers` would give SDPA a
    mask in place of causality, at twice the work."""

    baseline = True
    chunk = None

    def __init__(self, target: Target, name: str, implementation: str, kernel: SDPBackend | None = None) -> None:
        """`implementation` is the attention function of `transformers`, `kernel` the only one that SDPA may take."""
        self.target, self.name, self.implementation, self.kernel = target, name, implementation, kernel
        self.method = Method()
        self.lengths = Lengths(target.pretraining)
        self._tables = RopeTables(self.method, self.lengths)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        only = contextlib.nullcontext() if self.kernel is None else sdpa_kernel(self.kernel)
        with attention_set_to(self.target.model, self.implementation), only:
            yield

    def attend(self, index: int, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
        module, layer = self.target.layers[index]
        positions = torch.arange(q_BHTD.shape[2])
        q, k = (self._tables.rotate(x, positions, layer.rope) for x in (q_BHTD, k_BKTD))
        function = ALL_ATTENTION_FUNCTIONS[self.implementation]
        scale = _scale(module, q)
        out: Tensor = function(module, q, k, v_BKTD, None, dropout=0.0, scaling=scale, is_causal=True)[0]
        return out


class Steered(Subject):
    """A method by `lcbench.extend`, prefill in the chunks of every lcbench run."""

    baseline = False
    chunk = PREFILL_CHUNK

    def __init__(self, target: Target, spec: str, backend: str, length: int, *, named: bool = False) -> None:
        """`length` is the whole length of the run; `named` puts the backend into the name.

        Raises: UserError where the method does not fit the model, or the backend the machine.
        """
        self.target, self.name = target, f"{spec} ({backend})" if named else spec
        self.steering = lcbench.extend(target.model, spec, length=length, attention=backend)
        self.method, self.lengths = self.steering.method, self.steering.lengths
        with self.steering:  # a model that cannot be steered is refused here and not after an hour
            pass

    def running(self) -> contextlib.AbstractContextManager[object]:
        return self.steering

    def attend(self, index: int, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
        module, layer = self.target.layers[index]
        span = Span(0, q_BHTD.shape[2], (0,) * len(q_BHTD), layer.window)
        out: Tensor = steered_attention(module, q_BHTD, k_BKTD, v_BKTD, span, scaling=_scale(module, q_BHTD))[0]
        return out

    @property
    def backends(self) -> list[str]:
        return self.steering.backends


BASELINES: dict[str, tuple[str, SDPBackend | None]] = {
    NATIVE: ("sdpa", None),
    "sdpa flash": ("sdpa", SDPBackend.FLASH_ATTENTION),
    "sdpa cudnn": ("sdpa", SDPBackend.CUDNN_ATTENTION),
    "fa3": ("flash_attention_3", None),
}


def baselines(target: Target, names: Sequence[str] | None = None) -> list[Subject]:
    """The baselines of these names, by default the model's own SDPA, and on a GPU each kernel that vanilla attention
    may run by: what the machine lacks fails when it is checked, with the reason. FlashAttention 3 is there if it is
    installed. Raises: UserError for an unknown name."""
    from transformers.utils import is_flash_attn_3_available

    if names is None:
        on_gpu = [name for name in BASELINES if name != "fa3" or is_flash_attn_3_available()]
        names = on_gpu if target.device.type == "cuda" else [NATIVE]
    for name in names:
        if name not in BASELINES:
            raise unknown("baseline", name, tuple(BASELINES))
    return [Baseline(target, name, *BASELINES[name]) for name in names]


def require_dense(method: Method) -> None:
    """Raises: UserError for a method that searches or chooses keys: which it sees is not known beforehand."""
    if method.hooks & CONTENT:
        raise UserError(
            f"{method} chooses keys by their content, which no dense reference can check; the records of lcbench run "
            "have its times."
        )
    one = torch.arange(1)
    memories = [piece.memory for piece in method.for_prompt(1).pieces(one, one, 0)]
    options = method.options()
    if options.get("memory") == "knn" or any(memory is not None and memory.top_k for memory in memories):
        raise UserError(
            f"{method} attends to the best keys only, which no dense reference can check; use memory=dense."
        )


def _scale(module: nn.Module, q: Tensor) -> float:
    return float(getattr(module, "scaling", q.shape[-1] ** -0.5))
