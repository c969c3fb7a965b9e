"""Measurements of lcbench's own, behind the tables of README and model cards; run from the repository."""
