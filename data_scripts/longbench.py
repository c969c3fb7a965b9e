"""LongBench: 21 tasks in English, Chinese and code, from `data.zip` of `THUDM/LongBench`; its script is not run.

Bai et al., LongBench: A Bilingual, Multitask Benchmark for Long Context Understanding, arXiv:2308.14508. Copies in
parquet write the prompts of one project around context and question; these are the rows as published.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow

TASKS = {
    "narrativeqa": "questions on books and scripts",
    "qasper": "questions on papers",
    "multifieldqa_en": "questions on articles",
    "multifieldqa_zh": "questions on articles, Chinese",
    "hotpotqa": "questions on several passages",
    "2wikimqa": "questions on several passages",
    "musique": "questions on several passages",
    "dureader": "questions on several passages, Chinese",
    "gov_report": "summaries of reports",
    "qmsum": "summaries of meetings by query",
    "multi_news": "summaries of news",
    "vcsum": "summaries of meetings, Chinese",
    "trec": "kinds of questions, by examples",
    "triviaqa": "trivia, by examples",
    "samsum": "summaries of chats, by examples",
    "lsht": "kinds of news, by examples, Chinese",
    "passage_count": "how many passages differ",
    "passage_retrieval_en": "which passage a summary is of",
    "passage_retrieval_zh": "which passage a summary is of, Chinese",
    "lcc": "the next line of a file of code",
    "repobench-p": "the next line, from a repository",
}


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    meta = {name: row[name] for name in ("length", "language", "dataset") if name in row}
    choices = tuple(row["all_classes"] or ())
    yield SourceRow(row["_id"], row["input"], tuple(row["answers"]), row["context"], choices=choices, meta=meta)


DATA_SETS = [
    DataSet(
        name=f"longbench/{name}",
        description=description,
        hub=Hub("THUDM/LongBench", ("data.zip",)),
        licence=Licence("MIT", "unclear", "the texts keep the terms of the data they were taken from"),
        formats=({"_id": str, "input": str, "context": str, "answers": list, "all_classes": object},),
        examples=examples,
        splits=("test",),
    )
    for name, description in TASKS.items()
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
