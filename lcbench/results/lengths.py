"""Formatting of lengths."""

from __future__ import annotations

UNKNOWN = "unknown"  # of an imported run whose log lacks it


def in_tokens(seq_len: int) -> str:
    """`4,096`."""
    return f"{seq_len:,}" if seq_len else UNKNOWN
