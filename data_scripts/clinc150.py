"""CLINC150: requests to an assistant, of 150 kinds and of none, from the hub's own parquet of `clinc/clinc_oos`, whose
configuration `plus` has the most requests of no kind (`oos`).

Larson et al. 2019, https://aclanthology.org/D19-1131. The reference is the name of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    yield SourceRow(str(number), row["text"], (row["intent"],))


DATA_SETS = [
    DataSet(
        name="clinc150",
        description="requests to an assistant by kind, for learning in context",
        hub=Hub(
            "clinc/clinc_oos",
            ("plus/train/*.parquet", "plus/validation/*.parquet", "plus/test/*.parquet"),
            "refs/convert/parquet",
        ),
        licence=Licence("CC-BY-3.0"),
        formats=({"text": str, "intent": str},),
        examples=examples,
        splits=("train", "validation", "test"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
