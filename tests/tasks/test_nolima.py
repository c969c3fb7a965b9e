"""NoLiMa on made-up needles and books: exact lengths, the drawn name, the needle on a line of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.engine.models import ModelSource
from lcbench.tasks import Cell, load_task
from tests.data.test_quoted_scripts import NEEDLES
from tests.helpers import cli
from tests.tokenizers import STYLES, build


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCBENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "needle_set.json").write_text(json.dumps(NEEDLES))
    for number in (1, 2):
        lines = "\n".join(f"Line {n} of book {number} is dull." for n in range(300))
        (tmp_path / f"rand_book_{number}.txt").write_text(lines)
    assert cli("data", "prepare", "nolima", "--from", tmp_path).code == 0


@pytest.mark.parametrize("style", STYLES)
def test_the_length_is_exact_and_the_needle_stands_on_its_own_line(style: str) -> None:
    tokenizer, task = build(style), load_task("nolima")
    assert task.available(tokenizer) == 6
    for sample in (0, 4):
        example = task.example(Cell(1500, 0.5), sample, tokenizer, 0)
        assert len(example.prompt) + 192 == 1500 and abs((example.depth or 0) - 0.5) < 0.05
        (name,) = example.references
        text = str(tokenizer.decode(example.prompt, skip_special_tokens=True))
        needle = f"{name} keeps a flat beside the {('old tower', 'mill')[sample % 3]}."
        assert f".\n{needle}\nLine" in text and name in ("Ada", "Bo")
        assert f"of book {1 + sample // 3} is dull" in text and "Who has seen" in text
        assert example.needle_at is not None
        hidden = example.prompt[example.needle_at :][: example.needle_tokens]
        assert str(tokenizer.decode(hidden)).lstrip() == needle + "\n"
        assert task.score(example, f"It is {name}.")["score"] == 100.0


def test_kinds_answers_and_what_does_not_fit() -> None:
    tokenizer = ModelSource().tokenizer()
    assert load_task("nolima").example(Cell(900), 2, tokenizer, 0).references == ("Ada",)  # of the source
    assert "Who lives by the" in tokenizer.decode(
        load_task("nolima:kind=direct").example(Cell(900), 0, tokenizer, 0).tail
    )
    with pytest.raises(UserError, match="no question of the kind x"):
        load_task("nolima:kind=x").require_data()
    with pytest.raises(UserError, match=r"has .* tokens in whole sentences"):
        load_task("nolima").example(Cell(20_000), 0, tokenizer, 0)
    with pytest.raises(UserError, match="use --seq-len"):
        load_task("nolima").example(Cell(200), 0, tokenizer, 0)
