"""What is wrong with a config.json in plain sight is told by file and field, without PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from tests.helpers import model_folder

YARN = {"rope_type": "yarn", "factor": "2.0"}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"max_position_embeddings": "256"}, "max_position_embeddings .* must be a whole number .* not '256'; mend it"),
        ({"max_position_embeddings": 256.0}, "from 2 up, not 256.0"),
        ({"max_position_embeddings": 1}, "from 2 up, not 1"),
        ({"text_config": {"max_position_embeddings": True}}, "from 2 up, not true"),
        ({"rope_theta": "1e4"}, "rope_theta in its config.json must be a number, not '1e4'"),
        ({"rope_scaling": YARN}, "factor in the rope_scaling of its config.json must be a number, not '2.0'"),
        ({"rope_parameters": {"full_attention": YARN}}, "factor in the rope_scaling"),
        ({"eos_token_id": [0, "1"]}, "eos_token_id in its config.json must be the number of a token, not '1'"),
    ],
)
def test_a_config_that_no_class_reads_is_refused_before_one_is_loaded(
    config: dict[str, object], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=fault):
        ModelSource(str(model_folder(tmp_path / "model", **config))).check()


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"pad_token_id": 1344}, "pad_token_id .* is 1344, and its vocabulary of 1344 tokens has no such token"),
        ({"rope_parameters": None, "rope_theta": None}, "rope_theta in its config.json is null"),
    ],
)
def test_what_only_the_classes_tell_is_named_by_field(config: dict[str, object], fault: str, tmp_path: Path) -> None:
    checkpoint = ModelSource(str(model_folder(tmp_path / "model", **config))).checkpoint
    read = checkpoint.config()
    with pytest.raises(UserError, match=fault):
        checkpoint.skeleton(read)
