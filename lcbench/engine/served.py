"""The method of a model that another program runs: whatever that program applies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lcbench.core.errors import UserError, brief
from lcbench.methods import Method

SERVED = "served"
LABEL = re.compile(r"[\w.,:=+-]{1,60}")  # no slash, which separates the parts of a record's id, and no space


@dataclass(frozen=True)
class Served(Method):
    """lcbench only sends prompts. `as_label` names the method that the program applies, in the user's words; tables
    show it as `served:as_label`, apart from lcbench's own methods."""

    as_label: str | None = None

    def __str__(self) -> str:
        return SERVED if self.as_label is None else f"{SERVED}:{self.as_label}"

    @property
    def label(self) -> str:
        return str(self)


def served_methods(label: str | None, typed: Sequence[str] | None) -> list[Method]:
    """The one method of such a model. Methods that a suite names do not apply; those on the command line were refused
    before. Raises: UserError for a label that cannot be part of a table."""
    if label is not None and not LABEL.fullmatch(label):
        raise UserError(
            f"--served-as {brief(label)} must be a short name of letters, digits and . , : = + - _, up to 60, "
            "such as yarn:factor=4."
        )
    return [Served(label)]
