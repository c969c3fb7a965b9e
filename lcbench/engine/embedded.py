"""The reference models that ship with lcbench."""

from __future__ import annotations

from pathlib import Path

REFERENCE_MODELS = Path(__file__).parents[1] / "reference_models"
DEFAULT_MODEL = "lcbench-tiny"


def embedded_models() -> dict[str, Path]:
    """The reference models that ship with lcbench, by name."""
    return {path.parent.name: path.parent for path in sorted(REFERENCE_MODELS.glob("*/config.json"))}


def has_own_tokenizer(folder: Path) -> bool:
    """Whether a folder has the tokenizer of lcbench's own models. They read every text behind a BOS in training, which
    the file does not tell."""
    own, given = REFERENCE_MODELS / DEFAULT_MODEL / "tokenizer.json", folder / "tokenizer.json"
    return given.is_file() and given.stat().st_size == own.stat().st_size and given.read_bytes() == own.read_bytes()
