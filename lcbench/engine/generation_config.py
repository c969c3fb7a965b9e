"""Fields of a checkpoint's generation_config.json that would change greedy answers, which lcbench does not apply."""

from __future__ import annotations

from pathlib import Path

from lcbench.core.checks import FieldError
from lcbench.core.json_objects import parse

# The value of each field, besides null, that has no effect.
IDLE = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "bad_words_ids": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}


def greedy_note(name: str, file: Path | None) -> str | None:
    """A note on the fields of a model's generation_config.json (None: no such file) that transformers' `generate` would
    apply to greedy answers and lcbench does not; None if there are none."""
    try:
        given = parse(file.read_bytes()) if file else {}
    except (FieldError, OSError):  # reported when the model is loaded
        return None
    active = [key for key, idle in IDLE.items() if given.get(key) not in (None, idle)]
    if not active:
        return None
    return (
        f"{name}: {', '.join(active)} of its generation_config.json {'are' if active[1:] else 'is'} not applied: "
        "answers are the likeliest tokens; lcbench lm-eval, as the harness does, applies them in generate_until tasks."
    )
