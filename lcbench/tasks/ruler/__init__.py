"""RULER's synthetic tasks."""
