"""HELMET: recall in JSON, retrieval-augmented generation and re-ranking, from the archive of `princeton-nlp/HELMET`.

Yen et al. 2024, https://arxiv.org/abs/2410.02694. The archive has 11 GB; its unpacked folder `data` can be given with
--from. A column `k` of each row is the number of its passages or pairs: 50 of RAG and 105 of JSON make some 8k tokens,
105, 220, 440 and 1000 (220, 440, 900, 1800) twice as many each. Demonstrations are the split `train`. A question stands
there several times, at other depths of its answer; `key` tells it apart from others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

HUB = Hub(
    "princeton-nlp/HELMET",
    ("data.tar.gz",),
    "c5b85e7f0d954ffe71b3fe5b6d1da17a11094b1b",
    {"data.tar.gz": "9d693981aa3c065b8b2ff82ddf946141cdc4ece4524f18bff6f3fbd2a86982d9"},
)
MOST_POPULAR = 3  # PopQA: log10 of the views of a page; only rarer ones are asked
DEMONSTRATED = 10  # passages of a demonstration, at most: they stay with the row
SIZE = re.compile(r"_k([0-9]+)_")


def size(name: str) -> dict[str, str]:
    found = SIZE.search(name)
    return {"k": found[1] if found else "unknown"}


def json_kv(row: RawRow, number: int) -> Iterator[SourceRow]:
    demonstrations = [f"Key: {key}\nCorresponding value: {value}" for key, value in row["demos"][:2]]
    meta = {"k": row["k"], "demonstrations": "".join(f"{one}\n\n" for one in demonstrations), "depth": row.get("depth")}
    answers = tuple(row["answer"]) if isinstance(row["answer"], list) else (row["answer"],)
    yield SourceRow(f"{row['k']}-{number}", row["question"], answers, row["context"], meta=meta)


def rag(row: RawRow, number: int) -> Iterator[SourceRow]:
    if "s_pop" in row and not math.log10(max(row["s_pop"], 1)) < MOST_POPULAR:
        return
    passages = "\n\n".join(f"Document (Title: {one['title']}): {one['text']}" for one in row["ctxs"])
    yield _row(row, number, row["question"], tuple(row["answers"]), passages, {"key": row.get("id", row["question"])})


def rerank(row: RawRow, number: int) -> Iterator[SourceRow]:
    passages = "\n\n".join(f"[ID: {one['id']}] Document{_titled(one)}: {one['text']}" for one in row["ctxs"])
    best = sorted(row["ctxs"], key=lambda one: int(one["label"]), reverse=True)
    qrels = tuple(f"{one['id']} {one['label']}" for one in row["ctxs"])
    ranking = " > ".join(str(one["id"]) for one in best)
    yield _row(row, number, row["query"], qrels, passages, {"ranking": ranking, "key": row["qid"]})


def _titled(passage: RawRow) -> str:
    return f" (Title: {passage['title']})" if "title" in passage else ""


def _row(
    row: RawRow, number: int, question: str, references: tuple[str, ...], passages: str, meta: dict[str, Any]
) -> SourceRow:
    """A question with its passages: as the document, or in a short demonstration as the column `context`."""
    short = len(row["ctxs"]) <= DEMONSTRATED
    more = {"k": row["k"], "depth": row.get("depth"), **({"context": passages} if short else {})}
    return SourceRow(f"{row['k']}-{number}", question, references, passages, meta={**meta, **more})


def _data_set(
    name: str,
    description: str,
    members: str,
    examples: Callable[[RawRow, int], Iterator[SourceRow]],
    columns: dict[str, type],
    demonstrations: str = "",
) -> DataSet:
    return DataSet(
        name=f"helmet/{name}",
        description=description,
        hub=HUB,
        licence=Licence("MIT", "unclear", "the texts keep the terms of the data they were taken from"),
        formats=(columns,),
        examples=examples,
        members=(members,),
        train_files=(demonstrations,) if demonstrations else (),
        from_name=size,
    )


RAG = {"question": str, "answers": list, "ctxs": list}
DATA_SETS = [
    _data_set(
        "json_kv",
        "the value of a key in an object of JSON",
        "*json_kv/test_k*.jsonl",
        json_kv,
        {"context": str, "question": str, "answer": object, "demos": list},
    ),
    *(
        _data_set(
            name, f"questions of {title} with passages", f"*kilt/{name}*_k*.jsonl", rag, RAG, f"*{name}*_k3_*.jsonl"
        )
        for name, title in (
            ("nq", "Natural Questions"),
            ("triviaqa", "TriviaQA"),
            ("hotpotqa", "HotpotQA"),
            ("popqa", "PopQA"),
        )
    ),
    _data_set(
        "msmarco",
        "passages to be ranked by a query",
        "*msmarco/test_reranking_data_k*.jsonl",
        rerank,
        {"qid": str, "query": str, "ctxs": list},
        "*test_reranking_data_k10_*.jsonl",
    ),
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
