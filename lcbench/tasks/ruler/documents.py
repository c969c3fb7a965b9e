"""Questions and the documents that answer them, of SQuAD and HotpotQA: prepared data, or the published files."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, gist_of
from lcbench.core.files import read_whole
from lcbench.data import Row, load_document, load_rows
from lcbench.data.schema import Document
from lcbench.tasks.text.running_text import LINE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "\n\n"  # after every document
TITLES = {"squad": "SQuAD 2.0", "hotpotqa": "HotpotQA"}
SPLIT = "validation"  # of prepared data


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and its documents by their numbers in the `Collection`: those that contain the
    answer (`answered_by`), and distractors that its source gives with it (`near`)."""

    text: str
    answers: tuple[str, ...]
    answered_by: tuple[int, ...]
    near: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Collection:
    """The distinct documents of a file, and its questions in file order."""

    documents: tuple[str, ...]
    questions: tuple[Question, ...]


class Bodies:
    """Token ids of documents, with the line breaks that follow them, tokenised on first use and cached."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, collection: Collection) -> None:
        self._tokenizer, self._documents = tokenizer, collection.documents
        self._tokens: dict[int, array[int]] = {}

    def of(self, numbers: Sequence[int]) -> list[list[int]]:
        new = [number for number in dict.fromkeys(numbers) if number not in self._tokens]
        if new:
            encoded = encode_all(self._tokenizer, [self._documents[number] + END for number in new], LINE)
            self._tokens.update((number, array("I", ids)) for number, ids in zip(new, encoded, strict=True))
        return [self._tokens[number].tolist() for number in numbers]


@lru_cache(maxsize=4)
def bodies_of(tokenizer: PreTrainedTokenizerBase, collection: Collection) -> Bodies:
    return Bodies(tokenizer, collection)


def collection(dataset: str, source: str) -> Collection:
    """The questions of `squad` or `hotpotqa` from its published file, or without a `source` from the data that `lcbench
    data prepare` made of the same questions. Raises: UserError for data that are missing or cannot be read."""
    return read_collection(dataset, source) if source else _prepared(dataset, load_rows(dataset, SPLIT))


@lru_cache(maxsize=4)
def _prepared(dataset: str, rows: Sequence[Row]) -> Collection:
    """The collection of prepared rows, which is that of the published file."""
    documents = {id: load_document(dataset, id) for id in dict.fromkeys(str(row.document_id) for row in rows)}
    if dataset == "squad":
        return _prepared_squad(rows, documents)
    items = [
        {
            "question": row.question,
            "answer": row.references[0],
            "context": [_titled(part) for part in documents[str(row.document_id)].text.split(END)],
            "supporting_facts": [(title, 0) for title in row.meta["supporting"]],
        }
        for row in rows
    ]
    try:
        return _hotpotqa(items)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"the data `{dataset}` are not as lcbench writes them ({error}); prepare them again."
        ) from error


def _prepared_squad(rows: Sequence[Row], documents: Mapping[str, Document]) -> Collection:
    """Paragraphs with the same title are of one article."""
    numbers = _numbered(document.text for document in documents.values())
    articles: dict[str, dict[int, None]] = {}
    for document in documents.values():
        articles.setdefault(document.title, {})[numbers[document.text]] = None
    questions = []
    for row in rows:
        document = documents[str(row.document_id)]
        own = numbers[document.text]
        near = tuple(number for number in articles[document.title] if number != own)
        if row.references:  # SQuAD 2.0 has questions without
            questions.append(Question(row.question, tuple(dict.fromkeys(row.references)), (own,), near))
    return Collection(tuple(numbers), tuple(questions))


def _titled(part: str) -> tuple[str, list[str]]:
    """The title and the sentences of a paragraph of HotpotQA."""
    title, _, text = part.partition("\n")
    return title, [text]


@lru_cache(maxsize=4)
def read_collection(dataset: str, source: str) -> Collection:
    """The file of `squad` (1.1 or 2.0; questions without answer are left out) or `hotpotqa` (distractor setting).

    Raises: UserError for a file that cannot be read, is not in that format, or asks nothing.
    """
    path, title = Path(source).expanduser(), TITLES[dataset]
    try:
        content = json.loads(read_whole(path))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; use the file of {title}, or prepared data: "
            f"`lcbench data prepare {dataset}`."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON in UTF-8: {gist_of(error)}.") from error
    try:
        collection = READERS[dataset](content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not in the format of {title} ({type(error).__name__}: {error}); "
            f"use the file as it was published, or `lcbench data prepare {dataset}`."
        ) from error
    if not collection.questions:
        raise UserError(f"{path} has no questions with answers.")
    return collection


def _squad(content: Any) -> Collection:
    """`{"data": [{"paragraphs": [{"context", "qas": [{"question", "answers": [{"text"}]}]}]}]}`"""
    articles = [article["paragraphs"] for article in content["data"]]
    numbers = _numbered(paragraph["context"] for paragraphs in articles for paragraph in paragraphs)
    questions = []
    for paragraphs in articles:
        article = dict.fromkeys(numbers[paragraph["context"]] for paragraph in paragraphs)
        for paragraph in paragraphs:
            own = numbers[paragraph["context"]]
            near = tuple(number for number in article if number != own)
            for entry in paragraph["qas"]:
                answers = tuple(dict.fromkeys(_text(answer["text"]) for answer in entry["answers"]))
                if answers:  # SQuAD 2.0 has questions without (`is_impossible`)
                    questions.append(Question(_text(entry["question"]), answers, (own,), near))
    return Collection(tuple(numbers), tuple(questions))


def _hotpotqa(content: Any) -> Collection:
    """`[{"question", "answer", "context": [[title, [sentence, ...]], ...], "supporting_facts": [[title, n], ...]}]`"""
    numbers = _numbered(_with_title(*entry) for item in content for entry in item["context"])
    questions = []
    for item in content:
        facts = {title for title, _ in item["supporting_facts"]}
        own = {numbers[_with_title(title, sentences)]: title in facts for title, sentences in item["context"]}
        answered_by = tuple(number for number, answers in own.items() if answers)
        if not answered_by:
            raise ValueError("no document of a question is among its supporting facts")
        near = tuple(number for number, answers in own.items() if not answers)
        questions.append(Question(_text(item["question"]), (_text(item["answer"]),), answered_by, near))
    return Collection(tuple(numbers), tuple(questions))


READERS: dict[str, Callable[[Any], Collection]] = {"squad": _squad, "hotpotqa": _hotpotqa}


def _with_title(title: str, sentences: list[str]) -> str:
    return f"{title}\n{''.join(sentences)}"


def _numbered(texts: Any) -> dict[str, int]:
    return {_text(text): number for number, text in enumerate(sorted(set(texts)))}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not text")
    return value
