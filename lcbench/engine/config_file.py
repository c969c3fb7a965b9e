"""What is wrong with a config.json in plain sight, told before PyTorch and transformers are imported, which takes
seconds and ends in errors that name neither the file nor the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.checks import FieldError, shown
from lcbench.core.errors import UserError
from lcbench.core.json_objects import parse
from lcbench.engine.rope_config import no_number

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTH = "max_position_embeddings"


def check_config_file(name: str, file: Path) -> None:
    """Raises: UserError for a config.json of a model, called `name`, that no class of transformers could read."""
    try:
        content = parse(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot load the config of {name}: {error.strerror}.") from error
    except FieldError as error:
        raise UserError(f"cannot load the config of {name}: its config.json {error}.") from error
    for fault in _faults(content):
        raise UserError(f"{name}: {fault}; mend it.")


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    inner = content.get("text_config")
    for config in (content, inner) if isinstance(inner, dict) else (content,):
        length, theta = config.get(LENGTH), config.get("rope_theta")
        if length is not None and (type(length) is not int or length < 2):
            yield f"{LENGTH} in its config.json must be a whole number of tokens from 2 up, not {shown(length)}"
        if isinstance(theta, str):
            yield f"rope_theta in its config.json must be a number, not {shown(theta)}"
        for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = config.get(field)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and type(token) is not int:
                    yield f"{field} in its config.json must be the number of a token, not {shown(token)}"
        for settings in (config.get("rope_scaling"), config.get("rope_parameters")):
            for each in (settings, *settings.values()) if isinstance(settings, dict) else ():
                if isinstance(each, dict) and (fault := no_number(each)):
                    yield fault


def padding_fault(config: PretrainedConfig) -> str | None:
    """Why no embedding can be made with this padding token; None if nothing is found."""
    text = config.get_text_config()
    token, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if not isinstance(token, int) or not isinstance(rows, int) or -rows <= token < rows:
        return None
    return f"pad_token_id in its config.json is {token}, and its vocabulary of {rows} tokens has no such token; mend it"
