"""YAML of users: read with bounds, since a few lines of it can stand for more than memory takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lcbench.core.errors import UserError, shortened
from lcbench.core.files import require_regular

LARGEST = 2**20  # bytes of a file
DEEPEST = 32  # levels of lists and mappings
MOST = 200_000  # entries, and 64 characters of text each, with every alias written out


def read_yaml_file(path: Path) -> Any:
    """The content of a YAML file. Raises: UserError for one that is missing, malformed, or stands for too much."""
    try:
        require_regular(path)
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST >> 20} MB, too much for YAML; put data into a JSONL file.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; {DEEPEST} levels are read.") from error
    # The constructors of dates and numbers raise errors of Python's for values such as 2024-99-99.
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not valid YAML: {shortened(' '.join(str(error).split()), 400)}.") from error
    if _size(content, DEEPEST, {}, path) > MOST:
        raise UserError(f"{path} has aliases that stand for more than {MOST:,} entries; write less of them.")
    return content


def read_shipped_yaml(path: Path) -> Any:
    """The content of a YAML file that ships with lcbench: by libyaml, if PyYAML has it, in a tenth of the time. Not for
    files of users, since a deeply nested one would crash the process."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _size(value: Any, levels: int, known: dict[int, int], path: Path) -> int:
    """Entries of a value with its aliases written out; an object that occurs often is visited once."""
    if not isinstance(value, list | dict):
        return 1 + (len(value) // 64 if isinstance(value, str) else 0)
    if levels == 0:  # of an alias within itself, too
        raise UserError(f"{path} is nested too deeply; {DEEPEST} levels are read.")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, levels - 1, known, path) for part in parts)
    return known[id(value)]
