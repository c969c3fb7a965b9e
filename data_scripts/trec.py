"""TREC question classification: 5,452 and 500 questions of 50 kinds, from the hub's own parquet of `CogComp/trec`.

Li and Roth, Learning Question Classifiers, COLING 2002. The makers' own files, `train_5500.label` and `TREC_10.label`,
can be given as they are. The reference is the fine label as its makers write it, `NUM:dist`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    coarse, fine = row["coarse_label"], row["fine_label"]
    label = fine if ":" in fine else f"{coarse}:{fine}"
    yield SourceRow(str(number), row["text"], (label,), meta={"coarse_label": coarse})


DATA_SETS = [
    DataSet(
        name="trec",
        description="kinds of questions, for learning in context",
        hub=Hub("CogComp/trec", ("default/train/*.parquet", "default/test/*.parquet"), "refs/convert/parquet"),
        licence=Licence("none stated", "unclear", "free for research"),
        formats=({"text": str, "coarse_label": str, "fine_label": str},),
        examples=examples,
        splits=("train", "test"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
