"""HotpotQA, validation: questions that take two of ten paragraphs, from `hotpotqa/hotpot_qa`; RULER's second QA task.

Yang et al., HotpotQA: A Dataset for Diverse, Explainable Multi-hop Question Answering, arXiv:1809.09600. The ten
paragraphs are one document, each below its title, a blank line between two.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    titles, paragraphs = row["context"]["title"], row["context"]["sentences"]
    text = "\n\n".join(f"{title}\n{''.join(lines)}" for title, lines in zip(titles, paragraphs, strict=True))
    meta = {"type": row["type"], "level": row["level"], "supporting": row["supporting_facts"]["title"]}
    yield SourceRow(row["id"], row["question"], (row["answer"],), text, meta=meta)


FIELDS = {"id": str, "question": str, "answer": str, "type": str, "level": str}
DATA_SETS = [
    DataSet(
        name="hotpotqa",
        description="questions on two of ten paragraphs",
        hub=Hub(
            "hotpotqa/hotpot_qa",
            ("distractor/validation-*.parquet",),
            "1908d6afbbead072334abe2965f91bd2709910ab",
            {
                "distractor/validation-00000-of-00001.parquet": (
                    "c20b638ca82b21d04fe12e14ff417ad05153d4d215a65de54497fca4e972f7c6"
                )
            },
        ),
        licence=Licence("CC BY-SA 4.0"),
        formats=({**FIELDS, "context": dict, "supporting_facts": dict},),
        examples=examples,
        splits=("validation",),
        unnamed_split="validation",
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
