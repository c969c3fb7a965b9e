"""MRCR: repeat one of several similar messages of a long conversation, after a random string."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lcbench.core.errors import LeftOutError, RowError, TooLongError, UserError
from lcbench.core.tokens import as_text, encode_inside
from lcbench.data import Row
from lcbench.metrics import example_numbers
from lcbench.tasks.base import Cell, Example, Task
from lcbench.tasks.chat import Message
from lcbench.tasks.dialogue.made_up import (
    FORMS,
    ORDINALS,
    TOPICS,
    distractors,
    examples,
    question,
    random_string,
    reply,
    request,
)
from lcbench.tasks.questions import Questions, questions
from lcbench.tasks.text.running_text import GENERATED, running_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRIC = "mrcr/openai_grade"
PLAIN = ("User: ", "\n\nAssistant: ", "\n\nUser: ", "\n\nAssistant:")  # around turns without a chat template
SPARE_TOKENS = 16  # of an answer beyond the right one
BINS = [2**power for power in range(12, 21)]  # tokens of prompt and answer: upper ends of the published bins
ALL = 10**9  # samples: every row of the data


@dataclass(frozen=True, kw_only=True)
class Dialogue(Task):
    """Vodrahalli et al. 2024, https://arxiv.org/abs/2409.12640, in the form of openai/mrcr: the user repeatedly asks
    for a text of some form about a topic, `needles` times for the same, and finally for one of these, by its ordinal
    number.

    Without `data` conversations are generated: two solved examples, then as many exchanges as fit, needles among them
    at random places, and one reply of running text that makes prompt and answer exactly `seq_len` tokens. The answer's
    budget is the correct answer plus a few tokens, at least `max_new_tokens`.

    With `data: mrcr` (`lcbench data prepare mrcr`) samples are the published rows with this many needles. A row that
    does not fit with `max_new_tokens` is left out, or fails with too_long=fail, since nothing may be cut. Tables also
    show the score by the published length bins, in tokens of the model's own tokenizer.

    In a chat every message is a turn; for templates that refuse two user turns in a row, with which the published rows
    begin, these are merged. Without a chat template, turns begin with `User:` and `Assistant:`, as in Google's MRCR.

    Scores, from 0 to 100: see lcbench.metrics.mrcr.
    """

    family: ClassVar[str] = "dialogue"
    metric: ClassVar[str] = "score"

    needles: int = 2
    data: str = ""
    split: str = "test"
    max_new_tokens: int = 0
    too_long: Literal["skip", "fail"] = "skip"
    samples: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.needles <= len(ORDINALS):
            raise UserError(f"{self.name}: needles must be from 1 to {len(ORDINALS)}, not {self.needles}.")
        if self.max_new_tokens < bool(self.data):
            raise UserError(f"{self.name}: max_new_tokens must be at least {int(bool(self.data))}.")

    def require_data(self) -> None:
        if self.data:
            self._rows  # noqa: B018

    def available(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        return len(self._rows) if self.data else None

    def check_row(self, sample: int, seed: int) -> None:
        """Rows without an answer, or without a conversation."""
        if self.data:
            self._answer(self._rows.row(sample), sample)

    def check_prompt(self, sample: int, seed: int) -> None:
        """Rows whose document is not a conversation."""
        if self.data:
            self._messages(self._rows.row(sample), sample)

    def example(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        return (self._published if self.data else self._made_up)(cell, sample, tokenizer, seed)

    @property
    def corpus_scorer(self) -> str:
        return METRIC

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return example_numbers(METRIC, prediction, example.references)

    def _made_up(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        rng = self.rng(cell, sample, seed)
        subject = rng.choice(FORMS), rng.choice(TOPICS)
        replies: dict[str, None] = {}
        while len(replies) < self.needles:
            replies[reply(rng, subject[1])] = None
        wanted, prefix = rng.randrange(self.needles), random_string(rng)
        answer = prefix + list(replies)[wanted]
        budget = max(self.max_new_tokens, len(encode_inside(tokenizer, " " + answer)) + SPARE_TOKENS)

        before, middle, between, end = self._around(tokenizer)
        head = self._opening(tokenizer, before + examples(rng))
        tail = encode_inside(tokenizer, question(prefix, wanted, subject) + end)

        def exchange(asked: str, said: str) -> list[int]:
            return encode_inside(tokenizer, f"{asked}{middle}{said}{between}")

        needles = [exchange(request(subject), said) for said in replies]
        others = distractors(rng, subject)
        asked, _ = next(others)
        frame = encode_inside(tokenizer, f"{asked}{middle}"), encode_inside(tokenizer, between)
        space = cell.seq_len - budget - len(head) - len(tail) - sum(map(len, chain(needles, frame)))
        if space < 1:
            raise UserError(
                f"{self.name} does not fit into {cell.seq_len} tokens; use --seq-len {cell.seq_len + 1 - space} or "
                "more."
            )
        turns: list[list[int]] = []
        for asked, said in others:
            turn = exchange(asked, said)
            if len(turn) >= space:
                break
            turns.append(turn)
            space -= len(turn)
        text = running_text(tokenizer, GENERATED, f"{self.name}|{sample}|{seed}")
        turns.insert(rng.randrange(len(turns) + 1), frame[0] + text_of(text, space) + frame[1])
        places = sorted(rng.sample(range(len(turns) + self.needles), self.needles))
        for place, needle in zip(places, needles, strict=True):
            turns.insert(place, needle)
        needle_at = sum(map(len, islice(turns, places[wanted])))
        context = list(chain.from_iterable(turns))
        return Example(
            head=head,
            context=context,
            tail=tail,
            references=(answer, prefix),
            max_new_tokens=budget,
            seed=self.sample_seed(cell, sample, seed),
            depth=needle_at / len(context),
            needle_at=len(head) + needle_at,
            needle_tokens=len(needles[wanted]),
            details={"needles": self.needles, "wanted": wanted + 1, "turns": len(turns)},
        )

    def _around(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str, str]:
        """The text before the first request, between a request and its reply, between a reply and the next request, and
        after the last one."""
        return self.format.turns(tokenizer) if self.format.in_chat(tokenizer) else PLAIN

    def _opening(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Token ids of the start of the prompt; of a chat, its template included."""
        in_chat = self.format.in_chat(tokenizer)
        return self.format.encode_chat(tokenizer, text) if in_chat else self.format.start(tokenizer, text)

    def _published(self, cell: Cell, sample: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Example:
        row = self._rows.row(sample)
        prompt = self._encoded(tokenizer, self._messages(row, sample))
        answer = len(encode_inside(tokenizer, as_text(tokenizer, f" {self._answer(row, sample)}")))
        if len(prompt) + self.max_new_tokens > cell.seq_len:
            raise (LeftOutError if self.too_long == "skip" else TooLongError)(
                f"{self._where(sample)} has {len(prompt):,} tokens, and with "
                f"{self.max_new_tokens:,} for the answer does not fit into {cell.seq_len:,}; {self.name} does not cut "
                "conversations."
            )
        return Example(
            head=[],
            context=prompt,
            tail=[],
            references=row.references,
            max_new_tokens=self.max_new_tokens,
            seed=self.sample_seed(cell, sample, seed),
            details={"row": row.id, "document": row.document_id, "groups": {"tokens": _bin(len(prompt) + answer)}},
        )

    def _encoded(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
        *earlier, last = [Message(one.role, as_text(tokenizer, one.content)) for one in messages]
        if not self.format.in_chat(tokenizer):
            said = {"user": "User", "assistant": "Assistant"}
            turns = "".join(f"{said[one.role]}: {one.content}\n\n" for one in (*earlier, last))
            return self.format.start(tokenizer, f"{turns}Assistant:")
        try:
            rendered = self.format.render(tokenizer, last.content, earlier)
        except UserError:
            *earlier, last = _merged([*earlier, last])
            rendered = self.format.render(tokenizer, last.content, earlier)
        return self.format.encode_chat(tokenizer, rendered)

    def _messages(self, row: Row, sample: int) -> list[Message]:
        """The messages of a row. Raises: RowError for a document that is not a conversation."""
        where = self._where(sample)
        try:
            given: list[dict[str, Any]] = json.loads(self._rows.document(row))
            messages = [Message(one["role"], _said(one["content"])) for one in given]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RowError(f"{where} is not a conversation in JSON, whose messages have a role and a text.") from error
        if (
            not messages
            or messages[-1].role != "user"
            or any(one.role not in ("user", "assistant") for one in messages)
        ):
            raise RowError(f"{where} does not end with a message of the user.")
        return messages

    def _answer(self, row: Row, sample: int) -> str:
        """The correct answer, which begins with the random string if the row has one. Raises: RowError."""
        if not row.references or not row.references[0].strip():
            raise RowError(f"{self._where(sample)} has no answer to compare with.")
        answer, *prefix = row.references
        if prefix and not answer.startswith(prefix[0]):
            raise RowError(f"{self._where(sample)} has an answer that does not begin with its random string.")
        if row.document_id is None:
            raise RowError(f"{self._where(sample)} has no conversation.")
        return answer

    def _where(self, sample: int) -> str:
        """The row of a sample, in words."""
        return f"row {self._rows.number(sample) + 1} of {self.data}"

    @property
    def _rows(self) -> Questions:
        return questions(self.data, self.split, {}, {"n_needles": str(self.needles)})


def _said(content: Any) -> str:
    """The text of a message, or of its one part. Raises: ValueError or TypeError for other parts, such as an image."""
    if isinstance(content, list) and content:
        (part,) = content
        content = part["text"]
    if not isinstance(content, str):
        raise TypeError
    return content


def text_of(text: Any, size: int) -> list[int]:
    """The first tokens of a running text."""
    text.reach(size)
    tokens: list[int] = text.cut(size)[0]
    return tokens


def _merged(messages: list[Message]) -> list[Message]:
    """The messages, with consecutive ones of the same role merged."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role:
            found[-1] = Message(message.role, f"{found[-1].content}\n{message.content}")
        else:
            found.append(message)
    return found


def _bin(tokens: int) -> str:
    """The published bin of a length, such as `8k to 16k`; shorter and longer lengths have their own bins."""
    upper = next((end for end in BINS if tokens <= end), None)
    if upper is None:
        return f"over {BINS[-1] >> 10}k"
    return f"up to {upper >> 10}k" if upper == BINS[0] else f"{upper >> 11}k to {upper >> 10}k"
