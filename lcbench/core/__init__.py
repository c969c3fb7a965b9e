"""Foundations that every other package may import: errors, specs, files, locks, statistics, tokens, processes."""
