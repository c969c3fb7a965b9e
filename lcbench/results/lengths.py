"""How the length of a cell is written."""

from __future__ import annotations

UNKNOWN = "unknown"  # of a run that was imported, whose log does not tell it


def in_tokens(seq_len: int) -> str:
    """`4,096`."""
    return f"{seq_len:,}" if seq_len else UNKNOWN
