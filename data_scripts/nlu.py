"""NLU evaluation data: 25,715 requests to an assistant at home, of 68 kinds, from the hub's own parquet of
`xingkunliuxtracta/nlu_evaluation_data`, which has one split.

Liu et al. 2019, https://arxiv.org/abs/1903.05566. The reference is the name of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(str(number), row["text"], (row["label"],))


DATA_SETS = [
    DataSet(
        name="nlu",
        description="requests to an assistant at home by kind, for learning in context",
        hub=Hub("xingkunliuxtracta/nlu_evaluation_data", ("default/train/*.parquet",), "refs/convert/parquet"),
        licence=Licence("CC-BY-4.0"),
        formats=({"text": str, "label": str},),
        examples=examples,
        splits=("train",),
        unnamed_split="train",
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
