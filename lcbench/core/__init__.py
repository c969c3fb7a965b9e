"""Foundations that every room may use: errors, specs, files, locks, statistics, tokens, processes."""
