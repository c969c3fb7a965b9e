"""WebQuestions: questions that people asked a search engine, with their answers, from `stanfordnlp/web_questions`.

Berant et al., Semantic Parsing on Freebase from Question-Answer Pairs, EMNLP 2013. The JSON files that projects of
question answering pass around (`qId`, `qText`, `answers`) can be given as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    question = row["question"] if "question" in row else row["qText"]
    yield SourceRow(row.get("qId", str(number)), question, tuple(row["answers"]))


DATA_SETS = [
    DataSet(
        name="web_questions",
        description="questions with short answers, for learning in context",
        hub=Hub("stanfordnlp/web_questions", ("*train-*.parquet", "*test-*.parquet")),
        licence=Licence("CC BY 4.0"),
        formats=({"question": str, "answers": list}, {"qId": str, "qText": str, "answers": list}),
        examples=examples,
        splits=("train", "test"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
