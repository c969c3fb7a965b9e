"""Perplexity on long books: the negative log-likelihood of every token, by protocols with incomparable numbers."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from lcbench.core.errors import UserError
from lcbench.tasks.base import TOKENS, WINDOWS, Cell, Example, Reading, Task, Window
from lcbench.tasks.format import PromptFormat
from lcbench.tasks.perplexity.books import Tokens, books_of, read_book, require_books
from lcbench.tasks.text.running_text import GENERATED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENING = 64  # characters that identify a text
SHORTEST = 8  # tokens of a window
CHUNKLLAMA_STRIDE = 256
CHUNKLLAMA_LONG = 96 * 1024  # from here on their stride is half the window
Span = tuple[int, int, int]  # start, stop and first scored token of a window in the text


@dataclass(frozen=True, kw_only=True)
class Perplexity(Task):
    """Sample k is the k-th book of the source that is long enough for every length of the run, so that all lengths read
    the same books.

    Protocols. A window is `seq_len` tokens, including the prefix before the text: the tokenizer's own, else BOS, else
    EOS. With `bos: never` there is none, and the first token of a window is not scored. Never in a chat.

    prefix    the first window of each book
    sliding   windows over the first `book_tokens` tokens (default: twice the longest length), `stride` apart (default:
              half a window). Every token is scored once, with at least window - stride tokens of context except in the
              first window. averaging=chunkllama is the averaging of ChunkLlama's test_ppl.py (HKUNLP/ChunkLlama):
              windows start every `stride` tokens (default 256, as in the script; half a window above 96k, as in the
              paper) as long as they end before the last token, and the last one is dropped; all tokens of a window
              are scored, and the plain mean over the means of windows is reported. Differences: lcbench goes book by
              book, where the script slides over one file of tokens, and every window begins with a BOS.
    segments  adjacent windows over the first `book_tokens` tokens; the remainder at the end is not scored

    `source`: `books` for generated books; a .txt file, a folder, JSONL or parquet with the columns `text` and, as in
    PG19, `short_book_title`; prepared data such as `pg19`; or the test split of a data set on the hub. `longest`: read
    only books with at least so many tokens, so that runs over different lengths read the same books.
    """

    family: ClassVar[str] = "perplexity"
    metric: ClassVar[str] = "nll"
    measure: ClassVar[str] = "likelihood"

    protocol: Literal["prefix", "sliding", "segments"] = "prefix"
    stride: int | None = None
    averaging: Literal["tokens", "chunkllama"] = "tokens"
    source: str = GENERATED
    book_tokens: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.protocol != "sliding" and (self.stride is not None or self.averaging != "tokens"):
            raise UserError(f"stride and averaging are options of protocol=sliding, not of {self.protocol}.")
        if self.protocol == "prefix" and self.book_tokens is not None:
            raise UserError("book_tokens is an option of protocol=sliding and segments; prefix reads --seq-len tokens.")
        for option in ("stride", "book_tokens", "longest"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"{self.name}: {option} must be at least 1, not {value}.")

    @property
    def format(self) -> PromptFormat:
        return PromptFormat(self.name, "off", "never" if self.bos == "never" else "text")

    def require_data(self) -> None:
        require_books(self.source)

    def for_lengths(self, seq_lens: list[int]) -> Self:
        return replace(self, longest=max([*seq_lens, self.longest or 0]))

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        if self.source == GENERATED or self.longest is None:
            return None
        return len(books_of(tokenizer, self.source, self._need(self.longest, self.format.start(tokenizer, ""))))

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """With `prefix`, the window of a book begins with its windows of all shorter lengths."""
        return sample if self.protocol == "prefix" else (cell, sample)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        head = self.format.start(tokenizer, "")
        if cell.seq_len < SHORTEST:
            raise UserError(f"{self.name} needs windows of {SHORTEST} tokens or more, not {cell.seq_len}.")
        need = self._need(max(cell.seq_len, self.longest or 0), head)
        number = sample + seed if self.source == GENERATED else sample
        book = read_book(tokenizer, self.source, need, number)
        if book is None:
            has = len(books_of(tokenizer, self.source, need))
            raise UserError(
                f"{self.source} has {has or 'no'} book{'s' if has > 1 else ''} of {need:,} tokens or more; use a "
                "shorter --seq-len, fewer --samples, or longer books."
            )
        length = cell.seq_len - len(head)
        spans = self._spans(length, need, cell.seq_len)
        end = max(stop for _, stop, _ in spans)
        return Example(
            head=head,
            context=book.ids[:end].tolist(),
            tail=[],
            references=(),
            max_new_tokens=0,
            seed=self.sample_seed(cell, sample, seed),
            reading=Reading(
                document=book.title,
                protocol=self._protocol(cell.seq_len),
                averaging=TOKENS if self.averaging == "tokens" else WINDOWS,
                windows=tuple(_window(book, span, scored_first=bool(head)) for span in spans),
                ends=book.ends[:end],
                opening=book.text[:OPENING],
            ),
        )

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        raise TypeError(f"{self.name} is measured by likelihood and has no answers to score")

    def _need(self, longest: int, head: list[int]) -> int:
        """The number of tokens that a book must have."""
        if self.protocol == "prefix":
            return longest - len(head)
        need = 2 * longest if self.book_tokens is None else self.book_tokens
        if need < longest:
            raise UserError(f"{self.name}: book_tokens={need} is less than one window of {longest} tokens.")
        return need

    def _stride(self, seq_len: int) -> int:
        half = seq_len // 2
        chunkllama = CHUNKLLAMA_STRIDE if seq_len <= CHUNKLLAMA_LONG else half
        return self.stride or (half if self.averaging == "tokens" else chunkllama)

    def _protocol(self, seq_len: int) -> str:
        """The protocol as printed next to the numbers."""
        if self.protocol != "sliding":
            return self.protocol
        average = "" if self.averaging == "tokens" else ", chunkllama averaging"
        return f"sliding, stride {self._stride(seq_len)}{average}"

    def _spans(self, length: int, need: int, seq_len: int) -> list[Span]:
        """The windows of `length` tokens over a text of `need` tokens. Raises: UserError if none fits."""
        if self.protocol == "prefix":
            return [(0, length, 0)]
        if self.protocol == "segments":
            return [(start, start + length, start) for start in range(0, need - length + 1, length)]
        stride = self._stride(seq_len)
        if self.averaging == "chunkllama":
            spans = [(start, start + length, start) for start in range(0, need - length, stride)][:-1]
            if not spans:
                raise UserError(
                    f"{self.name}: there is no window of {seq_len} tokens, {stride} apart, in {need} tokens but the "
                    "last, which ChunkLlama drops; use more book_tokens, or a smaller stride."
                )
            return spans
        if stride > length:
            raise UserError(f"{self.name}: a stride of {stride} would leave tokens out; a window has {length}.")
        spans = [(0, length, 0)]
        while spans[-1][1] < need:
            start = spans[-1][0] + stride
            spans.append((start, min(start + length, need), spans[-1][1]))
        return spans


def _window(book: Tokens, span: Span, *, scored_first: bool) -> Window:
    """`scored_first`: whether a token (BOS) precedes the first token of a window, so that it has a likelihood."""
    start, stop, first = span
    first = max(first, start + (not scored_first))
    text = book.span(first, stop)
    return Window(start, stop, first, bytes=len(text.encode()), words=len(text.split()))
