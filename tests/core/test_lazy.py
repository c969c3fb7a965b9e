from __future__ import annotations

import torch

from lcbench.core import lazy


def test_torch_is_pytorch() -> None:
    assert lazy.torch.Tensor is torch.Tensor and lazy.torch.nn.functional is torch.nn.functional


def test_not_compiled() -> None:
    """From its first call on, be it within a compiled function or not, the compiler leaves it alone."""
    compiling = []

    @lazy.not_compiled
    def plain(x: torch.Tensor, *, by: int) -> torch.Tensor:
        """Adds."""
        compiling.append(torch.compiler.is_compiling())
        return x + by

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * plain(2 * x, by=3)

    compiled = torch.compile(doubled, backend="eager")
    assert compiled(torch.ones(())) == 10 and compiled(torch.zeros(())) == 6 and doubled(torch.ones(())) == 10
    assert compiling == [False, False, False] and (plain.__name__, plain.__doc__) == ("plain", "Adds.")
