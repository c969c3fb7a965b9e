"""Measures of an example: the answer that the model generates or chooses, or the likelihood of a text. A task names its
measure."""

from __future__ import annotations

from lcbench.run.measures.answer import Answer
from lcbench.run.measures.base import Measure, Measured, SampleRequest
from lcbench.run.measures.choice import Choice
from lcbench.run.measures.likelihood import Likelihood

__all__ = ["MEASURES", "Measure", "Measured", "SampleRequest"]

MEASURES: dict[str, type[Measure]] = {"answer": Answer, "choice": Choice, "likelihood": Likelihood}
