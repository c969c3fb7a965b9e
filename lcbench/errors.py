"""Errors that a user can cause: one sentence that names the thing and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user typed or pointed at cannot be used; the command line prints it and exits with 2."""


class UnsupportedModelError(UserError):
    """This model cannot be steered; the message says which layer and why."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in `known`, with the nearest name that is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."
    return UserError(f"unknown {kind} {name!r}; {hint}")
