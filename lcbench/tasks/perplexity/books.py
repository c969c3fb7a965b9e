"""Books for perplexity, generated or the user's own, as tokens with their character offsets."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.core.files import files_below
from lcbench.data import Books, is_prepared_data
from lcbench.data.texts import SUFFIXES, read_rows, read_texts
from lcbench.data.values import RawRow, clean
from lcbench.tasks.text.books import HELD_OUT_SEEDS, Book
from lcbench.tasks.text.running_text import GENERATED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_A_SENTENCE = 8  # in a generated book, a low estimate: a book that is too short is doubled
SPLIT = "test"  # of a data set on the hub
TITLES = ("short_book_title", "title")  # columns: PG19's, and that of other data sets
SPARE = 64  # tokens at the end of a cut text that may differ from those of the whole text


@dataclass(frozen=True)
class Tokens:
    """The first token ids of a text; `ends[k]` is the offset in characters at which token k ends."""

    title: str
    text: str
    ids: array[int]
    ends: array[int]

    def span(self, first: int, stop: int) -> str:
        """The text of tokens `first` to `stop` (exclusive); adjacent spans concatenate to the text."""
        return self.text[self.ends[first - 1] if first else 0 : self.ends[stop - 1]]


@lru_cache(maxsize=256)
def read_book(tokenizer: PreTrainedTokenizerBase, source: str, need: int, number: int) -> Tokens | None:
    """The first `need` tokens of book `number` (from 0) among the books of a source with at least `need` tokens; None
    if there are fewer such books. The whole text is tokenised in one call, so that tokens do not depend on `need`.

    `source`: see `lcbench.tasks.perplexity.task`. Raises: UserError for a source that cannot be read.
    """
    if source == GENERATED:
        return _generated(tokenizer, need, number)
    books = _books(source)
    long_enough = books_of(tokenizer, source, need)
    if number >= len(long_enough):
        return None
    title, text = books[long_enough[number]]
    return _tokens(tokenizer, title, text, need)


@lru_cache(maxsize=64)
def books_of(tokenizer: PreTrainedTokenizerBase, source: str, need: int) -> tuple[int, ...]:
    """Indices of the texts of a source with at least `need` tokens. Only the beginning of a long text is tokenised."""
    return tuple(index for index, (_, text) in enumerate(_books(source)) if _has(tokenizer, text, need))


def _has(tokenizer: PreTrainedTokenizerBase, text: str, need: int) -> bool:
    size = 4 * (need + SPARE)
    while size < len(text):
        if len(_encode(tokenizer, text[:size]).input_ids) >= need + SPARE:
            return True
        size *= 2
    return len(_encode(tokenizer, text).input_ids) >= need


def _generated(tokenizer: PreTrainedTokenizerBase, need: int, number: int) -> Tokens:
    """A generated book of at least `need` tokens that no reference model was trained on."""
    seed, sentences = HELD_OUT_SEEDS[number % len(HELD_OUT_SEEDS)], 1 + need // TOKENS_A_SENTENCE
    while not _has(tokenizer, text := Book(seed).text(sentences), need + SPARE):
        sentences *= 2
    return _tokens(tokenizer, f"generated book {seed}", text, need)


def _tokens(tokenizer: PreTrainedTokenizerBase, title: str, text: str, need: int) -> Tokens:
    encoded = _encode(tokenizer, text, return_offsets_mapping=True)
    ids = array("I", encoded.input_ids[:need])
    ends = array("I", accumulate((end for _, end in encoded.offset_mapping[:need]), max))
    return Tokens(title, text[: ends[-1]] if ends else "", ids, ends)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Any:
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not report token positions in the text, which bits per byte need: "
            "use a model with a tokenizer.json."
        )
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


def require_books(source: str) -> None:
    """Open a source. Raises: UserError for a source that cannot be read."""
    if source != GENERATED:
        _books(source)


@lru_cache(maxsize=4)
def _books(source: str) -> Sequence[tuple[str, str]]:
    """Titles and texts."""
    if is_prepared_data(source):
        return Books(source, SPLIT)
    path = Path(source).expanduser()
    if path.is_dir():
        files = [file for file in sorted(files_below(path)) if file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(f"the folder {source} holds no {', '.join(SUFFIXES)} files.")
        return [book for file in files for book in _books(str(file))]
    if path.suffix.lower() == ".txt":
        return [(path.stem, read_texts(source)[0])]
    return _Rows(read_rows(source, SPLIT), source)


class _Rows(Sequence[tuple[str, str]]):
    """Titles and texts of rows, read on access."""

    def __init__(self, rows: Sequence[RawRow], source: str) -> None:
        self._rows, self._source = rows, source

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        text = row.get("text")
        if not isinstance(text, str):
            raise UserError(f"row {index + 1} of {self._source} has no column `text` with a text in it.")
        titles = (row.get(column) for column in TITLES)
        return next((title for title in titles if title and isinstance(title, str)), f"row {index + 1}"), clean(text)
