"""Tokens in, tokens out: prefill, decode, and what they cost."""
