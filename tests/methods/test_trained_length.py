"""The length that a model was trained for, its own scaling counted."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource, embedded_models
from lcbench.methods.trained_length import length_note, scaled_length, trained_length


def test_trained_length_of_the_embedded_model() -> None:
    assert list(embedded_models()) == ["lcbench-tiny", "lcbench-tiny-fot"]
    assert trained_length(ModelSource().config()) == 256
    with pytest.raises(UserError, match="no max_position_embeddings"):
        trained_length(transformers.T5Config())


@pytest.mark.parametrize(
    ("length", "rope", "reached"),
    [
        (256, {"rope_type": "linear", "factor": 4.0}, 1024),
        (1024, {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        (256, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        (256, {"rope_type": "yarn", "factor": 4}, 1024),
        (1024, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        (40960, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),  # Qwen 3
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (131072, {"rope_type": "longrope", "original_max_position_embeddings": 4096}, 131072),
        (256, {"rope_type": "dynamic", "factor": 4.0}, 256),
        (131072, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 131072),  # Gemma 3
        (256, {"rope_type": "default"}, 256),
        (256, None, 256),
    ],
)
def test_own_scaling_counts(length: int, rope: object, reached: int) -> None:
    assert scaled_length(length, rope) == reached


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -2.0, 0.0])
def test_a_scaling_by_no_number_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match=r"has the factor .*; it must be from 1 up"):
        scaled_length(256, {"rope_type": "linear", "factor": factor})


@pytest.mark.parametrize(
    ("length", "more", "reached", "noted"),
    [
        (256, {}, 1024, True),  # Vicuna 16k, or Chinese Alpaca 2 16k: the config does not say which
        (256, {"max_sequence_length": 1024}, 1024, False),  # FastChat
        (1024, {"max_sequence_length": 1024}, 1024, False),
        (
            1024,
            {"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 256}},
            1024,
            False,
        ),
        (256, {"rope_scaling": {"type": "linear", "factor": 1.0}}, 256, False),
        (256, {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 256, False),
    ],
)
def test_a_linear_scaling_that_may_be_counted_already(
    length: int, more: dict[str, Any], reached: int, noted: bool
) -> None:
    config = transformers.LlamaConfig(
        max_position_embeddings=length, **{"rope_scaling": {"type": "linear", "factor": 4.0}, **more}
    )
    assert trained_length(config) == reached
    note = length_note(config)
    assert bool(note) == noted
    if note:
        assert "reach 1,024" in note and '"original_max_position_embeddings": 64' in note
