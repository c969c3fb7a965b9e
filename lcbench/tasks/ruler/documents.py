"""Questions and the documents that answer them, from the files that SQuAD and HotpotQA give out."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError
from lcbench.tasks.text.running_text import LINE, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "\n\n"  # behind every document
PUBLISHED = {
    "squad": ("SQuAD 2.0", "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"),
    "hotpotqa": ("HotpotQA", "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json"),
}


@dataclass(frozen=True)
class Question:
    """A question, what counts as its answer, the documents that answer it, and others that come with it."""

    text: str
    answers: tuple[str, ...]
    answered_by: tuple[int, ...]
    near: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Collection:
    """The documents of a file, each once, and its questions in their order."""

    documents: tuple[str, ...]
    questions: tuple[Question, ...]


class Bodies:
    """The tokens of documents as they stand below their labels, line breaks behind them included, made on demand."""

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


@lru_cache(maxsize=4)
def read_collection(dataset: str, source: str) -> Collection:
    """The file of `squad` (1.1 or 2.0; questions without answer are left out) or `hotpotqa` (distractor setting).

    Raises: UserError for a file that cannot be read, is not in that format, or asks nothing.
    """
    path, (title, address) = Path(source).expanduser(), PUBLISHED[dataset]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; get the file of {title} from {address}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON in UTF-8: {error}.") from error
    try:
        collection = READERS[dataset](content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not in the format of {title} ({type(error).__name__}: {error}); "
            f"use the file as it was published, from {address}."
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
            for asked in paragraph["qas"]:
                answers = tuple(dict.fromkeys(_text(answer["text"]) for answer in asked["answers"]))
                if answers:  # there are none where SQuAD 2.0 says `is_impossible`
                    questions.append(Question(_text(asked["question"]), answers, (own,), near))
    return Collection(tuple(numbers), tuple(questions))


def _hotpotqa(content: Any) -> Collection:
    """`[{"question", "answer", "context": [[title, [sentence, ...]], ...], "supporting_facts": [[title, n], ...]}]`"""
    numbers = _numbered(_with_title(*entry) for asked in content for entry in asked["context"])
    questions = []
    for asked in content:
        facts = {title for title, _ in asked["supporting_facts"]}
        own = {numbers[_with_title(title, sentences)]: title in facts for title, sentences in asked["context"]}
        answered_by = tuple(number for number, answers in own.items() if answers)
        if not answered_by:
            raise ValueError("no document of a question is among its supporting facts")
        near = tuple(number for number, answers in own.items() if not answers)
        questions.append(Question(_text(asked["question"]), (_text(asked["answer"]),), answered_by, near))
    return Collection(tuple(numbers), tuple(questions))


READERS: dict[str, Callable[[Any], Collection]] = {"squad": _squad, "hotpotqa": _hotpotqa}


def _with_title(title: str, sentences: list[str]) -> str:
    return f"{title}\n{''.join(sentences)}"


def _numbered(texts: Any) -> dict[str, int]:
    return {_text(text): number for number, text in enumerate(sorted(set(texts)))}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value
