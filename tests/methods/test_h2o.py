"""H2O's sums of attention weights, in blocks of queries."""

import pytest
import torch

from lcbench.methods import content, parse_method
from lcbench.methods.base import Lengths
from lcbench.methods.content import Content


def test_blocks_of_queries_see_the_keys_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of 20 queries after 10 keys, in blocks of 7, as a dense softmax."""
    q, k, i = torch.randn(4, 20, 8), torch.randn(2, 30, 8), torch.arange(10, 30)
    pieces = parse_method("vanilla").pieces(i, torch.arange(30), 0)
    seen = Content(q, k, k, pieces, lambda *_: pieces, lambda x, _: x, lambda _, a, b: k[:, a:b], 0.3)
    monkeypatch.setitem(content.SCORES_AT_ONCE, "cpu", 7 * 4 * 30)
    hidden = torch.arange(30) > i[:, None]
    weights = (0.3 * q @ k.repeat_interleave(2, 0).mT).masked_fill(hidden, -torch.inf).softmax(-1)
    expected = weights.sum(1).view(2, 2, 30).mean(1)
    found = parse_method("h2o").resolve(Lengths(64)).observe(seen, 0, None)
    assert len(list(seen.row_blocks())) == 3
    torch.testing.assert_close(found, expected)
