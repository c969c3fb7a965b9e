"""Errors that a user can cause: one sentence that names the thing and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 25  # names in a sentence


class UserError(ValueError):
    """Something the user typed or pointed at cannot be used; the command line prints it and exits with 2."""


class UnsupportedModelError(UserError):
    """This model cannot be steered; the message says which layer and why."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in `known`, with the closest match; a long list is shortened to its folders."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if len(names) > MANY:
        names = sorted({name if "/" not in name else f"{name.partition('/')[0]}/..." for name in names})
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."
    return UserError(f"unknown {kind} {name!r}; {hint}")


def gist_of(error: BaseException) -> str:
    """The first sentence of a library's error message, without its full stop."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or in RAM; libraries report it in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
