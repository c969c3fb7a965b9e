"""Errors that a user can cause: one sentence that names the thing and the way out."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

MANY = 25  # names in a sentence
# C0 and C1 controls, marks that reverse the direction of text, and halves of surrogate pairs.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 60, 60


class UserError(ValueError):
    """Something the user typed or pointed at cannot be used; the command line prints it and exits with 2."""

    exit_code = 2


class EngineError(Exception):
    """An engine that could not answer; the message says why, in words for a record."""


class LostRecordsError(UserError):
    """The records of a run were removed or replaced while it ran; exit code 1, as for cells that failed."""

    exit_code = 1


class RowError(UserError):
    """A row of the data cannot become a prompt; its samples fail, and those of other rows do not."""


class TooLongError(RowError):
    """A row does not fit into its cell's length whole, and must not be cut."""


class LeftOutError(TooLongError):
    """The same where such rows are left out of a run: they are counted and named, and are not failures."""


class UnsupportedModelError(UserError):
    """This model cannot be steered; the message says which layer and why."""


class NotFiniteError(UserError):
    """Logits that are NaN, infinite or all equal: no answer and no likelihood follows from them."""


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


def brief(value: object) -> str:
    """The `repr` of a value for an error message, of bounded length: only the first levels and entries of lists and
    mappings are formatted."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a {type(value).__name__}"


def shortened(text: str, most: int = 80) -> str:
    """A text cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """A text for a terminal: control characters, which could move its cursor or change its state, and half surrogates
    as escapes such as `\\x1b`; line breaks and tabs stay."""
    return _HARMFUL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else found[0].encode("unicode_escape").decode("ascii")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or in RAM; libraries report it in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
