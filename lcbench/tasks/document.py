"""Question answering over documents, configured by data: a source, a Jinja prompt, a metric and stop strings."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import regex

from lcbench.core.errors import LeftOutError, RowError, TooLongError, UserError, brief, unknown
from lcbench.core.specs import convert_options
from lcbench.core.tokens import as_text, encode_inside, encode_plain
from lcbench.data import Row
from lcbench.metrics import as_published, counts_pairs, example_numbers, may_be_empty, reads_latin_only
from lcbench.metrics import names as metric_names
from lcbench.metrics.overlap import has_words, is_one_word
from lcbench.tasks.base import FORMAT, Cell, Example, Task
from lcbench.tasks.format import PromptFormat
from lcbench.tasks.rows import DocumentRows, fields_of
from lcbench.tasks.template import Segments, render, segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 2.0  # limit of the regular expression `answer` per prediction
NAMES_ANSWER = regex.compile(r"\{\{-?\s*answer\b")
NAMES_DOCUMENT = regex.compile(r"\{\{-?\s*document\b")
NAMES_QUESTION = regex.compile(r"\{\{-?\s*question\b")
ALL = 10**9  # samples: every row of the data
IN_PROTOCOLS = (
    *FORMAT,
    "prompt",
    "follow_up",
    "follow_up_tokens",
    "answers",
    "truncate",
    "shots",
    "stop",
    "answer",
    "max_new_tokens",
)


@dataclass(frozen=True, kw_only=True)
class DocumentTask(Task):
    """One sample per row of `data` (lcbench/tasks/questions.py), in the order of the source.

    `prompt` is a Jinja template of `document`, `question`, `choices`, `references`, `system`, `shots` (each with
    `question`, `answer` and `choices`) and the other columns of the row; in a chat it is the user message, after the
    system message `system`. Only the document is truncated, by tokens, at its `truncate` side, so that prompt and
    `max_new_tokens` fit the length; the published harnesses cut words in steps of 100 and stay some 200 tokens below.
    For every row, `shots` demonstrations are drawn from the split `shots_split`.

    A document that does not fit is cut; with too_long=skip its row is left out of the run, counted and named, with
    too_long=fail its sample fails. truncate=never is for documents that say nothing when cut: too_long is skip there.
    `only` lists what a row must have in its columns, as `length=long`; `draw` takes some of these rows, as HELMET does
    (`lcbench.tasks.questions.drawn`); `groups` are columns by which tables give the scores once more.

    Generation ends at the first of the `stop` strings. If `answer` (a regular expression) is given, its group in the
    output is scored, else the whole output, by `scorer` (lcbench.metrics), from 0 to 100. `follow_up` is a second,
    independent prompt without `system`, which may print the first output as `answer`; `follow_up_tokens` is its budget
    if that is not `max_new_tokens`, and `answers` the format string that joins both outputs. `protocols` maps names to
    other values for any of these.
    """

    family: ClassVar[str] = "document"
    metric: ClassVar[str] = "score"
    newer: ClassVar[frozenset[str]] = frozenset({"only", "draw", "groups", "follow_up_tokens", "too_long"})

    data: str
    split: str = "validation"
    columns: dict[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    draw: Literal["", "rows", "questions"] = ""
    groups: tuple[str, ...] = ()
    prompt: str = ""
    follow_up: str = ""
    follow_up_tokens: int | None = None
    answers: str = "{0}\n{1}"
    truncate: Literal["left", "middle", "right", "never"] = "right"
    too_long: Literal["cut", "skip", "fail"] = "cut"
    shots: int = 0
    shots_split: str = "train"
    scorer: str
    classes: str = ""
    stop: tuple[str, ...] = ()
    answer: str = ""
    max_new_tokens: int = 64
    protocols: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    samples: int = ALL

    def __post_init__(self) -> None:
        if self.scorer not in metric_names():
            raise unknown(f"scorer of {self.name}:", self.scorer, metric_names())
        if self.protocol and self.protocol not in self.protocols:
            raise unknown(f"protocol of {self.name}", self.protocol, self.protocols)
        if self.resolved.max_new_tokens < 1 or self.resolved.shots < 0:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, and shots at least 0.")
        if self.resolved.follow_up_tokens is not None and self.resolved.follow_up_tokens < 1:
            raise UserError(f"{self.name}: follow_up_tokens must be at least 1, not {self.resolved.follow_up_tokens}.")
        if not self.resolved.prompt:
            raise UserError(f"{self.name} lacks `prompt`.")
        self._pattern  # noqa: B018  (compiled now, so that a broken one fails before anything runs)

    @cached_property
    def resolved(self) -> DocumentTask:
        """This task with the values of its protocol."""
        if not self.protocol:
            return self
        owner, given = f"protocol {self.protocol} of {self.name}", self.protocols[self.protocol]
        if not isinstance(given, dict):
            raise UserError(f"{owner} must be a mapping, not {brief(given)}.")
        for key in given:
            if key not in IN_PROTOCOLS:
                raise unknown(f"option of {owner}:", str(key), IN_PROTOCOLS)
        return replace(self, **convert_options(owner, type(self), given), protocol="", protocols={})

    @property
    def format(self) -> PromptFormat:
        task = self.resolved
        return PromptFormat(
            self.name,
            task.chat,
            task.bos,
            task.system,
            task.chat_options,
            self._without_chat(),
            thinks=self.thought_tokens > 0,
        )

    def asked(self, **given: Any) -> Self:
        """A copy with the fields `given`, which override those of its protocols."""
        kept = {
            name: {key: value for key, value in each.items() if key not in given} if isinstance(each, dict) else each
            for name, each in self.protocols.items()
        }
        return replace(self, **given, protocols=kept)

    def identity(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        found = super().identity(tokenizer) | {"chat": self.chat == "on", "system": self.system}
        format_ = found.pop("prompt_format", {})
        if self.resolved.chat == "on":  # `chat` here or in the protocol already implies these
            format_ = {key: value for key, value in format_.items() if key not in ("chat", "system")}
        return found | ({"prompt_format": format_} if format_ else {})

    def require_data(self) -> None:
        len(self._rows)

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._rows)

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Questions about the same document share a prefix; rows without a document share nothing."""
        try:
            return self._rows.unchecked(sample).document_id or (cell, sample)
        except RowError:  # raised again where the example is built
            return cell, sample

    def check_row(self, sample: int, seed: int) -> None:
        """Rows without references, without the document that the prompt names, or with values that are not text."""
        row = self._rows.row(sample)
        self._rows.groups_of(row, sample)
        if self.classes in row.meta:
            self._rows.classes_of(row, sample)

    def check_prompt(self, sample: int, seed: int) -> None:
        """Rows for which the prompt cannot be rendered."""
        if not self.resolved.shots:
            self._rendered(sample, self.resolved.prompt, self._fields(self._rows.row(sample), []))

    def notes(self, samples: int) -> list[str]:
        """Rows for which ROUGE scores every answer 0: one-word references and, as published, some scripts."""
        found = []
        if reads_latin_only(self.scorer):
            silent = sum(not any(map(has_words, references)) for references in self._rows.references(samples))
            if silent:
                found.append(
                    f"{self.name}: {silent} of {samples} rows have references without a letter a-z or a digit, where "
                    "ROUGE as published finds no words and gives every answer 0; use `scorer: rouge` in a task of your "
                    "own."
                )
        if counts_pairs(self.scorer):
            single = sum(all(map(is_one_word, references)) for references in self._rows.references(samples))
            if single:
                found.append(
                    f"{self.name}: {single} of {samples} rows have references of one word, where ROUGE-2 finds no "
                    "pairs of words and gives every answer 0; use `scorer: f1`."
                )
        return found

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        task, row = self.resolved, self._rows.row(sample)
        drawn = self._demonstrations(row, cell, sample, seed)
        fields = self._fields(row, drawn)
        parts = self._segments(sample, task.prompt, fields, tokenizer, self.format)
        chained = NAMES_ANSWER.search(task.follow_up) is not None
        follow_up = [] if chained or not task.follow_up else self._follow_up(sample, fields, tokenizer)
        document = self._document(sample, row, parts, tokenizer)
        space = cell.seq_len - task.max_new_tokens - len(parts.head) - len(parts.tail)
        if space < min(1, len(document)):
            raise self._unfit(
                f"{self.name} does not fit into {cell.seq_len} tokens: sample {sample} needs "
                f"{cell.seq_len - space + min(1, len(document))} even without its document; use a longer --seq-len"
                + (" or fewer shots." if task.shots else ".")
            )
        if len(document) > space and (self.too_long != "cut" or task.truncate == "never"):
            raise self._unfit(
                f"{self._rows.where(sample)} has {len(document):,} tokens, and {max(space, 0):,} fit into "
                f"{cell.seq_len:,} with the rest of the prompt; {self.name} does not cut documents."
            )
        return Example(
            head=parts.head,
            context=shorten(document, space, task.truncate),
            tail=parts.tail,
            references=row.references,
            max_new_tokens=task.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            stop=task.stop,
            follow_up=follow_up,
            follow_up_of=partial(self._after_answer, sample, fields, tokenizer) if chained else None,
            follow_up_tokens=task.follow_up_tokens,
            details={
                "row": row.id,
                "document": row.document_id,
                "document_tokens": len(document),
                "cut_tokens": max(0, len(document) - space),
                "shots": [one.id for one in drawn],
                **({"classes": self._rows.classes_of(row, sample)} if self.classes else {}),
                **({"groups": self._rows.groups_of(row, sample)} if self.groups else {}),
            },
        )

    def _unfit(self, reason: str) -> RowError:
        """The error for a row that does not fit completely."""
        if self.too_long == "skip" or (self.resolved.truncate == "never" and self.too_long != "fail"):
            return LeftOutError(reason)
        return TooLongError(reason)

    def _follow_up(self, sample: int, fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
        parts = self._segments(sample, self.resolved.follow_up, fields, tokenizer, replace(self.format, system=""))
        return parts.head + parts.tail

    def _after_answer(
        self, sample: int, fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase, answer: str
    ) -> list[int]:
        """Token ids of the second prompt, which prints the answer to the first."""
        return self._follow_up(sample, {**fields, "answer": answer.strip()}, tokenizer)

    def joined(self, texts: list[str]) -> str:
        return self.resolved.answers.format(*texts) if len(texts) > 1 else texts[0]

    def extract(self, prediction: str) -> str:
        if self._pattern is None:
            return prediction
        try:
            found = self._pattern.search(prediction, timeout=SECONDS)
        except TimeoutError as error:
            raise UserError(
                f"{self.name}: `answer` takes more than {SECONDS:g} seconds to search {len(prediction):,} characters; "
                "write it without nested repetitions."
            ) from error
        return "" if found is None else found[self._pattern.groups and 1] or ""

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        classes = example.details.get("classes")
        references = as_published(self.scorer, example.references)
        return example_numbers(self.scorer, self.extract(prediction), references, classes=classes)

    @property
    def corpus_scorer(self) -> str:
        return self.scorer

    @cached_property
    def _pattern(self) -> regex.Pattern[str] | None:
        try:
            return regex.compile(self.resolved.answer) if self.resolved.answer else None
        except (regex.error, RecursionError, OverflowError) as error:
            raise UserError(f"{self.name}: `answer` is not a regular expression: {error}.") from error

    @cached_property
    def _rows(self) -> DocumentRows:
        prompt = self.resolved.prompt
        return DocumentRows(
            owner=self.name,
            data=self.data,
            split=self.split,
            columns=self.columns,
            only=self.only,
            draw=self.draw,
            groups=self.groups,
            classes=self.classes,
            needs_references=not may_be_empty(self.scorer),
            needs_document="{%" not in prompt and NAMES_DOCUMENT.search(prompt) is not None,
            needs_question="{%" not in prompt and NAMES_QUESTION.search(prompt) is not None,
        )

    def _demonstrations(self, row: Row, cell: Cell, sample: int, seed: int) -> list[Row]:
        """The demonstrations of a row, the same at every length."""
        rng = self.rng(replace(cell, seq_len=0), sample, seed)
        return self._rows.demonstrations(row, self.resolved.shots, self.shots_split, rng)

    def _fields(self, row: Row, drawn: list[Row]) -> dict[str, Any]:
        """The fields of the templates for a row and its demonstrations."""
        return {**fields_of(row), "shots": [_shot(one) for one in drawn], "system": self.resolved.system}

    def _rendered(self, sample: int, template: str, fields: dict[str, Any]) -> str:
        """Raises: RowError for a template that cannot be rendered with the fields of this sample."""
        try:
            return render(self.name, template, fields)
        except UserError as error:
            raise RowError(f"{self._rows.where(sample)}: {error}") from error

    def _segments(
        self,
        sample: int,
        template: str,
        fields: dict[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        format_: PromptFormat,
    ) -> Segments:
        return segments(format_, tokenizer, self._rendered(sample, template, as_text(tokenizer, fields)))

    def _without_chat(self) -> tuple[str, ...]:
        """The task with each protocol that needs no chat template, as typed on the command line."""
        off = (False, "off", "false")
        plain = (
            name
            for name, each in self.protocols.items()
            if isinstance(each, dict) and each.get("chat", self.chat) in off
        )
        return tuple(f"{self.name.partition(':')[0]}:protocol={name}" for name in plain)

    def _document(self, sample: int, row: Row, parts: Segments, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        if not parts.has_document:
            return []
        if row.document_id is None:
            raise self._rows.without_document(sample)
        return list(_tokens(tokenizer, parts.lead + self._rows.document(row), parts.at_start))


def shorten(tokens: list[int], space: int, side: str) -> list[int]:
    """The tokens, truncated to `space` of them at the left, in the middle or at the right."""
    cut = len(tokens) - space
    if cut <= 0:
        return tokens
    first = {"left": 0, "middle": space - space // 2, "right": space}[side]
    return tokens[:first] + tokens[first + cut :]


def _shot(row: Row) -> dict[str, Any]:
    return {**row.meta, "question": row.question, "choices": row.choices, "answer": (*row.references, "")[0]}


@lru_cache(maxsize=8)
def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, at_start: bool) -> tuple[int, ...]:
    """Token ids of a document, cached across its questions and all methods; `at_start`: it is the start of the
    prompt."""
    text = as_text(tokenizer, text)
    if not at_start:
        return tuple(encode_inside(tokenizer, text))
    return tuple(encode_plain(tokenizer, text))
