"""Context-extension methods, one file each, and the strings that name them.

    parse_method("dca:chunk_size=48,max_position=63")
    parse_method("dca+yarn:factor=4")

Every module of this package is imported, so a new file is a new method. Other packages add methods through the entry
point group `lcbench.methods`, each entry naming a `Method` subclass.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from lcbench.core.errors import UserError, unknown
from lcbench.core.plugins import import_all
from lcbench.core.specs import convert_options, split_spec
from lcbench.methods.base import REGISTRY, Composition, Lengths, Method, compose

__all__ = ["Composition", "Lengths", "Method", "all_methods", "compose", "parse_method", "split_parts"]


def all_methods() -> dict[str, type[Method]]:
    """All methods by name: those of this package, then those that other packages register."""
    import_all(__name__)
    return REGISTRY


def parse_method(spec: str | Method, **options: Any) -> Method:
    """A method from its name on the command line, or from a Method object; `options` go to the part that has them.

    Raises: UserError for an unknown method or option, a value that does not fit, or parts that do not compose.
    """
    if isinstance(spec, Method):
        parts = list(spec.parts) if isinstance(spec, Composition) else [spec]
    else:
        parts = [_parse_part(part) for part in split_parts(spec)]
    for option, value in options.items():
        owners = [index for index, part in enumerate(parts) if option in part.options()]
        if len(owners) > 1:
            raise UserError(f"{option} belongs to several parts of {spec}; write it after the one that is meant.")
        if not owners:
            known = [name for part in parts for name in part.options()]
            raise unknown(f"option of {spec}", option, known) if known else UserError(f"{spec} has no options.")
        part = parts[owners[0]]
        parts[owners[0]] = dataclasses.replace(part, **convert_options(part.name, type(part), {option: value}))
    return compose(parts)


def split_parts(spec: str) -> list[str]:
    """`dca:mscale=0.1+yarn` -> [`dca:mscale=0.1`, `yarn`]."""
    return re.split(r"\+(?=\s*[A-Za-z_])", spec)


def _parse_part(spec: str) -> Method:
    name, options = split_spec(spec)
    methods = all_methods()
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name](**convert_options(name, methods[name], options))
