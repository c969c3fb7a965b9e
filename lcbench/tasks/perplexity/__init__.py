"""Perplexity on long books."""
