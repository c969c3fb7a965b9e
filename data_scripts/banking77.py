"""Banking77: 10,003 and 3,080 questions of a bank's customers, of 77 kinds, from the hub's own parquet of
`PolyAI/banking77`.

Casanueva et al. 2020, https://arxiv.org/abs/2003.04807. The makers' own files, `train.csv` and `test.csv` of
`banking_data`, can be given as they are. The reference is the name of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(str(number), row["text"], (row["label"] if "label" in row else row["category"],))


DATA_SETS = [
    DataSet(
        name="banking77",
        description="questions to a bank by kind, for learning in context",
        hub=Hub("PolyAI/banking77", ("default/train/*.parquet", "default/test/*.parquet"), "refs/convert/parquet"),
        licence=Licence("CC-BY-4.0"),
        formats=({"text": str, "label": str}, {"text": str, "category": str}),
        examples=examples,
        splits=("train", "test"),
        suffixes=(".csv", ".jsonl", ".parquet"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
