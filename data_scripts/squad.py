"""SQuAD 2.0, validation: questions on paragraphs of Wikipedia, from `rajpurkar/squad_v2`; RULER's first QA task.

Rajpurkar et al., Know What You Don't Know: Unanswerable Questions for SQuAD, arXiv:1806.03822. A question that its
paragraph does not answer has no references.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    answers = tuple(dict.fromkeys(row["answers"]["text"]))  # several people gave the same
    yield SourceRow(row["id"], row["question"], answers, row["context"], row["title"])


DATA_SETS = [
    DataSet(
        name="squad",
        description="questions on paragraphs",
        hub=Hub("rajpurkar/squad_v2", ("squad_v2/validation-*.parquet",), "3ffb306f725f7d2ce8394bc1873b24868140c412"),
        licence=Licence("CC BY-SA 4.0"),
        formats=({"id": str, "title": str, "context": str, "question": str, "answers": dict},),
        examples=examples,
        splits=("validation",),
        unnamed_split="validation",
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
