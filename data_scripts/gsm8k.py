"""GSM8K: word problems with worked solutions; the reference is the number that a solution ends with, after `####`.

Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168.
"""

from __future__ import annotations

from collections.abc import Iterator

from lcbench.data.source import DataSet, Hub, Licence, SourceRow
from lcbench.data.values import RawRow


def examples(row: RawRow, number: int) -> Iterator[SourceRow]:
    _, mark, answer = row["answer"].rpartition("#### ")
    if not mark:
        raise ValueError("has no number after #### in its field `answer`.")
    yield SourceRow(str(number), row["question"], (answer.strip(),), meta={"solution": row["answer"]})


DATA_SETS = [
    DataSet(
        name="gsm8k",
        description="word problems",
        hub=Hub(
            "openai/gsm8k",
            ("main/train-*.parquet", "main/test-*.parquet"),
            "740312add88f781978c0658806c59bc2815b9866",
            {
                "main/train-00000-of-00001.parquet": "ea82612ea9582142387730c793eb67d3b12849002bc0b7fa6f8efafa7351419d",
                "main/test-00000-of-00001.parquet": "ee7b8da9e381df27b9e3f7758a159ab2bdaa4dbaa910546cbbc47e0cb44e4f59",
            },
        ),
        licence=Licence("MIT"),
        formats=({"question": str, "answer": str},),
        examples=examples,
        splits=("train", "test"),
    )
]

if __name__ == "__main__":
    from lcbench.__main__ import run_script

    run_script(__file__)
