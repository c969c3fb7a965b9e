"""The base class of all verbs: it refuses empty paths and shows all spellings of an option in the help."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer.core

from lcbench.core.errors import UserError

LONG = "--"


def empty(named: str) -> UserError:
    """The error for an empty path."""
    return UserError(f"{named} is empty; name a file or folder (the current one is `.`).")


class Verb(typer.core.TyperCommand):
    """A command of the command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises: UserError for an empty path, such as an unset shell variable, which Python takes for the current
        folder."""
        if any(not word or word.endswith("=") for word in args):
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
            hints = get_type_hints(self.callback)
            for param in self.params:
                value = typed.get(param.name or "")
                if "" in (value if isinstance(value, list | tuple) else [value]) and _is_path(hints[param.name or ""]):
                    raise empty(param.opts[0] if param.param_type_name == "option" else _shown(param))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The table has room for one long spelling of an option; the others follow its text."""
        declared = self.params
        self.params = [_spelled(param) for param in declared]
        try:
            super().format_help(ctx, formatter)
        finally:
            self.params = declared


def _spelled(param: Any) -> Any:
    others = [name for name in param.opts if name.startswith(LONG)][1:]
    if not others:
        return param
    shown = copy(param)
    shown.opts = [name for name in param.opts if name not in others]
    shown.help = f"{param.help} Also {', '.join(others)}."
    return shown


def _is_path(hint: object) -> bool:
    """Whether a parameter takes a path, or several."""
    return hint is Path or any(map(_is_path, get_args(hint)))


def _shown(argument: Any) -> str:
    """`RUN` of `[RUN]...`."""
    return str(argument.metavar or argument.name.upper()).strip("[].")
