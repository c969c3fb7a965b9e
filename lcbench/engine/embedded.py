"""The reference models that ship with lcbench."""

from __future__ import annotations

import filecmp
from pathlib import Path

REFERENCE_MODELS = Path(__file__).parents[1] / "reference_models"
DEFAULT_MODEL = "lcbench-tiny"


def embedded_models() -> dict[str, Path]:
    """The reference models that ship with lcbench, by name."""
    return {path.parent.name: path.parent for path in sorted(REFERENCE_MODELS.glob("*/config.json"))}


def has_own_tokenizer(folder: Path) -> bool:
    """Whether a folder has the tokenizer file of the embedded models. In training, a BOS preceded every text, which
    that file does not say; the files that `lcbench train` writes do."""
    own, given = REFERENCE_MODELS / DEFAULT_MODEL / "tokenizer.json", folder / "tokenizer.json"
    return given.is_file() and filecmp.cmp(own, given, shallow=False)
