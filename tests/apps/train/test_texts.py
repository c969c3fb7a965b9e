"""Text to train on: what is read, how it is cut, in which order it comes, and what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lcbench.apps.train.windows import Windows, document
from lcbench.core.errors import UserError
from lcbench.data.texts import read_rows, read_texts
from lcbench.engine.models import ModelSource


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return ModelSource().tokenizer()


def texts(count: int = 6) -> list[str]:
    """Texts of different lengths, each of one digit: 20, 21, ... tokens."""
    return [str(number) * (20 + number) for number in range(count)]


def windows(tokenizer: PreTrainedTokenizerBase, length: int = 8, needed: int = 10**6, **options: int) -> Windows:
    return Windows(texts(), tokenizer, length, needed=needed, **{"seed": 0, **options})


class TestReading:
    def test_every_kind_of_file_and_a_folder_of_them(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        (tmp_path / "inner").mkdir()
        (tmp_path / "b.txt").write_text("beta", encoding="utf-8")
        (tmp_path / "a.jsonl").write_text('{"text": "alpha\u2028still"}\n\n{"text": "second", "id": 3}\n', "utf-8")
        datasets.Dataset.from_dict({"text": ["gamma", "delta"]}).to_parquet(tmp_path / "inner" / "c.parquet")
        (tmp_path / "notes.bin").write_bytes(b"\xff\xfe")
        assert list(read_texts(str(tmp_path / "b.txt"))) == ["beta"]
        assert list(read_texts(str(tmp_path))) == ["alpha\u2028still", "second", "beta", "gamma", "delta"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("missing.txt", None, "cannot read .*missing.txt"),
            ("missing.parquet", None, "cannot read .*missing.parquet"),
            ("empty.txt", " \n", "is empty"),
            ("empty.jsonl", "\n", "no rows"),
            ("broken.jsonl", '{"text": "a"}\n{"text', "line 2, is not JSON"),
            ("list.jsonl", "[1]", "line 1, is not a JSON object"),
            ("other.jsonl", '{"body": "a"}', "row 1 of .* no column `text`"),
            ("data.csv", "a,b", "is neither a .txt"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path: Path, name: str, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            list(read_texts(str(tmp_path / name)))

    def test_an_empty_folder_and_a_data_set_that_there_is_not(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no \.txt"):
            read_texts(str(tmp_path))
        with pytest.raises(UserError, match="no data set of that name"):
            read_rows("nobody/nothing-of-this-name")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
        with pytest.raises(UserError, match="UTF-8"):
            read_texts(str(tmp_path / "latin.txt"))


class TestWindows:
    def test_texts_follow_each_other_with_a_border_between(self, tokenizer: PreTrainedTokenizerBase) -> None:
        found = windows(tokenizer).batch(0, len(windows(tokenizer)))
        assert found.shape == (sum(21 + number for number in range(6)) // 8, 8)
        joined = torch.cat([torch.tensor(document(tokenizer, text)) for text in texts()])
        kept = torch.bincount(found.flatten(), minlength=len(tokenizer))
        lost = torch.bincount(joined, minlength=len(tokenizer)) - kept
        assert (lost >= 0).all()
        assert lost.sum() < 8  # the end of the last text

    def test_within_documents_no_window_has_two_texts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        apart = Windows(texts(), tokenizer, 8, needed=99, seed=0, within_documents=True)
        assert len(apart) == sum((21 + number) // 8 for number in range(6))
        assert all(len(set(row.tolist()) - {tokenizer.bos_token_id}) == 1 for row in apart.batch(0, len(apart)))

    def test_every_window_comes_once_a_round_in_another_order(self, tokenizer: PreTrainedTokenizerBase) -> None:
        source = windows(tokenizer, 5)
        first, second = source.batch(0, len(source)), source.batch(1, len(source))
        assert not torch.equal(first, second)
        assert sorted(first.tolist()) == sorted(second.tolist())

    def test_a_step_follows_from_seed_and_number_alone(self, tokenizer: PreTrainedTokenizerBase) -> None:
        ahead, behind = windows(tokenizer), windows(tokenizer)
        for step in (9, 2, 40):
            behind.batch(step, 4)
        for step in (0, 7, 1):
            assert torch.equal(ahead.batch(step, 4), behind.batch(step, 4))
        assert not torch.equal(ahead.batch(0, 4), windows(tokenizer, seed=1).batch(0, 4))

    def test_processes_share_the_windows_of_a_step(self, tokenizer: PreTrainedTokenizerBase) -> None:
        source = windows(tokenizer)
        together = torch.cat([source.batch(3, 2, process, 2) for process in range(2)])
        assert torch.equal(together, source.batch(3, 4))

    def test_no_more_is_tokenised_than_a_run_needs(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert 3 <= len(windows(tokenizer, needed=3)) < len(windows(tokenizer))

    def test_too_short_texts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(UserError, match="together have less than 400 tokens"):
            windows(tokenizer, 400)
        with pytest.raises(UserError, match="none of the texts has 40 tokens"):
            Windows(texts(), tokenizer, 40, needed=1, seed=0, within_documents=True)


def test_bos_and_eos_that_differ_stand_on_both_sides(tokenizer: PreTrainedTokenizerBase) -> None:
    assert document(tokenizer, "ab")[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id == tokenizer.bos_token_id
    assert document(tokenizer, "ab").count(tokenizer.bos_token_id) == 1
    other = ModelSource().tokenizer()
    other.eos_token = other.pad_token
    ids = document(other, "ab")
    assert (ids[0], ids[-1]) == (other.bos_token_id, other.pad_token_id)
    assert other.decode(ids[1:-1]) == "ab"


def test_rows_keep_all_columns(tmp_path: Path) -> None:
    rows = [{"question": "q", "n": 1}, {"question": "r"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert list(read_rows(str(tmp_path / "rows.jsonl"))) == rows
