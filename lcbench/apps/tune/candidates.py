"""The candidates of a search: a method as it was typed, and with other values of the options that it says matter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from lcbench.core.errors import UserError
from lcbench.core.specs import split_spec
from lcbench.methods import Composition, Lengths, Method, all_methods, compose, parse_method, split_parts


def candidates(spec: str, lengths: Lengths) -> list[Method]:
    """The method as typed, then those that differ from it, by the number of options in which they do; each once, as it
    resolves. An option that was typed stays as it is.

    Raises: UserError for a method without such options, or whose options were all typed.
    """
    method = parse_method(spec)
    parts = method.parts if isinstance(method, Composition) else (method,)
    typed = dict(map(split_spec, split_parts(spec)))
    every = [_versions(part, lengths, typed[part.name]) for part in parts]
    if all(len(versions) == 1 for versions in every):
        raise _nothing_to_tune(method, parts, lengths)
    found: dict[str, tuple[int, Method]] = {}
    for choice in product(*every):
        one = compose([part for _, part in choice])
        try:
            resolved = repr(one.resolve(lengths))
        except UserError:
            if one == method:
                raise
            continue
        changes = sum(count for count, _ in choice)
        if resolved not in found or changes < found[resolved][0]:
            found[resolved] = changes, one
    return [one for _, one in sorted(found.values(), key=lambda item: item[0])]


def _versions(part: Method, lengths: Lengths, typed: Collection[str]) -> list[tuple[int, Method]]:
    """The part of a method with every combination of values, each with the number of options that it changes."""
    tunable = {name: values for name, values in part.tunable(lengths).items() if name not in typed}
    steps: list[list[dict[str, Any]]] = [[{}, *({name: value} for value in values)] for name, values in tunable.items()]
    merged = ({name: value for step in combination for name, value in step.items()} for combination in product(*steps))
    return [(len(changed), replace(part, **changed)) for changed in merged]


def _nothing_to_tune(method: Method, parts: Sequence[Method], lengths: Lengths) -> UserError:
    options = [name for part in parts for name in part.tunable(lengths)]
    if options:
        return UserError(f"{method} leaves nothing to tune; leave {' or '.join(options)} to the search.")
    able = [name for name, cls in all_methods().items() if cls.tunable is not Method.tunable]
    return UserError(f"{method.label} has no options to tune; methods that have some: {', '.join(sorted(able))}.")
