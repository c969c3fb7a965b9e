"""LongPPL: key tokens by hand, and from runs of generated books."""

from __future__ import annotations

import json
import math
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from lcbench.core.errors import UserError
from lcbench.results.longppl import _by_place, _spans, _Text, key_tokens, longppl
from lcbench.results.nll import TokenNll, added
from lcbench.tasks.base import Cell
from lcbench.tasks.perplexity.task import Perplexity
from tests.helpers import cli, fields_of
from tests.tokenizers import build


def text(*nll: float, context: int = 0) -> _Text:
    return _Text(np.array(nll), 10, context)


def test_key_tokens_by_hand() -> None:
    long = text(0.5, 0.5, 1.9, 2.0, 0.1, 0.1, 0.0)
    short = text(9.0, 2.6, 4.0, 9.0, 2.1, math.nan, context=1)
    # the first has no more context than the short run gives; the fourth stays unlikely; the fifth gains exactly 2
    assert key_tokens(long, short).tolist() == [False, True, True, False, False, False, False]


def test_key_tokens_of_another_tokenizer(tmp_path: Path) -> None:
    """One generated book in the tokens of two tokenizers, as their runs write it: a token is key if all its characters
    are, and of no character twice."""
    texts, spelled = [], []
    for style in ("llama-2", "lcbench-tiny"):
        example = Perplexity(name="pg19").example(Cell(200), 0, build(style), 0)
        reading = example.reading
        assert reading is not None
        chars = added(reading.ends)
        windows = (np.array([0]), np.array([0]), np.array([len(chars)]))
        file = TokenNll(np.ones(len(chars), np.float32), *windows, 0, chars, crc32(reading.opening.encode()))
        file = TokenNll.read(tmp_path / file.write(tmp_path, style))
        assert file.chars is not None
        texts.append(_Text(file.nll.astype(float), 10, 0, style, _spans(file.chars), file.opening))
        spelled.append(reading.opening)
    judge, judged = texts
    assert judge.spans is not None and judged.spans is not None
    assert spelled[0] == spelled[1] and not np.array_equal(judge.spans[:, 1], judged.spans[:, 1])
    key = np.random.default_rng(0).random(len(judge.nll)) < 0.6
    characters = {at for start, end in judge.spans[key].tolist() for at in range(start, end)}
    expected = [all(at in characters for at in range(start, end)) for start, end in judged.spans.tolist()]
    found = _by_place(key, judge, judged, "a book")
    assert found.tolist() == expected and 0 < found.sum() < len(found)
    assert not _by_place(np.zeros_like(key), judge, judged, "a book").any()


def test_bytes_of_one_character_are_one_place() -> None:
    """Two tokens of a character of several bytes: the second adds no character."""
    assert _spans(np.array([2, 1, 0, 0, 3], dtype=np.int32)).tolist() == [[0, 2], [2, 3], [2, 3], [2, 3], [3, 6]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("longppl")
    methods = ("--method", "vanilla,pi", "--samples", "3")
    assert cli("run", "pg19", "--seq-len", "512", *methods, "-o", folder / "long").code == 0
    sliding = "pg19:protocol=sliding,stride=32,book_tokens=512"
    assert cli("run", sliding, "--seq-len", "96", *methods, "-o", folder / "short").code == 0
    return folder / "long", folder / "short"


@pytest.mark.slow
def test_from_runs(runs: tuple[Path, Path]) -> None:
    rows = longppl(*runs)
    assert [(row.method, row.seq_len, row.texts, row.context) for row in rows] == [
        ("vanilla", 512, 3, 64),
        ("pi", 512, 3, 64),
    ]
    nats, keys = 0.0, 0
    for record in fields_of(runs[0])[:3]:
        whole = TokenNll.read(runs[0] / record["nll"]["file"])
        (other,) = [r for r in fields_of(runs[1]) if r["method"] == "vanilla" and r["document"] == record["document"]]
        windows = TokenNll.read(runs[1] / other["nll"]["file"])
        for token in range(64, len(whole.nll)):
            loss = float(whole.nll[token])
            if float(windows.nll[token]) - loss > 2 and loss < 2:
                nats, keys = nats + loss, keys + 1
    assert rows[0].key_tokens == keys > 0 and rows[0].tokens == 3 * 511
    assert rows[0].longppl == pytest.approx(math.exp(nats / keys))
    assert rows[0].low is rows[0].high is None  # three texts are too few to know it


@pytest.mark.slow
def test_another_method_decides_which_tokens_matter(runs: tuple[Path, Path]) -> None:
    own, judged = longppl(*runs), longppl(*runs, (*runs, "vanilla"))
    assert own[0] == judged[0] and judged[1].key_tokens == own[0].key_tokens != own[1].key_tokens
    done = cli("longppl", *runs, "--judge", f"{runs[0]},{runs[1]},vanilla", "--format", "json")
    assert done.code == 0 and [row["key_tokens"] for row in json.loads(done.out)] == [own[0].key_tokens] * 2
    shown = cli("longppl", *runs).out
    assert "LongPPL, lower is better" in " ".join(shown.split()) and "vanilla" in shown


@pytest.mark.slow
def test_what_cannot_be_computed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, message in (
        ((runs[1], runs[0]), "texts that were read in one window"),
        ((runs[0], runs[0]), "read in overlapping windows"),
        ((*runs, (*runs, "dca")), r"has no likelihoods of generated book .* with dca"),
    ):
        with pytest.raises(UserError, match=message):
            longppl(*arguments)  # type: ignore[arg-type]
    assert cli("longppl", *runs, "--judge", "a,b").code == 2
    assert cli("longppl", *runs, "--format", "yaml").code == 2
