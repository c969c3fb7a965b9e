"""What every figure must keep to."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase


def assert_apart(figure: Figure, boxes: Sequence[BboxBase | None]) -> None:
    """Every box, in pixels, is within the figure, and no two overlap by more than a pixel or two."""
    width, height = figure.bbox.size
    for index, box in enumerate(boxes):
        assert box is not None and box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        for other in boxes[:index]:
            assert other is not None
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across < 2 or down < 2
