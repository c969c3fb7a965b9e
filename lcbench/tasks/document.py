"""Questions about documents, as data: a source, a Jinja prompt, a metric, and what ends an answer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import regex

from lcbench.core.errors import UserError, unknown
from lcbench.core.specs import convert_options
from lcbench.core.tokens import as_text, encode_inside, encode_start
from lcbench.data import Row
from lcbench.metrics import names as metric_names
from lcbench.metrics import score_example
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.questions import Questions, questions
from lcbench.tasks.template import Segments, render, segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 2.0  # that the regular expression `answer` may take for one prediction
ALL = 10**9  # samples: as many as the data have
IN_PROTOCOLS = (
    "chat",
    "system",
    "prompt",
    "follow_up",
    "answers",
    "truncate",
    "shots",
    "stop",
    "answer",
    "max_new_tokens",
)


@dataclass(frozen=True, kw_only=True)
class DocumentTask(Task):
    """One sample a row of `data` (lcbench/tasks/questions.py), in the order of the source.

    `prompt` is a Jinja template with `document`, `question`, `choices`, `references`, `system`, `shots` (each with
    `question`, `answer` and `choices`) and the further columns of the row; with `chat` it is what the user says in the
    tokenizer's chat template, behind `system`. Only the document is shortened, by tokens, from its `truncate` side, to
    what the length leaves beside the rest of the prompt and `max_new_tokens`; the published harnesses cut words in
    steps of 100 and stay some 200 tokens below. `shots` demonstrations are drawn for every row from the split
    `shots_split`.

    Generation ends at the first of the `stop` strings. Of what was generated, the group of the regular expression
    `answer` is scored, by `scorer` (lcbench.metrics), on the scale of 0 to 100. A `follow_up` is a second prompt,
    asked by itself, without `system`; `answers` puts both answers together. `protocols` are other values for any of
    these, by name.
    """

    family: ClassVar[str] = "document"
    metric: ClassVar[str] = "score"

    data: str
    split: str = "validation"
    columns: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    chat: bool = False
    system: str = ""
    follow_up: str = ""
    answers: str = "{0}\n{1}"
    truncate: Literal["left", "middle", "right"] = "right"
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
        if self.asked.max_new_tokens < 1 or self.asked.shots < 0:
            raise UserError(f"{self.name}: max_new_tokens must be at least 1, and shots at least 0.")
        if not self.asked.prompt:
            raise UserError(f"{self.name} lacks `prompt`.")
        self._pattern  # noqa: B018  (a broken one is told before anything runs)

    @cached_property
    def asked(self) -> DocumentTask:
        """This task with the values of its protocol."""
        if not self.protocol:
            return self
        owner, given = f"protocol {self.protocol} of {self.name}", self.protocols[self.protocol]
        if not isinstance(given, dict):
            raise UserError(f"{owner} must be a mapping, not {given!r}.")
        for key in given:
            if key not in IN_PROTOCOLS:
                raise unknown(f"option of {owner}:", str(key), IN_PROTOCOLS)
        return replace(self, **convert_options(owner, type(self), given), protocol="", protocols={})

    def cells(self, seq_lens: list[int], depths: list[float] | None) -> list[Cell]:
        """One cell a length: the most tokens that prompt and answer may have together."""
        if depths is not None:
            raise UserError(f"{self.name} hides no needle; leave the depths out.")
        return [Cell(seq_len) for seq_len in seq_lens]

    def require_data(self) -> None:
        self._rows  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return len(self._rows)

    def shares(self, cell: Cell, sample: int) -> Hashable:
        """Questions on one document; those without a document have their demonstrations at most in common."""
        return self._rows.row(sample).document_id or (cell, sample)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        asked, row = self.asked, self._rows.row(sample)
        if not row.references:
            raise UserError(f"row {sample + 1} of {self.data} ({self.split}) has no references to score an answer by.")
        drawn = self._demonstrations(row, cell, sample, seed)
        fields = {**row.meta, "question": row.question, "choices": row.choices, "shots": [_shot(one) for one in drawn]}
        fields |= {"references": row.references, "system": asked.system}
        parts = self._segments(asked.prompt, fields, tokenizer, asked.system)
        document = self._document(row, parts, tokenizer)
        room = cell.seq_len - asked.max_new_tokens - len(parts.head) - len(parts.tail)
        if room < min(1, len(document)):
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens: sample {sample} needs "
                f"{cell.seq_len - room + min(1, len(document))} even without its document; use a longer --seq-len"
                + (" or fewer shots." if asked.shots else ".")
            )
        follow_up = self._segments(asked.follow_up, fields, tokenizer, "") if asked.follow_up else None
        return Example(
            head=parts.head,
            context=shorten(document, room, asked.truncate),
            tail=parts.tail,
            references=row.references,
            max_new_tokens=asked.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            stop=asked.stop,
            follow_up=follow_up.head + follow_up.tail if follow_up else [],
            details={
                "row": row.id,
                "document": row.document_id,
                "document_tokens": len(document),
                "cut_tokens": max(0, len(document) - room),
                "shots": [one.id for one in drawn],
                **({"classes": self._classes(fields)} if self.classes else {}),
            },
        )

    def joined(self, texts: list[str]) -> str:
        return self.asked.answers.format(*texts) if len(texts) > 1 else texts[0]

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
        scored = score_example(self.scorer, self.extract(prediction), example.references, classes=classes)
        return {name: float(value) for name, value in scored.items() if isinstance(value, int | float)}

    @property
    def corpus_scorer(self) -> str:
        return self.scorer

    @cached_property
    def _pattern(self) -> regex.Pattern[str] | None:
        try:
            return regex.compile(self.asked.answer) if self.asked.answer else None
        except (regex.error, RecursionError, OverflowError) as error:
            raise UserError(f"{self.name}: `answer` is no regular expression: {error}.") from error

    @property
    def _rows(self) -> Questions:
        return questions(self.data, self.split, self.columns)

    def _demonstrations(self, row: Row, cell: Cell, sample: int, seed: int) -> list[Row]:
        """Rows of another split, or others of the same, the same ones for a row at every length."""
        if not self.asked.shots:
            return []
        pool = questions(self.data, self.shots_split, self.columns)
        rng = self.rng(replace(cell, seq_len=0), sample, seed)
        drawn: list[Row] = []
        for number in rng.sample(range(len(pool)), min(len(pool), self.asked.shots + 1)):
            other = pool.row(number)
            if (self.shots_split != self.split or other.id != row.id) and len(drawn) < self.asked.shots:
                drawn.append(other)
        if len(drawn) < self.asked.shots:
            raise UserError(
                f"{self.data} has {len(pool)} rows in {self.shots_split}, not enough for {self.asked.shots} shots."
            )
        return drawn

    def _classes(self, fields: dict[str, Any]) -> list[str]:
        if self.classes not in fields:
            raise unknown(f"column of {self.data} as `classes`:", self.classes, fields)
        return list(fields[self.classes])

    def _segments(
        self, template: str, fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase, system: str
    ) -> Segments:
        text = render(self.name, template, as_text(tokenizer, fields))
        return segments(self.name, tokenizer, text, chat=self.asked.chat, system=system, instead=self._without_chat())

    def _without_chat(self) -> list[str]:
        """This task in the protocols that do without a chat template, as they are typed."""
        plain = [
            name
            for name, given in self.protocols.items()
            if isinstance(given, dict) and not given.get("chat", self.chat)
        ]
        return [f"{self.name.partition(':')[0]}:protocol={name}" for name in plain]

    def _document(self, row: Row, parts: Segments, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        if not parts.has_document:
            return []
        if row.document_id is None:
            raise UserError(f"{self.name}: its prompt names a document, and row {row.id} of {self.data} has none.")
        return list(_tokens(tokenizer, parts.lead + self._rows.document(row), parts.at_start))


def shorten(tokens: list[int], room: int, side: str) -> list[int]:
    """The tokens, or so many of them as there is room for: without those at the left, in the middle or at the right."""
    cut = len(tokens) - room
    if cut <= 0:
        return tokens
    first = {"left": 0, "middle": room - room // 2, "right": room}[side]
    return tokens[:first] + tokens[first + cut :]


def _shot(row: Row) -> dict[str, Any]:
    return {**row.meta, "question": row.question, "choices": row.choices, "answer": (*row.references, "")[0]}


@lru_cache(maxsize=8)
def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, at_start: bool) -> tuple[int, ...]:
    """A document is tokenised once for all its questions, and for all methods."""
    text = as_text(tokenizer, text)
    if not at_start:
        return tuple(encode_inside(tokenizer, text))
    return tuple(encode_start(tokenizer, text)[len(encode_start(tokenizer, "")) :])
